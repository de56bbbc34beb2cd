#!/usr/bin/env bash
# Everything that needs a GPU, in one script of at most ten minutes: kernels and the engine against the
# CPU, under sanitizers, then speed, beside PyTorch where there is one. Prints a table last; run.json in
# the folder of --out has everything. 0 when nothing failed; 77 where there is no GPU.
#
#   tests/gpu/run.sh [--bin DIR] [--out DIR] [--phases a,b,..] [--budget SECONDS] [--emulated]
#
# --bin: a folder made by tests/gpu/pack.sh, or of binaries; without it build/release/bin is used, and built where it is
# missing. --emulated: a GPU's emulator and tiny sizes, to try the script itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
case " $* " in
  *" --bin "*) ;;
  *) [ -x build/release/bin/gpu_probe ] || { deploy/install.sh && deploy/build.sh release; } >&2 ;;
esac
exec python3 tests/gpu/run.py "$@"
