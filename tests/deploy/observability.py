#!/usr/bin/env python3
"""Debian's Prometheus beside running daemons: every panel's and alert's expression evaluates, and alerts are
made to fire by faults. Minutes; not part of tests/run.sh. From the root of the repository:

    build/venv/bin/python tests/deploy/observability.py

Durations in the alerts are shortened, thresholds are not. No fault makes SluiceLivelock fire (it means a bug):
it has promtool's test alone, which runs first.
"""

import ctypes
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("SLUICE_BINARY_UNDER_TEST", ROOT / "build/release/bin/sluice"))
TOOLS = ROOT / "build/prometheus"
WORK = pathlib.Path(tempfile.mkdtemp(prefix="sluice-observability-"))
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
BY_PROMTOOL = {"SluiceLivelock"}


def fetch_prometheus():
    if not (TOOLS / "usr/bin/promtool").exists():
        TOOLS.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", "prometheus"], cwd=TOOLS, check=True)
        subprocess.run(["dpkg", "-x", next(TOOLS.glob("prometheus_*.deb")), TOOLS], check=True)


def promtool(*arguments):
    subprocess.run([TOOLS / "usr/bin/promtool", *arguments], cwd=ROOT, check=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


ENDLESS = '{"prompt":[' + ",".join(["1"] * 3_500_000) + "]}"


class Daemon:
    def __init__(self, model, *flags, cache="8MiB"):
        self.port, self.model, self.flags = free_port(), model, [f"--cache.bytes={cache}", *flags]
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [BINARY, "serve", self.model, f"--port={self.port}", "--grpc-port=0", "--device=cpu",
             "--threads=1", "--log-level=error", *self.flags], env=ENVIRONMENT)
        for _ in range(600):
            assert self.process.poll() is None, "a daemon did not start"
            try:
                if self.get("/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise RuntimeError("a daemon did not start")

    def get(self, path):
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5)

    def keep_asking(self, clients, **fields):
        """So many clients, each with the next request as soon as it has its answer."""
        def run():
            while self.process.poll() is None and not over.is_set():
                try:
                    httpx.post(f"http://127.0.0.1:{self.port}/v1/completions", timeout=300,
                               json={"prompt": "The fox", "ignore_eos": True, **fields})
                except httpx.TransportError:
                    pass
                time.sleep(0.01)
        for _ in range(clients):
            threading.Thread(target=run, daemon=True).start()

    def thread(self, name):
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            if (task / "comm").read_text().strip() == name:
                return int(task.name)
        raise RuntimeError(f"no thread called {name}")

    def kill(self):
        self.process.kill()
        self.process.wait()


over = threading.Event()


# --- faults: each makes a daemon of its own misbehave, until the end ---

def dies(nano, _):
    daemon = Daemon(nano)
    return daemon, daemon.kill


def engine_stops(nano, _):
    """The debugger's interface stops one thread alone, as a hang in a driver would."""
    daemon = Daemon(nano)

    def fault():
        seize, interrupt = 0x4206, 0x4207
        libc = ctypes.CDLL(None, use_errno=True)
        daemon.keep_asking(6, max_tokens=4000)
        while daemon.get("/load").json()["server_load"] < 3:  # stopped at rest it would owe nobody a step
            time.sleep(0.1)
        assert libc.ptrace(seize, daemon.thread("engine"), None, None) == 0, os.strerror(ctypes.get_errno())
        assert libc.ptrace(interrupt, daemon.thread("engine"), None, None) == 0, os.strerror(ctypes.get_errno())
        over.wait()  # the tracer must live on
    return daemon, fault


def restarts(nano, _):
    daemon = Daemon(nano)

    def fault():
        for _ in range(3):
            time.sleep(4)
            daemon.kill()
            daemon.start()
    return daemon, fault


def one_seat(_, slow):
    """Work for one at a time: what waits for long is slow to its first step, and so to its first token."""
    daemon = Daemon(slow, "--scheduler.preset=vllm", "--scheduler.max_seqs=1", cache="256MiB")
    return daemon, lambda: daemon.keep_asking(24, max_tokens=48)


def short_queue(nano, _):
    daemon = Daemon(nano, "--scheduler.max_seqs=1", "--scheduler.max_queue=1")
    return daemon, lambda: daemon.keep_asking(6, max_tokens=1000)


def stutters(_, slow):
    daemon = Daemon(slow, cache="256MiB")

    def fault():
        daemon.keep_asking(1, max_tokens=1000)
        while not over.is_set():
            daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(0.7)
            daemon.process.send_signal(signal.SIGCONT)
            time.sleep(0.1)
    return daemon, fault


def out_of_memory(nano, _):
    """A limit on the process (ulimit -v) that leaves room for what is usual, and not for the 64 MiB in one piece that
    such a list becomes."""
    daemon = Daemon(nano)

    def fault():
        status = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
        limit = int(re.search(r"VmSize:\s+(\d+)", status)[1]) * 1024 + (84 << 20)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_AS, (limit, limit))
        daemon.keep_asking(1, max_tokens=8)
        while not over.is_set():
            try:
                reply = httpx.post(f"http://127.0.0.1:{daemon.port}/v1/completions", content=ENDLESS, timeout=60)
            except httpx.TransportError:
                assert over.is_set()
                return
            assert reply.status_code == 500, reply.text
            time.sleep(0.2)
    return daemon, fault


def late(nano, _):
    daemon = Daemon(nano)
    return daemon, lambda: daemon.keep_asking(4, max_tokens=4000, timeout_ms=20)


def full_cache(_, slow):
    daemon = Daemon(slow, "--model.max_model_len=512", cache="24MiB")
    return daemon, lambda: daemon.keep_asking(32, max_tokens=150)


def small_cache(nano, _):
    daemon = Daemon(nano, "--model.max_model_len=1024", "--scheduler.pressure=recompute", cache="512KiB")
    return daemon, lambda: daemon.keep_asking(12, max_tokens=900)


FAULTS = {"SluiceDown": dies, "SluiceEngineStuck": engine_stops, "SluiceRestarting": restarts,
          "SluiceRequestsFail": out_of_memory, "SluiceRefuses": short_queue,
          "SluiceQueueSlow": one_seat, "SluiceFirstTokenSlow": one_seat,
          "SluiceTokensSlow": stutters, "SluiceDeadlinesPass": late, "SluiceCacheFull": full_cache,
          "SluicePreempts": small_cache}


# --- Prometheus ---

class Prometheus:
    def __init__(self, targets):
        rules = (ROOT / "deploy/prometheus/alerts.yml").read_text()
        rules = re.sub(r"for: \d+\w", "for: 2s", rules).replace("[5m]", "[20s]")
        (WORK / "alerts.yml").write_text(rules)
        (WORK / "prometheus.yml").write_text(json.dumps({  # JSON is YAML
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(WORK / "alerts.yml")],
            "scrape_configs": [{"job_name": "sluice", "static_configs": [
                {"targets": [f"127.0.0.1:{port}" for port in targets]}]}]}))
        self.port = free_port()
        self.process = subprocess.Popen(
            [TOOLS / "usr/bin/prometheus", f"--config.file={WORK}/prometheus.yml", f"--storage.tsdb.path={WORK}/data",
             f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=error"])

    def ask(self, path, **query):
        reply = httpx.get(f"http://127.0.0.1:{self.port}/api/v1/{path}", params=query, timeout=30).json()
        assert reply["status"] == "success", (query, reply)
        return reply["data"]

    def firing(self):
        return {(a["labels"]["alertname"], a["labels"].get("instance")) for a in self.ask("alerts")["alerts"]
                if a["state"] == "firing"}


def check_expressions(prometheus):
    board = json.loads((ROOT / "deploy/grafana/sluice.json").read_text())
    empty, count = [], 0
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "20s").replace("$job", "sluice").replace(
                "$instance", ".*")
            result = prometheus.ask("query", query=expression)["result"]
            count += 1
            if not any(sample["value"][1] != "NaN" for sample in result):
                empty.append(panel["title"])
    print(f"{count} expressions of panels evaluate; without a value: {', '.join(empty) or 'none'}", flush=True)
    rules = [r for g in prometheus.ask("rules")["groups"] for r in g["rules"]]
    for rule in rules:
        assert rule["health"] == "ok", rule
    print(f"{len(rules)} alerts evaluate", flush=True)
    return [rule["name"] for rule in rules], empty


def main():
    fetch_prometheus()
    promtool("check", "rules", "deploy/prometheus/alerts.yml")
    promtool("check", "config", "deploy/prometheus/prometheus.yml")
    promtool("test", "rules", "tests/deploy/alerts_test.yml")
    nano, slow = WORK / "nano", WORK / "slow"
    for preset, model in [("nano", nano), ("llama-110m", slow)]:
        subprocess.run([BINARY, "make-model", f"--preset={preset}", "--out", model], env=ENVIRONMENT, check=True)
    daemons, faults, prometheus = [], {}, None
    try:
        well = Daemon(nano, "--cache.host_bytes=8MiB", cache="128MiB")
        daemons.append(well)
        for fault in dict.fromkeys(FAULTS.values()):
            daemon, act = fault(nano, slow)
            daemons.append(daemon)
            faults[fault] = daemon, act
        prometheus = Prometheus([d.port for d in daemons])
        well.keep_asking(2, max_tokens=32)
        time.sleep(6)
        gone = httpx.stream("POST", f"http://127.0.0.1:{well.port}/v1/completions",
                            json={"prompt": "x", "max_tokens": 4000, "n": 16, "ignore_eos": True, "stream": True})
        with gone:
            time.sleep(0.2)
        time.sleep(4)
        alerts, empty = check_expressions(prometheus)
        assert not empty, empty
        assert set(alerts) == set(FAULTS) | BY_PROMTOOL
        assert not prometheus.firing(), prometheus.firing()
        for daemon, act in faults.values():
            threading.Thread(target=act, daemon=True).start()
        wanted = {(name, f"127.0.0.1:{faults[fault][0].port}") for name, fault in FAULTS.items()}
        deadline, began, seen = time.monotonic() + 180, time.monotonic(), set()
        while wanted - seen and time.monotonic() < deadline:
            time.sleep(1)
            for alert in (prometheus.firing() & wanted) - seen:
                print(f"{alert[0]} fires after {time.monotonic() - began:.0f} s", flush=True)
                seen.add(alert)
        quiet = {a for a in prometheus.firing() if a[1] == f"127.0.0.1:{well.port}"}
        assert not quiet, f"on the replica that is well: {quiet}"
        assert wanted == seen, f"never fired: {sorted(wanted - seen)}"
        print(f"{len(seen)} alerts fired by faults, {len(BY_PROMTOOL)} by promtool's tests alone")
    finally:
        over.set()
        for daemon in daemons:
            daemon.kill()
        if prometheus:
            prometheus.process.kill()
            prometheus.process.wait()
        shutil.rmtree(WORK)


if __name__ == "__main__":
    sys.exit(main())
