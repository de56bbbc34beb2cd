#!/usr/bin/env python3
"""Conversations: a later turn's first token, where the cache knows what was said before.

TGI and LMDeploy publish large factors for repeated long prompts; what is measured here is the
time to the first token over all turns of ShareGPT-like conversations.
"""

from common import Bench, code, main, table

WORKLOAD = "--workload chat-sessions --max-context 8192 --scheduler.max_step_tokens 2048"


def run(bench: Bench):
    common = f"{WORKLOAD} --requests {bench.requests(1500)}"
    rows = []
    for name, more in [("no cache", "--cache.prefix_caching=false"),
                       ("warm", ""), ("warm, a tenth of the pool", "--pool-tokens 76288 --host-blocks 0"),
                       ("the same, and the host's memory", "--pool-tokens 76288")]:
        def of(path, scale=1.0):
            return bench.value(f"--preset sluice {common} {more}", path, [8]).map(lambda v: v * scale)
        lines = bench.each(f"--preset sluice {common} {more}", [8])
        hits = [100 * l["cached_tokens"] / max(l["prompt_tokens"], 1) for l in lines]
        rows.append([name, sum(hits) / len(hits), of("ttft_s.p50", 1e3), of("ttft_s.mean", 1e3),
                     of("ttft_s.p99", 1e3), of("busy", 100)])
    return "\n\n".join([
        code(f"sluice simulate --preset sluice {WORKLOAD} --requests 1500 --rates 8"),
        table(["", "prompt tokens found, %", "first token P50, ms", "mean, ms", "P99, ms",
               "machine busy, %"], rows)])


if __name__ == "__main__":
    main(run)
