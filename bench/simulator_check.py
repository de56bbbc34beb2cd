#!/usr/bin/env python3
"""The simulator beside the real engine: the same arrivals, the same scheduler, predicted steps.

    bench/simulator_check.py --model DIR [--binary PATH] [--requests 100] [--loads 30,60,80]

Serves the model, finds its capacity with many clients (which also fits the daemon's cost model), and
then sends Poisson traffic at shares of that to a fresh daemon, which records it. The recording is
replayed in the simulator with the first daemon's prices: fitted on another trace. Wants a quiet machine.
Prints a Markdown table of the mean and P99 of latency per output token.
"""

import argparse
import contextlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROMPT, OUTPUT, CLIENTS = 128, 32, 32


@contextlib.contextmanager
def serving(binary, model, scratch, *flags):
    ports = scratch / "ports"
    ports.unlink(missing_ok=True)
    daemon = subprocess.Popen([binary, "serve", model, "--port=0", "--grpc-port=0", f"--ports-file={ports}",
                               "--log-level=error", *flags])
    try:
        end = time.monotonic() + 120
        while not ports.exists():
            if daemon.poll() is not None or time.monotonic() > end:
                sys.exit("the daemon does not come up")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{ports.read_text().split()[0]}"
    finally:
        daemon.terminate()
        daemon.wait()


def load(binary, url, scratch, *flags):
    out = scratch / "load.json"
    subprocess.run([binary, "bench", "serve", "--url", url, "--input-len", str(PROMPT), "--output-len",
                    str(OUTPUT), "--json", out, *map(str, flags)], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return json.loads(out.read_text())


def prices(url, scratch):
    """The daemon's cost model as a machine file for the simulator."""
    text = urllib.request.urlopen(url + "/metrics").read().decode()
    found = dict(re.findall(r'sluice_cost_model_seconds\{[^}]*term="(\w+)"[^}]*\} (\S+)', text))
    cost = {k: float(v) for k, v in found.items()}
    machine = {
        "name": "this-machine",
        "constant_ms": cost["constant"] * 1e3,
        "prefill_token_ms": cost["prefill_token"] * 1e3,
        "prefill_pair_ns": cost["prefill_pair"] * 1e9,
        "decode_row_ms": cost["decode_row"] * 1e3,
        "context_token_ns": cost["context_token"] * 1e9,
        "kv_bytes_per_token": 1024,
        "copy_gb_per_s": 10,
        "pool_tokens": 1 << 20,
        "host_tokens": 16,
    }
    path = scratch / "machine.json"
    path.write_text(json.dumps(machine))
    return path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--binary", default=ROOT / "build/release/bin/sluice")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--loads", default="30,60,80")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        with serving(args.binary, args.model, scratch) as url:
            full = load(args.binary, url, scratch, "--concurrency", CLIENTS, "--num-requests", 4 * CLIENTS)
            machine = prices(url, scratch)
        for percent in map(int, args.loads.split(",")):
            rate = full["requests_per_second"] * percent / 100
            trace = scratch / f"{percent}.jsonl"
            with serving(args.binary, args.model, scratch, f"--record={trace}") as url:
                real = load(args.binary, url, scratch, "--rate", rate, "--num-requests", args.requests,
                            "--seed", percent)
            out = scratch / "sim.json"
            subprocess.run([args.binary, "simulate", "--preset=sluice", f"--trace={trace}", f"--cost={machine}",
                            f"--json={out}"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            line = json.loads(out.read_text())["lines"][0]
            for what, key in [("mean", "mean"), ("P99", "p99")]:
                measured = real["total_ms"][key] / OUTPUT
                predicted = line["normalised_latency_s"][key] * 1e3
                rows.append([f"{percent} % ({rate:.2f}/s)", what, measured, predicted,
                             f"{(predicted / measured - 1) * 100:+.0f} %"])
    print("| load | latency per output token | engine, ms | simulator, ms | difference |\n|---|---|---:|---:|---:|")
    for load_name, what, measured, predicted, difference in rows:
        print(f"| {load_name} | {what} | {measured:.1f} | {predicted:.1f} | {difference} |")


if __name__ == "__main__":
    main()
