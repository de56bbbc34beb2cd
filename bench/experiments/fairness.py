#!/usr/bin/env python3
"""Two tenants, one of which sends ten times as much: what is served follows the weights.

The load is such that even the smaller tenant has requests waiting nearly always. The window must be
long beside the minutes for which a feedback queue may leave a request aside.
"""

from common import Bench, Range, code, main, table

WORKLOAD = "--workload two-tenants --cost a100-opt13b --scheduler.max_queue 100000"


def run(bench: Bench):
    common = f"{WORKLOAD} --requests {max(450, bench.requests(24000))}"
    rows = []
    for weights, due in (("1,1", 50), ("1,3", 75)):
        for name, variant in [("sarathi", "--preset sarathi"), ("sluice", "--preset sluice"),
                              ("sluice, not proactive",
                               "--preset sluice --scheduler.proactive off"),
                              ("sluice, swaps all",
                               "--preset sluice --scheduler.pressure swap --host-blocks 400000")]:
            lines = bench.each(f"{variant} {common} --tenant-weights {weights}", [25])
            share = Range([100 * line["tenant_shares"][1] for line in lines])
            rows.append([f"{weights.replace(',', ':')}, {name}", due, share,
                         share.map(lambda v: v - due)])
    return "\n\n".join([
        code(f"sluice simulate --preset sarathi,sluice {WORKLOAD} --requests 24000 --rates 25 "
             "--tenant-weights 1,3"),
        "Share of the smaller tenant in the tokens computed while both have requests waiting, in %:",
        table(["weights", "due", "computed", "difference"], rows)])


if __name__ == "__main__":
    main(run)
