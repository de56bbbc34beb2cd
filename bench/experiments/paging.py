#!/usr/bin/env python3
"""vLLM (SOSP'23): blocks on demand hold more sequences than reserving for the longest answer.

The paper has 96.3 % of the slots that are held in use, and 30.4 sequences a batch where Orca with an
oracle that knows the length of every answer has 13.6 (OPT-13B, ShareGPT). Answers here are as long
as their max_tokens, so the full reservation is that oracle's.
"""

from common import Bench, Range, code, main, table

WORKLOAD = "--workload sharegpt-2turn --cost a100-opt13b"


def run(bench: Bench):
    common = f"{WORKLOAD} --requests {bench.requests(1500)} --scheduler.max_queue 10000"
    rows, base = [], None
    for name, variant in [
            ("reserved in full, orca", "--preset orca"), ("paged, vllm", "--preset vllm"),
            ("paged, vllm, max_preemptions 1000", "--preset vllm --scheduler.max_preemptions 1000"),
            ("paged, sarathi", "--preset sarathi"), ("paged, sluice", "--preset sluice"),
            ("paged, sluice, max_preemptions 1000",
             "--preset sluice --scheduler.max_preemptions 1000")]:
        lines = bench.each(f"{variant} {common}", [8])
        held, live = (Range([line[key] * 100 for line in lines]) for key in ("kv_held", "kv_live"))
        batch = Range([line["step_rows"] for line in lines])
        base = base or batch
        rows.append([name, held, live, (live / held).map(lambda v: v * 100), batch, batch / base,
                     Range([line["achieved_per_second"] for line in lines])])
    return "\n\n".join([
        code(f"sluice simulate --preset orca,vllm,sarathi,sluice {WORKLOAD} --requests 1500 --rates 8 "
             "--scheduler.max_queue 10000"),
        table(["", "held, % of the pool", "live, % of the pool", "live, % of held", "rows a step",
               "/ reserved", "done a second"], rows)])


if __name__ == "__main__":
    main(run)
