#!/usr/bin/env bash
# Runs a fuzz target under libFuzzer with ASan and UBSan: tests/fuzz/run.sh TARGET [SECONDS] (600).
# Needs clang++-14 and libclang-rt-14-dev. The corpus grows in build/fuzz/corpus/TARGET; an input that
# fails is left in build/fuzz/findings/TARGET. Put a smaller form of it into tests/fuzz/findings/TARGET,
# where every later run begins with it, with the fix.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${1:?usage: tests/fuzz/run.sh TARGET [SECONDS]}
seconds=${2:-600}
deploy/build.sh fuzz "fuzz_$target"
corpus=build/fuzz/corpus/$target
findings=build/fuzz/findings/$target
mkdir -p "$corpus" "$findings"
dictionary=tests/fuzz/$target.dict
exec build/fuzz/bin/fuzz_"$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=4096 \
  -artifact_prefix="$findings/" -print_final_stats=1 $([ -f "$dictionary" ] && echo "-dict=$dictionary") \
  "$corpus" "build/fuzz/seeds/$target"
