#!/usr/bin/env python3
"""TGI gathers newcomers, LMDeploy evens its steps out: both against chunks within a target time."""

from common import Bench, code, main, table

PRESETS = ["tgi", "lmdeploy", "sarathi", "sluice"]


def run(bench: Bench):
    sections = []
    workload = "--workload sharegpt-2turn --scheduler.max_step_tokens 2048"
    common = f"{workload} --requests {bench.requests(1500)}"
    rows = []
    for preset in PRESETS:
        def at(path):
            return bench.value(f"--preset {preset} {common}", path, [24]).map(lambda v: v * 1e3)
        rows.append([preset, bench.capacity(f"--preset {preset} {common}", [16, 24, 28, 32, 36, 44, 56],
                                            ("ttft_s.p99", 1), ("tbt_s.p99", 0.05)),
                     at("ttft_s.p50"), at("ttft_s.p99"), at("tbt_s.p99"), at("tbt_s.max")])
    sections += [
        code(f"sluice simulate --preset {','.join(PRESETS)} {workload} --requests 1500 "
             "--rates 16,24,28,32,36"),
        "sharegpt-2turn: requests a second with P99 of the first token within 1 s and of the time "
        "between tokens within 50 ms, and times in ms at 24 a second:",
        table(["", "requests a second", "first token P50", "P99", "between tokens P99", "longest"],
              rows)]
    workload = "--workload fastgen --scheduler.max_step_tokens 2048"
    common = f"{workload} --requests {bench.requests(512)}"
    rows = []
    for preset in PRESETS:
        def at(path, scale=1e3):
            return bench.value(f"--preset {preset} {common}", path, [16],
                               "--clients").map(lambda v: v * scale)
        rows.append([preset, at("achieved_per_second", 1), at("ttft_s.p50"), at("ttft_s.p99"),
                     at("tbt_s.p99"), at("tbt_s.max")])
    sections += [
        "fastgen, 16 clients (`--workload fastgen --clients 16 --requests 512`):",
        table(["", "requests a second", "first token P50", "P99", "between tokens P99", "longest"],
              rows)]
    return "\n\n".join(sections)


if __name__ == "__main__":
    main(run)
