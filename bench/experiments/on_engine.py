#!/usr/bin/env python3
"""The claims again, on the real engine: small enough for two cores and a model of 110M.

    bench/experiments/on_engine.py --model DIR [--binary PATH] [--repeats 3] [CLAIM ...]

Every run has a fresh daemon and plays a workload of the simulator, with lengths scaled down. The variants
of a claim take turns, since the machine's speed drifts. The simulator plays the same requests on a
machine fitted to the recording of the last variant. Rewrites the tables in docs/scheduling.md, each
of which stands between `<!-- experiment on_engine CLAIM -->` and `<!-- end -->`.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

from common import ROOT, Bench, Range, code, get, table
from run_all import rewrite

sys.path.insert(0, str(ROOT / "bench"))
from simulator_check import serving

FCFS = "--scheduler.preset fastserve --scheduler.order fcfs --scheduler.proactive off"


def preset(*names):
    return {name: f"--scheduler.preset {name}" for name in names}


@dataclasses.dataclass
class Claim:
    load: str            # of `bench serve` and `simulate`
    rate: float
    requests: int
    daemon: str          # flags of every variant
    variants: dict       # flags by name; the first is what the others are compared with
    metrics: list        # of METRICS


def beside_long(out):
    """P99 of the time to the first token of those that came while the long prompt was computed."""
    long = max(out["each"], key=lambda r: r["input_tokens"])
    end = long["at_s"] + long["ttft_ms"] / 1e3
    waits = sorted(r["ttft_ms"] for r in out["each"] if r is not long and long["at_s"] <= r["at_s"] < end)
    return waits[-(len(waits) // 100) - 1]  # by nearest rank


# What it is called, what a client saw in ms, what the simulator says in seconds.
METRICS = {
    "mean": ("ms a token", "normalised_ms.mean", "normalised_latency_s.mean"),
    "p50": ("ms a token, P50", "normalised_ms.p50", "normalised_latency_s.p50"),
    "p95": ("ms a token, P95", "normalised_ms.p95", "normalised_latency_s.p95"),
    "gap": ("between tokens P99, ms", "inter_token_ms.p99", "tbt_s.p99"),
    "ttft": ("first token P50, ms", "ttft_ms.p50", "ttft_s.p50"),
    "beside": ("first token beside it P99, ms", beside_long, "beside_long.ttft_p99_s"),
}

CLAIMS = {
    "iteration_level": Claim(
        "--workload orca-u --scale 0.25", 26, 260, "--cache.bytes 300000000",
        preset("static", "orca", "sluice"), ["p50", "p95"]),
    "transient": Claim(
        "--workload sharegpt4-2k --scale 0.25", 8, 60,
        "--scheduler.max_rows 4 --cache.bytes 600000000 --cache.host_bytes 300000000",
        {"FCFS, same engine": FCFS, **preset("fastserve", "sluice")}, ["mean", "p95"]),
    "chunked_prefill": Claim(
        "--workload sharegpt4-8k --scale 0.1", 5, 100, "--cache.bytes 300000000",
        preset("vllm", "sarathi", "sluice"), ["gap", "ttft"]),
    "head_of_line": Claim(
        "--workload short-plus-long --scale 0.1 --long-len 20000", 20, 150,
        "--cache.bytes 300000000", preset("vllm", "sarathi", "sluice"), ["beside", "gap"]),
    "swap": Claim(
        "--workload sharegpt4-2k --scale 0.25", 2.5, 60,
        "--scheduler.preset fastserve --scheduler.max_rows 4 --scheduler.max_preemptions 64 "
        "--model.max_model_len 520 --cache.bytes 22500000 --cache.host_bytes 300000000 "
        "--cache.prefix_caching=false",
        {"reactive, recompute": "--scheduler.proactive off --scheduler.pressure recompute",
         "reactive, swap": "--scheduler.proactive off",
         "proactive, swap": ""}, ["mean", "p95"]),
    "prefix_cache": Claim(
        "--workload shared-prefix --prefix-tokens 341 --scale 0.5", 12, 150, "--cache.bytes 300000000",
        {"sluice, no cache": "--cache.prefix_caching=false", "sluice": ""}, ["mean", "ttft"]),
}


class Runner:
    def __init__(self, args, scratch):
        self.args, self.scratch = args, scratch
        self.simulator = Bench(args.binary)
        self.loads = []  # of the machine

    def play(self, claim, variant, seed, recording):
        """What a client sees of a fresh daemon."""
        out = self.scratch / "load.json"
        with serving(self.args.binary, self.args.model, self.scratch, *shlex.split(claim.daemon),
                     *shlex.split(claim.variants[variant]), f"--record={recording}") as url:
            command = [self.args.binary, "bench", "serve", "--url", url, *shlex.split(claim.load),
                       f"--rate={claim.rate}", f"--num-requests={claim.requests}", f"--seed={seed}",
                       f"--json={out}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.loads.append(os.getloadavg()[0])
        return json.loads(out.read_text())

    def repeat(self, name, claim, seed, values):
        recording = self.scratch / f"{name}-{seed}.jsonl"
        for variant in claim.variants:
            out = self.play(claim, variant, seed, recording)
            for metric in claim.metrics:
                _, path, _ = METRICS[metric]
                value = path(out) if callable(path) else get(out, path)
                values[variant, metric, "engine"].append(value)
            print(f"{name}, {variant}, seed {seed}: {out['seconds']:.0f} s, " + ", ".join(
                f"{m} {values[variant, m, 'engine'][-1]:.1f}" for m in claim.metrics), file=sys.stderr)
        for variant, flags in claim.variants.items():  # on the machine that the last one recorded
            [line] = self.simulator.lines(f"{claim.load} {claim.daemon} {flags} --requests {claim.requests} "
                                          f"--cost {recording}", [claim.rate], seed)
            for metric in claim.metrics:
                values[variant, metric, "simulator"].append(get(line, METRICS[metric][2]) * 1e3)

    def table(self, name, claim):
        values = {(v, m, on): [] for v in claim.variants for m in claim.metrics
                  for on in ("engine", "simulator")}
        for repeat in range(self.args.repeats):
            self.repeat(name, claim, repeat + 1, values)
        first = next(iter(claim.variants))
        header, rows = [""], [[v] for v in claim.variants]
        for metric in claim.metrics:
            header += [METRICS[metric][0], f"/ {first}", "simulated", f"/ {first}"]
            for row in rows:
                for on in ("engine", "simulator"):
                    figure = Range(values[row[0], metric, on])
                    row += [figure, figure / Range(values[first, metric, on])]
        return "\n\n".join([
            code(f"sluice serve DIR {claim.daemon}",
                 f"sluice bench serve {claim.load} --rate {claim.rate:g} --num-requests {claim.requests}"),
            table(header, rows)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--binary", default=ROOT / "build/release/bin/sluice")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--page", type=pathlib.Path, help="where the tables go [the terminal]")
    parser.add_argument("claims", nargs="*", metavar="CLAIM", default=list(CLAIMS),
                        help=", ".join(CLAIMS))
    args = parser.parse_args()
    for name in args.claims:
        with tempfile.TemporaryDirectory() as scratch:
            runner = Runner(args, pathlib.Path(scratch))
            text = runner.table(name, CLAIMS[name])
        text += f"\n\nLoad average {min(runner.loads):.1f} to {max(runner.loads):.1f}."
        if args.page:
            rewrite(args.page, f"on_engine {name}", text)
        else:
            print(text)


if __name__ == "__main__":
    main()
