#!/usr/bin/env bash
# Runs a fuzz target under libFuzzer with ASan and UBSan: tests/fuzz/run.sh TARGET [SECONDS] (600).
# TARGET is jinja, safetensors, config, tokenizer, sentencepiece, request, http, grpc, or all, one after the other.
# Needs clang++-14 and libclang-rt-14-dev. The corpus grows in build/fuzz/corpus/TARGET; an input that
# fails is left in build/fuzz/findings/TARGET. Put a smaller form of it into tests/fuzz/findings/TARGET,
# where every later run begins with it, with the fix.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${1:?usage: tests/fuzz/run.sh TARGET|all [SECONDS]}
seconds=${2:-600}
case "$target" in
  all)
    for each in jinja safetensors config tokenizer sentencepiece request http grpc; do "$0" "$each" "$seconds"; done
    exit ;;
  safetensors) words=(engine/safetensors.cc) ;;
  config) words=(engine/model_config.cc engine/quantization.cc engine/models/*.cc) ;;
  tokenizer) words=(text/tokenizer*.cc) ;;
  sentencepiece) words=(text/sentencepiece.cc text/tokenizer_json.cc) ;;
  request) words=(server/openai_*.cc) ;;
  http) words=(server/http_*.cc) ;;
  *) words=() ;;
esac
deploy/build.sh fuzz "fuzz_$target"
corpus=build/fuzz/corpus/$target
findings=build/fuzz/findings/$target
mkdir -p "$corpus" "$findings"
# Keys, names and values that the code compares with: a random edit would not come upon them.
dictionary=tests/fuzz/$target.dict
if [ ! -f "$dictionary" ]; then
  dictionary=build/fuzz/$target.dict
  grep -ohE '"[A-Za-z0-9_.<> -]{2,40}"' /dev/null "${words[@]}" | sort -u > "$dictionary" || true
fi
exec build/fuzz/bin/fuzz_"$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=8192 \
  -artifact_prefix="$findings/" -print_final_stats=1 -dict="$dictionary" "$corpus" "build/fuzz/seeds/$target"
