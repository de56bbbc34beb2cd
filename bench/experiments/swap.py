#!/usr/bin/env python3
"""FastServe (NSDI'26): swapping ahead of need, against swapping when there is none left, and
against computing again.

The paper has 1.7 and 2.7 times. Here the pool is half of what the requests that are in at once
would take, and there are more of them than rows in a step. The prefix cache is off: with it, blocks
that were written to the host come back by copy, and computing again is a swap by another name.
"""

from common import Bench, Range, code, get, main, table

WORKLOAD = ("--workload sharegpt-2turn --cost a100-opt13b --scheduler.max_rows 16 "
            "--host-blocks 8000 --cache.prefix_caching=false")
POOL = "--pool-tokens 7200"
RATE = 1.3


def run(bench: Bench):
    common = f"--preset fastserve {WORKLOAD} --requests {bench.requests(1000)}"
    rows = []
    for name, more in [
            ("proactive, swap", "--scheduler.max_preemptions 64"),
            ("reactive, swap", "--scheduler.max_preemptions 64 --scheduler.proactive off"),
            ("proactive, recompute",
             "--scheduler.max_preemptions 64 --scheduler.pressure recompute"),
            ("reactive, recompute", "--scheduler.max_preemptions 64 --scheduler.proactive off "
                                    "--scheduler.pressure recompute"),
            ("proactive, swap, max_preemptions 4", "--scheduler.max_preemptions 4"),
            ("no pressure: 200,000 tokens",
             "--scheduler.max_seqs 1024 --pool-tokens 200000")]:
        arguments = f"{common} {more}" + ("" if "pool" in more else f" {POOL}")
        lines = bench.each(arguments, [RATE])

        def of(path, scale=1.0):
            return Range([get(line, path) * scale for line in lines])
        rows.append([name, bench.capacity(arguments, [0.7, 0.9, 1.1, RATE, 1.5, 1.8],
                                          ("normalised_latency_s.mean", 0.1)),
                     of("normalised_latency_s.mean", 1e3), of("normalised_latency_s.p99", 1e3),
                     of("ttft_s.mean"), of("preemptions"), of("copying", 100),
                     of("swap_share_of_latency", 100),
                     of("copy_share_of_latency", 100)])
    return "\n\n".join([
        code(f"sluice simulate --preset fastserve {WORKLOAD} {POOL} --scheduler.max_preemptions 64 "
             f"--requests 1000 --rates 0.9,1.1,{RATE} --scheduler.proactive off "
             "--scheduler.pressure recompute"),
        f"Requests a second at a mean of 100 ms per output token, and what happens at {RATE} a second "
        "(`max_preemptions` 64 unless it says 4):",
        table(["", "requests a second", "mean, ms a token", "P99, ms a token", "first token, s",
               "preemptions", "link busy, %", "latency spent swapped out, %",
               "waiting for copies, %"], rows)])


if __name__ == "__main__":
    main(run)
