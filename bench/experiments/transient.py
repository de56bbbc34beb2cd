#!/usr/bin/env python3
"""FastServe (NSDI'26): a skip-join multi-level feedback queue against first come, first served.

Replays the single-GPU experiment of the paper's artifact: OPT-13B on an A100, 16 sequences a step,
80 seconds of arrivals and at most 400 requests. Its own plots have 1.84 times the rate of FCFS at a
mean of 0.3 s a token, and 1.5 times at P95. The lengths decide much, so they are drawn twice: from
log-normals with the published means of ShareGPT, and from a real trace cut in the artifact's way.
"""

from common import Bench, Range, code, get, main, table

WORKLOADS = ["sharegpt-2turn", "sharegpt4-2k"]
MACHINE = "--cost a100-opt13b --host-blocks 8000"
BURST = 2.5
FCFS = "--preset fastserve --scheduler.order fcfs --scheduler.proactive off"
VARIANTS = [("FCFS, same engine", FCFS), ("vllm", "--preset vllm"),
            ("fastserve", "--preset fastserve"), ("sluice", "--preset sluice")]


def rates(bench, variant, common, loads):
    return [bench.capacity(f"{variant} {common}", loads, (f"normalised_latency_s.{at}", 0.3))
            for at in ("mean", "p95")]


def run(bench: Bench):
    requests = f"--requests {400 if not bench.quick else 60} --seconds 80"
    loads = [0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7, 10, 15, 25]
    rows = []
    for workload in WORKLOADS:
        for batch in (16, 64):
            common = f"--workload {workload} {MACHINE} {requests} --scheduler.max_rows {batch}"
            found = {name: rates(bench, variant, common, loads) for name, variant in VARIANTS}
            fcfs, vllm = found["FCFS, same engine"], found["vllm"]
            for name, (mean, p95) in found.items():
                rows.append([f"{workload}, {batch}", name, mean, mean / fcfs[0], mean / vllm[0], p95,
                             p95 / fcfs[1]])
    sweep = []
    common = f"--workload {WORKLOADS[1]} {MACHINE} {requests} --scheduler.max_rows 16"
    for after, growth in ((300, 1), (3000, 1), (3000, 2), (30000, 1)):
        for promotion in ("restart", "visit"):
            variant = (f"--preset sluice --scheduler.promotion {promotion} "
                       f"--scheduler.promote_ms {after} --scheduler.promote_growth {growth}")
            lines = bench.each(f"{variant} {common}", [BURST])
            sweep.append([promotion, after, growth, *rates(bench, variant, common, loads),
                          *(Range([get(line, path) for line in lines])
                            for path in ("ttft_s.p50", "ttft_s.p99", "tbt_s.max"))])
    picture = bench.picture("transient", f"Mean latency per token over the rate, {WORKLOADS[1]}, 16 rows",
                            f"--preset fastserve,sluice,vllm,orca {common}", loads, "norm_mean")
    return "\n\n".join([
        code(f"sluice simulate --preset fastserve,sluice,vllm --workload {WORKLOADS[0]} {MACHINE} --requests 400 "
             "--seconds 80 --scheduler.max_rows 16 --rates 1.5,2,3,4,5,6",
             f"sluice simulate {FCFS} ..."),
        "Requests a second at 0.3 s per output token:",
        table(["lengths, rows", "", "mean", "/ FCFS", "/ vllm", "P95", "/ FCFS"], rows), picture,
        f"`sluice`, {WORKLOADS[1]}, 16 rows, by how soon a request that gets no step is promoted and what for; first "
        f"tokens and the longest pause within an answer at {BURST} a second, in seconds:",
        table(["promotion", "promote_ms", "promote_growth", "mean", "P95", "first token P50", "P99",
               "pause"], sweep)])


if __name__ == "__main__":
    main(run)
