#!/usr/bin/env python3
"""One prompt of 32,768 tokens must not hold up the short ones that come while it is computed.

Their 99th percentile of the time to the first token, against that of a run without the long prompt.
"""

from common import Bench, code, main, table

WORKLOAD = "--workload short-plus-long"
RATE = 18  # 60 % of what is done when more is offered


def run(bench: Bench):
    common = f"{WORKLOAD} --requests {max(800, bench.requests(2000))}"
    whole = "--scheduler.max_step_tokens 33792"
    variants = [("vllm", f"--preset vllm {whole}"), ("orca", f"--preset orca {whole}"),
                ("sarathi", "--preset sarathi"), ("sluice", "--preset sluice"),
                *((f"sluice, 2048 tokens a step, factor {factor}",
                   f"--preset sluice --scheduler.max_step_tokens 2048 "
                   f"--scheduler.interval_factor {factor}") for factor in (2, 3, 5))]
    rows = []
    for name, variant in variants:
        def value(path, more=""):
            return bench.value(f"{variant} {common} {more}", path, [RATE])
        alone = value("ttft_s.p99", "--long-len 0").map(lambda v: v * 1e3)
        beside = value("beside_long.ttft_p99_s").map(lambda v: v * 1e3)
        rows.append([name, alone, beside, beside / alone, value("long_ttft_s"),
                     value("tbt_s.p99").map(lambda v: v * 1e3)])
    return "\n\n".join([
        code(f"sluice simulate --preset sarathi,sluice {WORKLOAD} --requests 2000 --rates {RATE}",
             f"sluice simulate --preset vllm,orca {WORKLOAD} {whole} ..."),
        table(["", "without the long one: P99, ms", "beside it: P99, ms", "ratio",
               "the long one's first token, s", "between tokens P99, ms"], rows)])


if __name__ == "__main__":
    main(run)
