#!/usr/bin/env python3
"""Runs every experiment and rewrites its part of docs/scheduling.md, pictures included.

A part stands between `<!-- experiment NAME -->` and `<!-- end -->`.
"""

import argparse
import importlib
import pathlib
import re
import time

from common import ROOT, Bench

EXPERIMENTS = ["iteration_level", "transient", "steady_state", "chunked_prefill", "tile", "head_of_line",
               "paging", "prefix_cache", "swap", "tgi_lmdeploy", "sessions", "fairness", "fastgen",
               "scale"]


def rewrite(page, name, text):
    part = re.compile(rf"(<!-- experiment {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    new, found = part.subn(lambda m: f"{m[1]}\n{text.strip()}\n\n{m[2]}", page.read_text())
    if found != 1:
        raise SystemExit(f"{page} has {found} parts for {name}")
    page.write_text(new)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=ROOT / "build/release/bin/sluice")
    parser.add_argument("--quick", action="store_true", help="one seed, few requests: does it run?")
    parser.add_argument("--page", type=pathlib.Path, default=ROOT / "docs/scheduling.md")
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS)
    options = parser.parse_args()
    for name in options.experiments:
        begin = time.monotonic()
        bench = Bench(options.binary, options.quick, options.page.parent / "scheduling")
        rewrite(options.page, name, importlib.import_module(name).run(bench))
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
