#!/usr/bin/env python3
"""DeepSpeed-FastGen: long prompts and short answers from a few clients in a closed loop.

The blog has 2.3 times vLLM's effective throughput: requests whose first token came within
prompt / 512 seconds and whose answer came at 4 tokens a second at least. The simulator has no such
count; the table has what is done in all, and how late the last hundredth is.
"""

from common import Bench, Range, code, main, table

WORKLOADS = ["fastgen", "fastgen-short"]


def run(bench: Bench):
    rows = []
    for workload in WORKLOADS:
        for clients in (8, 32):
            common = f"--workload {workload} --requests {bench.requests(512)}"
            base = None
            for name, variant in [
                    ("vllm", "--preset vllm --scheduler.max_step_tokens 8192"),
                    ("sluice", "--preset sluice"),
                    ("sluice, 2048 tokens a step", "--preset sluice --scheduler.max_step_tokens 2048"),
                    ("sarathi, 2048 tokens a step",
                     "--preset sarathi --scheduler.max_step_tokens 2048")]:
                lines = bench.each(f"{variant} {common}", [clients], "--clients")
                done = Range([line["achieved_per_second"] for line in lines])
                base = base or done
                rows.append([f"{workload}, {clients} clients, {name}", done, done / base,
                             *(Range([line[of]["p99"] * 1e3 for line in lines])
                               for of in ("ttft_s", "tbt_s"))])
    return "\n\n".join([
        code("sluice simulate --preset vllm --workload fastgen --scheduler.max_step_tokens 8192 "
             "--requests 512 --clients 8,32", "sluice simulate --preset sluice --workload fastgen ..."),
        table(["", "requests a second", "/ vllm", "first token P99, ms", "between tokens P99, ms"],
              rows)])


if __name__ == "__main__":
    main(run)
