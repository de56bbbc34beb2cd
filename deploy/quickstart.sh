#!/usr/bin/env bash
# From a fresh clone to a streamed answer: installs what is missing, builds, serves the demo model,
# asks it something over HTTP and over gRPC. Then serves until Ctrl-C; with --once, stops and exits 0.
# A model directory may be given instead of the demo model.
set -euo pipefail
cd "$(dirname "$0")/.."

once=false
model=deploy/demo-model
for argument in "$@"; do
  case $argument in
    --once) once=true ;;
    -*) echo "usage: deploy/quickstart.sh [--once] [MODEL_DIR]" >&2; exit 2 ;;
    *) model=$argument ;;
  esac
done

echo "== 1. packages"
deploy/install.sh

echo "== 2. build"
deploy/build.sh release sluice

echo "== 3. serve $model"
log=build/quickstart.log
ports=build/quickstart.ports
rm -f "$ports"
# Port 0: any free ones, so that nothing that already runs here is in the way.
build/release/bin/sluice serve "$model" --port "${PORT:-0}" --grpc-port "${GRPC_PORT:-0}" \
  --ports-file "$ports" > "$log" 2>&1 &
daemon=$!
stop() { kill -TERM "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null || true; }
trap stop EXIT
for _ in $(seq 600); do
  [ -s "$ports" ] && break
  kill -0 "$daemon" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.1
done
[ -s "$ports" ] || { echo "the daemon was not ready within a minute" >&2; cat "$log" >&2; exit 1; }
read -r http grpc < "$ports"
echo "ready: HTTP on 127.0.0.1:$http, gRPC on 127.0.0.1:$grpc (log: $log)"

question="Tell me a short story about a fox."
body='{"messages":[{"role":"user","content":"'$question'"}],"stream":true,"max_tokens":220,"temperature":0.7,"seed":7}'

echo "== 4. over HTTP (server-sent events): $question"
# Each event is one line of JSON; show its text as it comes.
curl -sSN "http://127.0.0.1:$http/v1/chat/completions" -H 'Content-Type: application/json' -d "$body" |
  python3 -u -c '
import json, sys
for line in sys.stdin:
    if line.startswith("data: {"):
        event = json.loads(line[6:])
        if "error" in event: sys.exit(event["error"]["message"])
        for choice in event["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
print()'

echo "== 5. over gRPC (sluice.v1.Inference/Chat): $question"
build/release/bin/sluice chat --address "127.0.0.1:$grpc" --max-tokens 220 --seed 7 --temperature 0.7 "$question"

if $once; then
  echo "== done"
  exit 0
fi
cat <<TEXT

Serving until Ctrl-C. Try:
  curl http://127.0.0.1:$http/v1/models
  build/release/bin/sluice chat --address 127.0.0.1:$grpc "What is two plus three?"
TEXT
wait "$daemon"
