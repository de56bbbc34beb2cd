#!/usr/bin/env python3
"""Sluice beside llama.cpp on weights of one shape, in one run: prefill, decode and served load.

    bench/side_by_side.py --model DIR --peer BIN_DIR --gguf FILE [--rounds 5] [--threads 2]

BIN_DIR holds llama-bench and llama-server, built outside this repository (Release, native); DIR and FILE
hold the same architecture and element type. Within a round the two take turns, and who goes first
alternates, so that a noisy machine disturbs both alike. Prints a Markdown table: medians over the rounds,
and the median and range of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

PROMPT, CONTEXT, OUTPUT = 512, 128, 64   # tokens
REQUESTS_PER_CLIENT = 6                  # so that the start and the end of a run weigh little
READY_S = 120


def output(*command: object) -> str:
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def serving(command: list[object], port: int, ready: str) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + READY_S
        while True:
            try:
                urllib.request.urlopen(url + ready, timeout=1)
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"not ready: {command[0]}") from None
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Sluice:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def bench(self, phase: str, **lists: int) -> float:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            options = [o for name, value in lists.items() for o in (f"--{name}", value)]
            output(self.args.sluice, "bench", "model", self.args.model, "--threads", self.args.threads, "--json", file.name, *options)
            lines = json.loads(Path(file.name).read_text())["lines"]
        return next(line["tokens_per_second"] for line in lines if line["phase"] == phase)

    def prefill(self) -> float:
        return self.bench("prefill", prompts=PROMPT, batches=1, contexts=CONTEXT)

    def decode(self) -> float:
        return self.bench("decode", prompts=1, batches=1, contexts=CONTEXT)

    def serve(self, clients: int) -> contextlib.AbstractContextManager[str]:
        port = free_port()
        command = [self.args.sluice, "serve", self.args.model, "--port", port, "--grpc-port", 0, "--threads", self.args.threads,
                   "--cache.bytes", 1 << 30]
        return serving(command, port, "/health/ready")


class Peer:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def bench(self, *options: object) -> float:
        text = output(self.args.peer / "llama-bench", "-m", self.args.gguf, "-t", self.args.threads, "-r", 5, "-o", "json", *options)
        return statistics.median(json.loads(text)[0]["samples_ts"])

    def prefill(self) -> float:
        return self.bench("-p", PROMPT, "-n", 0)

    def decode(self) -> float:   # CONTEXT in the mean
        return self.bench("-p", 0, "-n", OUTPUT, "-d", CONTEXT - OUTPUT // 2)

    def serve(self, clients: int) -> contextlib.AbstractContextManager[str]:
        port = free_port()
        command = [self.args.peer / "llama-server", "-m", self.args.gguf, "--host", "127.0.0.1", "--port", port, "-t", self.args.threads,
                   "--parallel", clients, "-c", clients * 512]
        return serving(command, port, "/health")


def load(args: argparse.Namespace, server: contextlib.AbstractContextManager[str], clients: int) -> dict[str, float]:
    with server as url, tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [args.sluice, "bench", "serve", "--url", url, "--concurrency", clients, "--num-requests", clients * REQUESTS_PER_CLIENT,
                   "--input-len", CONTEXT, "--output-len", OUTPUT, "--json", file.name]
        # Failed requests are part of the result: random weights make text that not every server bears.
        subprocess.run([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        result = json.loads(Path(file.name).read_text())
    return {"output tok/s": result["output_tokens_per_second"], "TTFT p50 ms": result["ttft_ms"]["p50"],
            "inter-token p99 ms": result["inter_token_ms"]["p99"], "failed requests": result["failed"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--sluice", type=Path, default=Path("build/release/bin/sluice"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clients", type=int, nargs="*", default=[8, 32])
    args = parser.parse_args()

    ours, theirs = Sluice(args), Peer(args)
    measures: dict[str, Callable[[Sluice | Peer], dict[str, float]]] = {
        f"prefill {PROMPT}": lambda side: {"tok/s": side.prefill()},
        f"decode, 1 sequence, context {CONTEXT}": lambda side: {"tok/s": side.decode()},
        **{f"served, {n} clients": lambda side, n=n: load(args, side.serve(n), n) for n in args.clients}}
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for turn in range(args.rounds):
        for name, measure in measures.items():
            order = [ours, theirs] if turn % 2 == 0 else [theirs, ours]
            got = {side: measure(side) for side in order}
            for unit, value in got[ours].items():
                figures.setdefault((name, unit), []).append((value, got[theirs][unit]))
                print(f"round {turn + 1}: {name}, {unit}: {value:.1f} and {got[theirs][unit]:.1f}", flush=True)

    print("\n| | Sluice | llama.cpp | ratio (range) |\n|---|---|---|---|")
    for (name, unit), pairs in figures.items():
        a, b = (statistics.median(side) for side in zip(*pairs))
        ratios = [x / y for x, y in pairs if y]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) == len(pairs) else ""
        print(f"| {name}: {unit} | {a:.1f} | {b:.1f} | {ratio} |")


if __name__ == "__main__":
    main()
