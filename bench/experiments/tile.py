#!/usr/bin/env python3
"""SARATHI (2023): a step that ends with a tile of the kernels against one that ends a token later.

Matrix kernels compute tiles of, say, 128 tokens, and a step of 257 costs what one of 384 does. The
machine is h200-8b with tiles of 128; the scheduler knows of them or does not.
"""

import pathlib
import tempfile

from common import Bench, code, main, table

TILE = 128
WORKLOAD = "--workload sarathi-zipf --preset sarathi"


def run(bench: Bench):
    rows = []
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "h200-8b-tiles.toml"
        machine = bench.machine("h200-8b") | {"tile_tokens": str(TILE)}
        path.write_text("".join(f"{key} = {value}\n" for key, value in machine.items()))
        for budget, more in [("256 tokens", "--scheduler.budget fixed --scheduler.max_step_tokens 256"),
                             ("512 tokens", "--scheduler.budget fixed --scheduler.max_step_tokens 512"),
                             ("600 tokens", "--scheduler.budget fixed --scheduler.max_step_tokens 600"),
                             ("25 ms", "--scheduler.max_step_tokens 2048 "
                                       "--scheduler.token_interval_ms 25")]:
            found = {}
            for tile in (1, TILE):
                arguments = (f"{WORKLOAD} --cost {path} --requests {bench.requests(400)} {more} "
                             f"--scheduler.tile_tokens {tile}")
                found[tile] = [bench.value(arguments, key) for key in ("achieved_per_second", "tbt_s.p99")]
            for tile, (done, gap) in found.items():
                rows.append([f"{budget}, tile_tokens {tile}", done, done / found[1][0],
                             gap.map(lambda v: v * 1e3)])
    return "\n\n".join([
        code(f"sluice simulate {WORKLOAD} --cost h200-8b-tiles.toml --requests 400 "
             "--scheduler.budget fixed --scheduler.max_step_tokens 512 --scheduler.tile_tokens 128"),
        "All requests at once; h200-8b with `tile_tokens = 128`:",
        table(["budget of a step", "requests a second", "gain", "between tokens P99, ms"], rows)])


if __name__ == "__main__":
    main(run)
