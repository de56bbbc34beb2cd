#!/usr/bin/env python3
"""Two tenants, one of which sends ten times as much: what is served follows the weights.

The load is such that even the smaller tenant always has requests waiting.
"""

from common import Bench, Range, code, main, table

WORKLOAD = "--workload two-tenants --cost a100-opt13b --scheduler.max_queue 100000"


def run(bench: Bench):
    common = f"{WORKLOAD} --requests {max(1000, bench.requests(3000))}"
    rows = []
    for weights, due in (("1,1", 50), ("1,3", 75)):
        for name, variant in [("vllm", "--preset vllm"), ("sarathi", "--preset sarathi"),
                              ("fastserve", "--preset fastserve"), ("sluice", "--preset sluice"),
                              ("sluice, max_preemptions 64",
                               "--preset sluice --scheduler.max_preemptions 64")]:
            lines = bench.each(f"{variant} {common} --tenant-weights {weights}", [25])
            share = Range([100 * line["tenant_shares"][1] for line in lines])
            rows.append([f"{weights.replace(',', ':')}, {name}", due, share,
                         share.map(lambda v: v - due)])
    return "\n\n".join([
        code(f"sluice simulate --preset sarathi,sluice {WORKLOAD} --requests 3000 --rates 25 "
             "--tenant-weights 1,3"),
        "Share of the smaller tenant while both have requests waiting, in %:",
        table(["weights", "due", "served", "difference"], rows)])


if __name__ == "__main__":
    main(run)
