#!/usr/bin/env bash
# Configures and builds one preset (default: release). Targets may follow: build.sh release sluice
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
shift || true
log=build/$preset-configure.log
mkdir -p build
if [ ! -f "build/$preset/build.ninja" ]; then
  echo "configuring build/$preset"
  cmake --preset "$preset" > "$log" 2>&1 || { cat "$log" >&2; exit 1; }
fi
if command -v nvcc >/dev/null; then cuda="with CUDA parts"; else cuda="no nvcc: without CUDA parts"; fi
echo "building build/$preset ($cuda)"
cmake --build --preset "$preset" ${1:+--target "$@"}
