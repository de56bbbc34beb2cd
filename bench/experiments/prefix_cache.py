#!/usr/bin/env python3
"""vLLM (SOSP'23): prompts that begin alike are computed, and kept, once.

The paper has 1.67 and 3.58 times the rate of Orca with an oracle's reservation, for translation with
80 and 341 tokens of instructions in common.
"""

from common import Bench, code, main, table

WORKLOAD = "--workload shared-prefix --cost a100-opt13b"
SLO = 0.06


def run(bench: Bench):
    rows = []
    loads = [4, 8, 12, 16, 20, 26, 34, 44, 56, 75, 100, 130]
    for tokens in (80, 341):
        common = f"{WORKLOAD} --prefix-tokens {tokens} --requests {bench.requests(1500)}"
        base = None
        for name, variant in [
                ("orca, no cache", "--preset orca --cache.prefix_caching=false"),
                ("vllm", "--preset vllm"), ("sluice, no cache",
                                            "--preset sluice --cache.prefix_caching=false"),
                ("sluice", "--preset sluice"),
                ("sluice, 2048 tokens a step", "--preset sluice --scheduler.max_step_tokens 2048")]:
            got = bench.capacity(f"{variant} {common}", loads, ("normalised_latency_s.mean", SLO))
            base = base or got
            rows.append([tokens, name, got, got / base])
    return "\n\n".join([
        code(f"sluice simulate --preset orca {WORKLOAD} --prefix-tokens 341 "
             "--cache.prefix_caching=false --requests 1500 --rates 8,16",
             f"sluice simulate --preset vllm,sluice {WORKLOAD} --prefix-tokens 341 --requests 1500 "
             "--rates 8,16,32,64"),
        f"Requests a second at a mean of {SLO * 1e3:.0f} ms per output token:",
        table(["tokens in common", "", "requests a second", "/ orca"], rows)])


if __name__ == "__main__":
    main(run)
