#!/usr/bin/env python3
"""The same as transient.py with 3,000 requests, at loads that the machine can carry for ever.

A scheduler that reorders adds no capacity, so what is asked here is whether anybody pays: the 99th
percentile against first come, first served.
"""

from common import Bench, Range, code, get, main, table
from transient import FCFS, MACHINE, WORKLOADS

WORKLOAD = f"--workload {WORKLOADS[0]} {MACHINE}"
# Requests a second, by rows: what FCFS does when 8 are offered, median of three seeds.
CAPACITY = {16: 1.34, 256: 2.01}


def run(bench: Bench):
    rows = []
    for batch, capacity in CAPACITY.items():
        common = f"{WORKLOAD} --requests {bench.requests(3000)} --scheduler.max_rows {batch}"
        for share in (0.6, 0.8, 0.95):
            found = {}
            for name, variant in (("FCFS", FCFS), ("fastserve", "--preset fastserve"),
                                  ("sluice", "--preset sluice")):
                found[name] = bench.each(f"{variant} {common}", [share * capacity])

            def of(name, path, scale=1):
                return Range([get(line, path) * scale for line in found[name]])
            p99 = "normalised_latency_s.p99"
            rows.append([f"{batch}, {100 * share:.0f} %",
                         *(of(n, "normalised_latency_s.mean", 1e3) for n in found),
                         *(of(n, p99, 1e3) for n in found), of("sluice", p99) / of("FCFS", p99),
                         *(of(n, "tbt_s.max") for n in ("fastserve", "sluice"))])
    return "\n\n".join([
        code(f"sluice simulate --preset fastserve,sluice {WORKLOAD} --requests 3000 "
             "--scheduler.max_rows 16 --rates 0.80,1.07,1.27", f"sluice simulate {FCFS} ..."),
        "Latency per output token in ms, and the longest pause within an answer in seconds:",
        table(["rows, load", "FCFS mean", "fastserve mean", "sluice mean", "FCFS P99",
               "fastserve P99", "sluice P99", "sluice / FCFS P99", "fastserve pause",
               "sluice pause"], rows)])


if __name__ == "__main__":
    main(run)
