#!/usr/bin/env bash
# The service under a systemd that runs: the Debian packages are installed in a clean Debian 12 that boots in a
# container. It is ready when it says so, reloads, is brought back when it dies or hangs, stays down when it
# cannot be served, drains, and restarts behind systemd's sockets while clients wait. Minutes, as root;
# not part of tests/run.sh. First: cmake --build --preset release --target package
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/deploy/roots.sh
need systemd-nspawn systemd-container

container=
clean_up() {
  [ -z "$container" ] || { kill -RTMIN+4 "$init" 2> /dev/null; wait "$container"; } || true
  unmount_roots
}
trap clean_up EXIT

echo "== Debian 12 with systemd, and the packages"
root_of bookworm systemd
cp "$packages"/*.deb "$root/tmp/"
in_root apt-get update -qq
check "install" in_root sh -c 'apt-get install -y -qq --no-install-recommends systemd-sysv dbus curl /tmp/*.deb'
sed -i 's|^# path = |path = |' "$root/etc/sluice/sluice.toml"
unmount_roots

echo "== boot"
# The tests' own host may have no systemd and cgroups of the first kind: the container needs neither.
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit --boot --console=pipe \
  --directory="$root" < /dev/null > "$roots/boot.log" 2>&1 &
container=$!
for _ in $(seq 100); do init=$(pgrep -P "$container" || true); [ -n "$init" ] && break; sleep 0.1; done
inside() { nsenter --target "$init" --all env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"; }
# Until a command inside says so, for a minute at most.
await() {  # what, command...
  local what=$1; shift
  for _ in $(seq 300); do inside "$@" > "$roots/out" 2>&1 && { ok "$what"; return; }; sleep 0.2; done
  inside journalctl --no-pager -n 30 >&2 || true
  fail "$what"
}
show() { inside systemctl show sluice --value -p "$1"; }
ask() { inside curl -sS --fail-with-body -m 60 http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d "$1"; }
await "the system runs" sh -c 'systemctl is-system-running | grep -E "running|degraded"'

echo "== start, reload, stop"
check "start returns when it is ready" inside systemctl start sluice
check "healthy at once" inside sluice health
check "answers" ask '{"prompt": "The fox", "max_tokens": 8}'
[ "$(show StatusText)" != "" ] && ok "says how it is: $(show StatusText)" || fail "no status"
inside sh -c 'printf "\n[log]\nlevel = \"debug\"\n" >> /etc/sluice/sluice.toml'
check "reload" inside systemctl reload sluice
await "reload says what changed" sh -c 'journalctl -u sluice --no-pager | grep "log.level.*debug"'
pid=$(show MainPID)
ask '{"prompt": "The fox", "max_tokens": 1900, "n": 4, "temperature": 0, "ignore_eos": true}' > "$roots/answer" &
asking=$!
await "a long answer is under way" sh -c 'curl -s http://127.0.0.1:8000/metrics | grep -E "^sluice_requests_running\{?[^ ]* [1-9]"'
check "stop" inside systemctl stop sluice
wait "$asking" && grep -q '"completion_tokens":7600' "$roots/answer" && ok "what ran has ended well" || fail "a request was lost: $(head -c 300 "$roots/answer")"
[ "$(show Result)/$(show ExecMainStatus)" = success/0 ] && ok "stopped with 0" || fail "stopped with $(show Result)/$(show ExecMainStatus)"

echo "== it dies, it hangs"
inside systemctl start sluice
pid=$(show MainPID)
inside sh -c "kill -SEGV $pid"
await "killed: it comes back" sluice health
[ "$(show NRestarts)/$(show MainPID)" = "1/$pid" ] && fail "the same process" || ok "as another process"
inside sh -c 'mkdir -p /run/systemd/system/sluice.service.d; printf "[Service]\nWatchdogSec=3\n" > /run/systemd/system/sluice.service.d/quick.conf; systemctl daemon-reload; systemctl restart sluice'
sleep 7
[ "$(show NRestarts)" = 0 ] && ok "idle for two watchdogs' time: nothing happens" || fail "restarted while idle"
inside sh -c "kill -STOP $(show MainPID)"
await "stopped still: the watchdog brings it back" sh -c '[ "$(systemctl show sluice --value -p NRestarts)" -ge 1 ] && sluice health'
check "for that reason" inside sh -c 'journalctl -u sluice --no-pager | grep "Watchdog timeout"'

echo "== wrong settings"
inside systemctl stop sluice
inside sed -i 's|^path = .*|path = "/nowhere"|' /etc/sluice/sluice.toml
inside systemctl start sluice > "$roots/out" 2>&1 && fail "it started without a model"
sleep 5
[ "$(show ActiveState)/$(show ExecMainStatus)/$(show NRestarts)" = failed/78/0 ] && ok "exit code 78, and it stays down" || fail "$(show ActiveState)/$(show ExecMainStatus)/$(show NRestarts)"
inside sed -i 's|^path = .*|path = "/usr/share/sluice/demo-model"|' /etc/sluice/sluice.toml

echo "== systemd's sockets"
check "sockets" inside systemctl start sluice.socket sluice-grpc.socket
check "the first request starts the service" ask '{"prompt": "The fox", "max_tokens": 8}'
cat > "$root/srv/clients" <<'CLIENTS'
while [ ! -e /run/over ]; do  # a connection from just before the drain is answered 503: try again, as clients do
  curl -sS --retry 5 --fail-with-body -m 60 http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \
    -d '{"prompt": "The fox", "max_tokens": 8}' > /dev/null 2>> /srv/failed && echo >> /srv/served
done
CLIENTS
clients=()
for _ in 1 2 3; do inside sh /srv/clients & clients+=($!); done
await "clients are served" sh -c '[ "$(wc -l < /srv/served)" -ge 20 ]'
for _ in 1 2 3; do
  before=$(wc -l < "$root/srv/served")
  inside systemctl restart sluice
  await "served after a restart" sh -c "[ \$(wc -l < /srv/served) -ge $((before + 20)) ]"
done
inside touch /run/over
wait "${clients[@]}"
[ ! -s "$root/srv/failed" ] && ok "three restarts, $(wc -l < "$root/srv/served") requests, none failed that tried again" || fail "$(head -n 3 "$root/srv/failed")"
echo "$passed passed"
