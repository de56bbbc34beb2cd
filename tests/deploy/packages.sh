#!/usr/bin/env bash
# The packages, as somebody else would meet them: the Debian packages are installed, run, upgraded and purged in a
# clean Debian 12, the tarball is unpacked and run in a newer Debian. Minutes, as root; not part of
# tests/run.sh. First: cmake --build --preset release --target package
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/deploy/roots.sh

daemon=
clean_up() { [ -z "$daemon" ] || kill "$daemon" 2> /dev/null || true; unmount_roots; }
trap clean_up EXIT
stop() { kill "$daemon"; wait "$daemon" || fail "the daemon ended with $?"; daemon=; }
# Serves by the given command line, asks, and stops.
serve_and_ask() {  # what, user, command...
  local what=$1 user=$2 http; shift 2
  rm -f "$root/tmp/ports"
  chroot --userspec="$user" "$root" "$@" --port 0 --grpc-port 0 --ports-file /tmp/ports --cache.bytes 64MiB 2> "$roots/daemon.log" &
  daemon=$!
  for _ in $(seq 300); do [ -s "$root/tmp/ports" ] && break; sleep 0.1; done
  read -r http _ < "$root/tmp/ports" || { cat "$roots/daemon.log" >&2; fail "$what"; }
  check "$what: healthy" chroot "$root" "$sluice" health --server.http_port "$http"
  curl -sS "http://127.0.0.1:$http/v1/completions" -H 'Content-Type: application/json' \
    -d '{"prompt": "The fox", "max_tokens": 8}' > "$roots/answer"
  check "$what: answers" grep -q '"completion_tokens":8' "$roots/answer"
  stop
  ok "$what: ends with 0"
}

echo "== Debian packages in a clean Debian 12"
root_of bookworm deb
cp "$packages"/*.deb "$root/tmp/"
sluice=/usr/bin/sluice
in_root apt-get update -qq
check "install" in_root sh -c 'apt-get install -y -qq --no-install-recommends /tmp/sluice_*.deb'
check "a user of its own" in_root getent passwd sluice
check "man page" in_root sh -c 'zcat /usr/share/man/man1/sluice.1.gz | grep -q server.http_port'
check "notices" zgrep -q 'libgrpc' "$root/usr/share/doc/sluice/THIRD-PARTY-NOTICES.gz"
check "alerts, dashboard and balancers" in_root sh -c 'cd /usr/share/doc/sluice/examples && cat alerts.yml dashboard.json balancers/*.cfg'
check "completion in bash" in_root bash -c '. /usr/share/bash-completion/completions/sluice
  COMP_WORDS=(sluice serve --device cu) COMP_CWORD=3; _sluice 2>/dev/null; [ "${COMPREPLY[*]}" = cuda ]'
as_service=(/usr/bin/sluice serve --config /etc/sluice/sluice.toml)
code=0; chroot --userspec=sluice:sluice "$root" "${as_service[@]}" 2> "$roots/out" || code=$?
[ "$code" = 78 ] && [ "$(wc -l < "$roots/out")" = 1 ] || fail "without a model: exit code $code, $(cat "$roots/out")"
ok "without a model: exit code $code, '$(cat "$roots/out")'"
check "install the demo model" in_root sh -c 'dpkg -i /tmp/sluice-demo-model_*.deb'
sed -i 's|^# path = |path = |' "$root/etc/sluice/sluice.toml"
serve_and_ask "as the user sluice" sluice:sluice "${as_service[@]}"

echo "== the unit"
check "install systemd" in_root apt-get install -y -qq --no-install-recommends systemd
check "systemd-analyze verify" in_root sh -c 'out=$(systemd-analyze verify --man=no sluice.service sluice.socket sluice-grpc.socket 2>&1); echo "$out"; ! echo "$out" | grep -i sluice'
check "systemd-analyze security" in_root systemd-analyze security --offline=true --threshold=25 sluice.service
grep Overall "$roots/out"
mkdir -p "$root/etc/systemd/system/sluice.service.d"
cp "$root/usr/share/doc/sluice/examples/gpu.conf" "$root/etc/systemd/system/sluice.service.d/"
check "systemd-analyze security, for a GPU" in_root systemd-analyze security --offline=true --threshold=25 sluice.service
grep Overall "$roots/out"
rm -r "$root/etc/systemd/system/sluice.service.d"

echo "== upgrade, purge"
in_root sh -ec 'cd /tmp && dpkg-deb -R sluice_*.deb next && sed -i "s/^Version: .*/&+next/" next/DEBIAN/control &&
  dpkg-deb --root-owner-group -b next next.deb > /dev/null'
check "upgrade" in_root apt-get install -y -qq /tmp/next.deb
check "the new version is there" in_root sh -c 'dpkg-query -W -f "\${Version}" sluice | grep -q next'
check "the settings stay" grep -q '^path = ' "$root/etc/sluice/sluice.toml"
serve_and_ask "upgraded" sluice:sluice "${as_service[@]}"
check "purge" in_root apt-get purge -y -qq sluice sluice-demo-model
left=$(find "$root"/etc "$root"/usr "$root"/var/lib -ipath '*sluice*' | grep -v /var/lib/apt || true)
[ -z "$left" ] || fail "purge left $left"
in_root getent passwd sluice && fail "purge left the user"
ok "nothing is left"

echo "== tarball in ${NEWER:=trixie}"
root_of "$NEWER" tar
tar -C "$root/opt" -xzf "$packages"/sluice-*.tar.gz
tree=$(cd "$root" && echo opt/sluice-*)
sluice=/$tree/bin/sluice
echo "$(. "$root/etc/os-release"; echo "$PRETTY_NAME"), $(chroot "$root" ldd --version | head -n 1), $(du -sm "$root/$tree" | cut -f 1) MB"
check "needs nothing that is not there" in_root sh -c "! ldd $sluice | grep 'not found'"
check "brings its libraries" in_root sh -c "ldd $sluice | grep -q '$tree/.*libgrpc'"
serve_and_ask "tarball" nobody:nogroup "$sluice" serve "/$tree/share/sluice/demo-model"
echo "$passed passed"
