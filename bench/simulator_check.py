#!/usr/bin/env python3
"""The simulator beside the real engine: the same arrivals, the same scheduler, predicted steps.

    bench/simulator_check.py --model DIR [--binary PATH] [--requests 400] [--loads 30,60,80] [--repeats 3]

Finds the capacity with many clients. Then, at shares of it, a fresh daemon records two Poisson traces of
--requests each, in pieces that take turns, so that both saw the machine alike: its speed drifts by more
than the simulator may be off. The simulator's figures are fitted to the steps of the one trace and replay
the other's arrivals, both ways. Prints a Markdown table of the mean and P99 of latency per output token,
in the engine (arrival to last token, as the daemon recorded): medians over the repeats, with the lowest
and the highest ratio.
"""

import argparse
import bisect
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
        """Two recordings: the odd pieces and the even ones."""
        whole = self.scratch / f"{name}.jsonl"
        each = -(-self.args.requests // self.args.pieces)
        with serving(self.args.binary, self.args.model, self.scratch, f"--record={whole}") as url:
            self.load(url, "--concurrency", CLIENTS, "--num-requests", CLIENTS)  # a cold start is none of both
            for piece in range(2 * self.args.pieces):
                self.load(url, "--rate", rate, "--num-requests", each, "--seed", seed + piece)
        lines = [json.loads(line) for line in whole.open()]
        whole.unlink()
        arrivals = sorted(line["at"] for line in lines if "prompt" in line)[CLIENTS:]
        begins = [arrivals[i] for i in range(0, len(arrivals), each)]
        return [self.write(f"{name}-{'ab'[half]}", half, begins, lines) for half in (0, 1)]

    def write(self, name, half, begins, lines):
        mine = [line for line in lines
                if line.get("at", 0) >= begins[0] and (bisect.bisect(begins, line["at"]) - 1) % 2 == half]
        steps = sum("step" in line for line in mine)
        end = {"end": True, "requests": len(mine) - steps, "steps": steps}
        path = self.scratch / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in [lines[0], *mine, end]))
        return path

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
    parser.add_argument("--requests", type=int, default=400, help="of each trace")
    parser.add_argument("--pieces", type=int, default=8, help="of each trace")
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
                a, b = check.record(f"{percent}-{repeat}", rate, 1000 * (repeat + 1))
                for trace, fitted, which in [(a, b, "other"), (b, a, "other"), (a, a, "own"), (b, b, "own")]:
                    recorded, said = check.replay(trace, fitted)
                    for key in ("mean", "p99"):
                        row = rows.setdefault((percent, rate, key),
                                              {"engine": [], "said": [], "other": [], "own": []})
                        row[which].append(said[key] / recorded[key])
                        if which == "other":
                            row["engine"].append(recorded[key])
                            row["said"].append(said[key])
                    print(f"{percent} % repeat {repeat}, fitted to the {which}: " + ", ".join(
                        f"{k} {recorded[k]:.1f} simulated {said[k]:.1f}" for k in said), file=sys.stderr)
        if args.keep:
            shutil.copytree(name, args.keep, dirs_exist_ok=True)
    print("| load | latency per output token | engine, ms | simulator, ms | fitted to the other trace "
          "| fitted to the same |\n|---|---|---:|---:|---:|---:|")
    for (percent, rate, key), row in rows.items():
        print(f"| {percent} % ({rate:.2f}/s) | {key} | {statistics.median(row['engine']):.1f} | "
              f"{statistics.median(row['said']):.1f} | {spread(row['other'])} | {spread(row['own'])} |")


if __name__ == "__main__":
    main()
