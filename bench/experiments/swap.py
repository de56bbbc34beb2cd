#!/usr/bin/env python3
"""FastServe (NSDI'26): swapping ahead of need, against swapping when there is none left, and
against computing again.

The paper has 1.7 and 2.7 times. Here the pool is half of what the requests that are in at once
would take, and half of the residents get a row in a step.
"""

from common import Bench, Range, code, get, main, table

WORKLOAD = ("--workload sharegpt-2turn --cost a100-opt13b --scheduler.max_rows 16 "
            "--pool-tokens 7200 --host-blocks 8000")


def run(bench: Bench):
    common = f"{WORKLOAD} --requests {bench.requests(1000)}"
    rows = []
    for most in (4, 64):
        for name, variant in [("proactive, swap", "on --scheduler.pressure swap"),
                              ("proactive, recompute", "on --scheduler.pressure recompute"),
                              ("reactive, swap", "off --scheduler.pressure swap"),
                              ("reactive, recompute", "off --scheduler.pressure recompute")]:
            arguments = (f"--preset fastserve {common} --scheduler.max_preemptions {most} "
                         f"--scheduler.proactive {variant}")
            lines = bench.each(arguments, [1.15])

            def of(path, scale=1.0):
                return Range([get(line, path) * scale for line in lines])
            rows.append([f"{name}, max_preemptions {most}",
                         bench.capacity(arguments, [0.8, 1, 1.15, 1.3, 1.5],
                                        ("normalised_latency_s.mean", 0.1)),
                         of("normalised_latency_s.mean", 1e3), of("normalised_latency_s.p99", 1e3),
                         of("ttft_s.mean"), of("preemptions"), of("copying", 100),
                         of("swap_share_of_latency", 100)])
    return "\n\n".join([
        code(f"sluice simulate --preset fastserve {WORKLOAD} --requests 1000 --rates 0.9,1,1.1,1.2 "
             "--scheduler.proactive off --scheduler.pressure recompute"),
        "Requests a second at a mean of 100 ms per output token, and what happens at 1.15 a second:",
        table(["", "requests a second", "mean, ms a token", "P99, ms a token", "first token, s",
               "preemptions", "link busy, %", "latency spent swapped out, %"], rows)])


if __name__ == "__main__":
    main(run)
