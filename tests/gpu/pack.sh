#!/usr/bin/env bash
# Puts what tests/gpu/run.sh runs into one archive, with the libraries that a bare machine lacks, so that
# it can be carried to a machine with a GPU: tests/gpu/pack.sh [DIR], build/gpu where none is named. What
# is in there starts through run.sh --bin DIR, which unpacks it and tells the loader where to look.
set -euo pipefail
cd "$(dirname "$0")/../.."
to=${1:-build/gpu}
bin=build/release/bin
files=("$bin/sluice" "$bin/libsluice_cuda.so" "$bin/gpu_probe" "$bin/gpu_kernels_test" "$bin/gpu_engine_test")
for file in "${files[@]}"; do
  [ -f "$file" ] || { echo "pack.sh: $file is missing: build everything first, with nvcc" >&2; exit 1; }
done
content=$(mktemp -d)
trap 'rm -rf "$content"' EXIT
mkdir "$content/lib"
for file in "${files[@]}"; do
  strip -o "$content/$(basename "$file")" "$file"
  chmod +x "$content/$(basename "$file")"
done
# Not the C library and what belongs to the compiler: every machine has its own, and newer ones fit.
ldd "${files[@]}" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|libpthread|librt|libgcc_s|libstdc\+\+|ld-linux[^/]*)\.so' |
  xargs cp -Lt "$content/lib"
rm -rf "$to" && mkdir -p "$to"
tar -czf "$to/pack.tar.gz" -C "$content" .
du -sh "$to"
