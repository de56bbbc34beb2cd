#!/usr/bin/env bash
# Builds the images from their Dockerfiles with buildah and runs them: size, time to start, health, an answer, a
# read-only root. tests/deploy/images.sh [cpu|cuda]. Many minutes, as root; not part of tests/run.sh.
# BASE names another image than the Dockerfile's for a machine that reaches no registry; it is made by
# debootstrap if it is `localhost/base`, and NVIDIA's three are then replaced by it and the toolkit in
# CUDA_HOME (/usr/local/cuda). CCACHE=DIR lends the build a compiler cache, SOURCE says where the sources lay
# that filled it.
set -euo pipefail
cd "$(dirname "$0")/../.."
kind=${1:-cpu}
store=$PWD/build/images
mkdir -p "$store"
command -v buildah > /dev/null || apt-get install -y -qq --no-install-recommends buildah crun
# Works inside of a container, too.
export BUILDAH_ISOLATION=chroot
b() { buildah --storage-driver vfs --root "$store/root" --runroot "$store/run" "$@"; }
say() { echo "$(date -u +%T) $*"; }

arguments=()
if [ -n "${BASE:-}" ]; then
  arguments+=(--pull-never --build-arg "BASE=$BASE")
  if [ "$BASE" = localhost/base ] && ! b inspect --type image "$BASE" > /dev/null 2>&1; then
    command -v debootstrap > /dev/null || apt-get install -y -qq --no-install-recommends debootstrap
    say "making $BASE"
    rm -rf "$store/bookworm"
    debootstrap --variant=minbase bookworm "$store/bookworm" > "$store/debootstrap.log"
    # As Debian's slim images: no documentation but licences, no lists, no archives.
    find "$store/bookworm"/usr/share/{doc,man,locale,info} "$store/bookworm"/var/{cache,lib}/apt -type f ! -name copyright -delete
    c=$(b from scratch) && m=$(b mount "$c")
    cp -a "$store/bookworm/." "$m/"
    cp /etc/apt/sources.list.d/debian.sources "$m/etc/apt/sources.list.d/" && rm -f "$m/etc/apt/sources.list"
    b umount "$c" > /dev/null && b commit -q --rm "$c" "$BASE" > /dev/null
  fi
  if [ "$BASE" = localhost/base ] && [ "$kind" = cuda ]; then
    toolkit=${CUDA_HOME:-/usr/local/cuda}
    if ! b inspect --type image localhost/toolkit > /dev/null 2>&1; then
      say "making localhost/toolkit of $toolkit"
      c=$(b from --pull-never "$BASE") && m=$(b mount "$c")
      mkdir -p "$m/usr/local/cuda/lib64"
      cp -a "$toolkit"/{bin,include,nvvm} "$m/usr/local/cuda/"
      cp -a "$toolkit"/lib64/lib{cudart,cudadevrt,cublasLt}* "$m/usr/local/cuda/lib64/"
      b umount "$c" > /dev/null && b commit -q --rm "$c" localhost/toolkit > /dev/null
    fi
    arguments+=(--build-arg CUDA_DEVEL=localhost/toolkit --build-arg CUDA_RUNTIME=localhost/toolkit --build-arg CUDA_BASE="$BASE")
  fi
fi
if [ -n "${CCACHE:-}" ]; then arguments+=(-v "$CCACHE:/ccache"); fi
if [ -n "${SOURCE:-}" ]; then arguments+=(--build-arg "SOURCE=$SOURCE"); fi

say "building sluice:$kind"
nice -n 10 buildah --storage-driver vfs --root "$store/root" --runroot "$store/run" bud --layers --format docker \
  -f "deploy/images/$kind.Dockerfile" -t "sluice:$kind" "${arguments[@]}" . > "$store/build.log" 2>&1 ||
  { tail -n 40 "$store/build.log" >&2; exit 1; }
c=$(b from --pull-never "localhost/sluice:$kind")
m=$(b mount "$c")
daemon=
clean_up() {
  [ -z "$daemon" ] || kill "$daemon" 2> /dev/null || true
  for mount in "$m/proc" "$m"; do umount "$mount" 2> /dev/null || true; done
  b rm "$c" > /dev/null
}
trap clean_up EXIT
say "size: $(du -sm --exclude=proc "$m" | cut -f 1) MB, of it /usr/local $(du -sm "$m/usr/local" | cut -f 1) MB"
b inspect --type image --format \
  'user {{.OCIv1.Config.User}}, entry point {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}, health {{.Docker.Config.Healthcheck.Test}}{{println}}' \
  "localhost/sluice:$kind"

# What a container runtime would do with the image, by hand: a read-only root, its user, its environment,
# its command. (No runtime runs inside of every sandbox.)
mount --bind "$m" "$m" && mount -t proc proc "$m/proc" && mount -o remount,ro,bind "$m"
mapfile -t environment < <(b inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "localhost/sluice:$kind" | grep .)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
in_image=(chroot --userspec=10001:10001 "$m" env -i "${environment[@]}" SLUICE_SERVER_HTTP_PORT="$port" SLUICE_SERVER_GRPC_PORT=0)
began=$(date +%s%N)
"${in_image[@]}" sluice serve 2> "$store/daemon.log" &
daemon=$!
until "${in_image[@]}" sluice health 2> /dev/null; do
  kill -0 "$daemon" 2> /dev/null || { cat "$store/daemon.log" >&2; exit 1; }
  sleep 0.05
done
say "healthy $((($(date +%s%N) - began) / 1000000)) ms after its start"
curl -sS "http://127.0.0.1:$port/v1/chat/completions" -H 'Content-Type: application/json' \
  -d '{"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 24}' | tee "$store/answer"
echo
grep -q '"finish_reason"' "$store/answer"
if "${in_image[@]}" sh -c 'echo > /tmp/x' 2> /dev/null; then echo "the root can be written to" >&2; exit 1; fi
kill "$daemon"; wait "$daemon"; daemon=
[ -s "$m/usr/local/share/doc/sluice/THIRD-PARTY-NOTICES.gz" ]
say "ended with 0 on SIGTERM; root read-only, notices there"
