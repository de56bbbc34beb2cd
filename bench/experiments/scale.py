#!/usr/bin/env python3
"""The simulator itself: how long a large fleet takes."""

import time

from common import Bench, code, main, table

SMALL = "--workload sharegpt-2turn --preset sluice --blocks 2000 --host-blocks 0"


def run(bench: Bench):
    rows = []
    for replicas, requests in ((100, 100_000), (1000, 1_000_000)):
        replicas, requests = (replicas, requests) if not bench.quick else (replicas // 10, requests // 100)
        begin = time.monotonic()
        [line] = bench.lines(f"{SMALL} --replicas {replicas} --requests {requests}", [10 * replicas])
        seconds = time.monotonic() - begin
        rows.append([f"{replicas:,}", f"{requests:,}", f"{line['steps']:,}", f"{seconds:.0f}",
                     f"{line['steps'] / seconds / 1e3:.0f}"])
        if bench.quick:
            break
    return "\n\n".join([
        code(f"sluice simulate {SMALL} --replicas 1000 --requests 1000000 --rates 10000"),
        "Two cores, shared with other work:",
        table(["replicas", "requests", "steps", "seconds", "thousand steps a second"], rows)])


if __name__ == "__main__":
    main(run)
