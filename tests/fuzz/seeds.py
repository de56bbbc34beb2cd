#!/usr/bin/env python3
"""Writes a fuzz target's seeds, one file each, from fixtures of the golden tests: seeds.py TARGET DIRECTORY."""

import pathlib
import sys

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"


def jinja():
    text = "\n" + (GOLDEN / "jinja/templates.txt").read_text(encoding="utf-8")
    for part in text.split("\n=== ")[1:]:
        yield part.partition("\n")[2].encode()
    for line in (GOLDEN / "jinja/expressions.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("# "):
            yield line.replace("⏎", "\n").encode()
    for path in sorted((pathlib.Path(__file__).parent / "findings/jinja").glob("*")):
        yield path.read_bytes()


SEEDS = {"jinja": jinja}


def main():
    target, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(SEEDS[target]()):
        (directory / f"{i:04}").write_bytes(seed)


if __name__ == "__main__":
    main()
