#!/usr/bin/env python3
"""Orca (OSDI'22): scheduling by iteration carries many times the rate of whole batches.

The paper has 36.9 times the rate of FasterTransformer for GPT-3 175B at 190 ms a token. Here both
are the same engine, and the load is the one at which the median latency per token is so many times
that of an idle machine. The limit is what nobody can exceed: with R requests a second, each of
which adds W seconds to the steps that it is in, steps of a constant C last C / (1 - R W) at least.
"""

from common import Bench, Range, code, grid, main, table

WORKLOAD = "--workload orca-u"


def added_seconds(m):
    """What a request of orca-u (272 tokens in, 64.5 out on average) adds to the steps it is in."""
    prompts = range(32, 513)
    pairs = sum(p * p / 2 for p in prompts) / len(prompts)
    rows = 64.5 - 1  # the first token comes with the prompt
    context = rows * (272 + 64.5 / 2)
    return (272 * float(m["prefill_token_ms"]) * 1e-3 + pairs * float(m["prefill_pair_ns"]) * 1e-9 +
            rows * float(m["decode_row_ms"]) * 1e-3 + context * float(m["context_token_ns"]) * 1e-9)


def run(bench: Bench):
    rows = []
    for cost, low, high in (("a100-opt13b", 0.1, (13, 3)), ("h200-8b", 0.5, (64, 9))):
        common = f"{WORKLOAD} --cost {cost} --requests {bench.requests(1500)}"
        m = bench.machine(cost)
        constant, added = float(m["constant_ms"]) * 1e-3, added_seconds(m)
        idle = constant + float(m["decode_row_ms"]) * 1e-3
        for times in (1.25, 1.5, 2):
            def rate(preset):
                return bench.capacity(f"--preset {preset} {common}", grid(low, high[preset == "static"], 11),
                                      ("normalised_latency_s.p50", times * idle))
            static, orca = rate("static"), rate("orca")
            sluice = rate("sluice --scheduler.max_step_tokens 2048")
            limit = (1 - constant / (times * idle)) / added
            bound = Range([limit] * len(bench.seeds))
            rows.append([f"{cost}, {times:g} x ({times * idle * 1e3:.0f} ms)", static, orca, sluice,
                         orca / static, sluice / static, bound / static])
    picture = bench.picture(
        "iteration_level", "Median latency per token over the rate",
        f"--preset static,orca,sluice {WORKLOAD} --cost a100-opt13b --requests {bench.requests(1500)}",
        [0.1, 0.2, 0.4, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 10, 12], "norm_p50")
    return "\n\n".join([
        code("sluice simulate --preset static,orca,sluice --workload orca-u --cost a100-opt13b "
             "--requests 1500 --rates 0.5,1,2,4,8,12"),
        "Requests a second at which the median latency per output token is so many times that of an "
        "idle machine (`sluice` with `--scheduler.max_step_tokens 2048`):",
        table(["median latency", "static", "orca", "sluice", "orca / static", "sluice / static",
               "limit / static"], rows), picture])


if __name__ == "__main__":
    main(run)
