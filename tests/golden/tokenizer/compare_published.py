#!/usr/bin/env python3
"""Compares published tokenizers with Hugging Face's `tokenizers`, encoding and decoding.

    tests/golden/tokenizer/compare_published.py build/release/bin/tokenize_lines DIRECTORY... [--strings 5000]

Needs `tokenizers` from PyPI. Each DIRECTORY is searched for model directories (tokenizer.json in them);
nothing is downloaded. Each tokenizer gets the fuzzed strings of make_fixtures.py, and ids in no sensible
order to decode: ids with and without added special tokens and texts with and without them must be equal.
Prints what differs, and which tokenizers were refused and why, and exits with 1 when anything differs.
"""

import argparse
import json
import pathlib
import subprocess
import sys

from make_fixtures import Fuzz, fragments
from tokenizers import Tokenizer

SHOWN = 5  # strings of a tokenizer that differ


def theirs(tokenizer, request):
    plain = tokenizer.encode(request["text"], add_special_tokens=False).ids
    decoded = [tokenizer.decode(ids, skip_special_tokens=skip)
               for ids in (plain, request["ids"]) for skip in (True, False)]
    return {"plain": plain, "special": tokenizer.encode(request["text"]).ids, "decoded": decoded}


def requests(tokenizer, count):
    table, top = fragments(), max(tokenizer.get_vocab().values()) + 1
    for seed in range(count):
        fuzz = Fuzz(table, seed)
        text = fuzz.string().decode("utf-8", "replace")
        yield {"text": text, "ids": [fuzz.below(top + 2) for _ in range(fuzz.below(12))]}


def compare(binary, model, count):
    """Of one tokenizer, how many strings differ; None where it is refused."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    asked = list(requests(tokenizer, count))
    done = subprocess.run([binary, model], input="".join(json.dumps(r) + "\n" for r in asked),
                          capture_output=True, encoding="utf-8")
    if done.returncode != 0:
        print(f"{model}: refused: {done.stderr.strip()}")
        return None
    different = 0
    for request, line in zip(asked, done.stdout.split("\n")):
        got, want = json.loads(line), theirs(tokenizer, request)
        if got == want:
            continue
        different += 1
        if different <= SHOWN:
            parts = [part for part in want if got[part] != want[part]]
            print(f"{model}: {request['text']!r} {request['ids']}")
            print("".join(f"  {part}\n    tokenizers {want[part]}\n    sluice     {got[part]}\n" for part in parts), end="")
    return different


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("roots", nargs="+", type=pathlib.Path)
    parser.add_argument("--strings", type=int, default=5000)
    options = parser.parse_args()
    models = sorted({path.parent for root in options.roots for path in root.rglob("tokenizer.json")})
    if not models:
        raise SystemExit("no tokenizer.json found")
    results = {model: compare(options.binary, model, options.strings) for model in models}
    refused = [model for model, different in results.items() if different is None]
    bad = [model for model, different in results.items() if different]
    for model in bad:
        print(f"{model}: {results[model]} of {options.strings} strings differ")
    print(f"{len(models) - len(bad) - len(refused)} equal, {len(bad)} different, {len(refused)} refused")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
