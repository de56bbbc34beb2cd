#!/usr/bin/env python3
"""The simulator beside the real engine: the same arrivals, the same scheduler, predicted steps.

    bench/simulator_check.py --model DIR [--binary PATH] [--requests 100] [--loads 30,60,80] [--repeats 3]

Finds the capacity with many clients. Then, at shares of it, two fresh daemons record Poisson traffic of
two seeds, back to back, since the machine's speed drifts. The simulator's figures are fitted to the
steps of the one and replay the other's arrivals. Wants a quiet machine. Prints a Markdown table of the
mean and P99 of latency per output token, in the engine (arrival to last token, as the daemon recorded)
and at the client: medians over the repeats, with the lowest and the highest ratio.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLIENTS = 32
NOISES = 5  # seeds of the simulator's noise; their median is what it says


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


class Check:
    def __init__(self, args, scratch):
        self.args, self.scratch = args, scratch

    def load(self, url, *flags):
        out = self.scratch / "load.json"
        subprocess.run([self.args.binary, "bench", "serve", "--url", url, "--warmup=0",
                        "--input-len", str(self.args.input_len), "--output-len", str(self.args.output_len),
                        "--json", out, *map(str, flags)],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.loads(out.read_text())

    def capacity(self):
        with serving(self.args.binary, self.args.model, self.scratch) as url:
            full = self.load(url, "--concurrency", CLIENTS, "--num-requests", 3 * CLIENTS)
        return full["requests_per_second"]

    def record(self, name, rate, seed):
        """The recording, and what clients saw: latency per output token in ms."""
        path = self.scratch / f"{name}.jsonl"
        with serving(self.args.binary, self.args.model, self.scratch, f"--record={path}") as url:
            seen = self.load(url, "--rate", rate, "--num-requests", self.args.requests, "--seed", seed)
        return path, {k: seen["total_ms"][k] / self.args.output_len for k in ("mean", "p99")}

    def simulate(self, trace, cost, seed=1):
        out = self.scratch / "sim.json"
        subprocess.run([self.args.binary, "simulate", "--preset=sluice", f"--trace={trace}", f"--cost={cost}",
                        f"--json={out}", f"--seed={seed}"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.loads(out.read_text())

    def replay(self, trace, cost):
        """Latency per output token in ms: what the daemon recorded, and what the simulator says."""
        runs = [self.simulate(trace, cost, seed) for seed in range(NOISES)]
        recorded = runs[0]["recorded"]["normalised_latency_s"]
        said = [run["lines"][0]["normalised_latency_s"] for run in runs]
        return ({k: recorded[k] * 1e3 for k in ("mean", "p99")},
                {k: statistics.median(s[k] for s in said) * 1e3 for k in ("mean", "p99")})


def spread(ratios):
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--binary", default=ROOT / "build/release/bin/sluice")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=32)
    parser.add_argument("--loads", default="30,60,80")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", help="folder that gets the recordings")
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        check = Check(args, pathlib.Path(name))
        full = check.capacity()
        print(f"capacity {full:.2f}/s, load average {os.getloadavg()[0]:.1f}", file=sys.stderr)
        for repeat in range(args.repeats):
            for percent in map(int, args.loads.split(",")):
                rate = full * percent / 100
                one = check.record(f"{percent}-{repeat}-a", rate, 1000 + 2 * repeat)
                two = check.record(f"{percent}-{repeat}-b", rate, 1001 + 2 * repeat)
                for fitted, (trace, client), which in [(one[0], two, "other"), (two[0], one, "other"),
                                                       (one[0], one, "own"), (two[0], two, "own")]:
                    recorded, said = check.replay(trace, fitted)
                    for key in ("mean", "p99"):
                        row = rows.setdefault((percent, rate, key), {"engine": [], "said": [], "client": [],
                                                                     "other": [], "own": []})
                        row[which].append(said[key] / recorded[key])
                        if which == "other":
                            row["engine"].append(recorded[key])
                            row["said"].append(said[key])
                            row["client"].append(said[key] / client[key])
                    print(f"{percent} % repeat {repeat}, fitted to the {which}: " + ", ".join(
                        f"{k} {recorded[k]:.1f} simulated {said[k]:.1f} client {client[k]:.1f}"
                        for k in said), file=sys.stderr)
        if args.keep:
            shutil.copytree(name, args.keep, dirs_exist_ok=True)
    print("| load | latency per output token | engine, ms | simulator, ms | simulator / engine "
          "| simulator / client | fitted to the same run |\n|---|---|---:|---:|---:|---:|---:|")
    for (percent, rate, key), row in rows.items():
        print(f"| {percent} % ({rate:.2f}/s) | {key} | {statistics.median(row['engine']):.1f} | "
              f"{statistics.median(row['said']):.1f} | {spread(row['other'])} | {spread(row['client'])} | "
              f"{spread(row['own'])} |")


if __name__ == "__main__":
    main()
