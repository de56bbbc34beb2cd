#!/usr/bin/env python3
"""Compares published tokenizers with Hugging Face's `tokenizers`, or with SentencePiece where there is only a
tokenizer.model, encoding and decoding.

    tests/golden/tokenizer/compare_published.py build/release/bin/tokenize_lines DIRECTORY... [--strings 5000]

Needs `tokenizers` and `sentencepiece` from PyPI. Each DIRECTORY is searched for model directories (tokenizer.json or
tokenizer.model in them);
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
from sentencepiece_fixtures import Reference
from tokenizers import Tokenizer

SHOWN = 5  # strings of a tokenizer that differ


class SentencePiece:
    """A tokenizer.model and what lies beside it, with the methods of Tokenizer that are used here."""

    def __init__(self, model):
        read = lambda name: json.loads((model / name).read_text()) if (model / name).exists() else {}
        self.reference = Reference((model / "tokenizer.model").read_bytes(), read("tokenizer_config.json"),
                                   read("special_tokens_map.json"), read("added_tokens.json"))
        self.top = self.reference.top

    def plain(self, text):
        return self.reference.encode(text)

    def special(self, text):
        return self.reference.prefix + self.plain(text) + self.reference.suffix

    def decode(self, ids, skip):
        return self.reference.decode(ids, skip)


class HuggingFace:
    def __init__(self, model):
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.top = max(self.tokenizer.get_vocab().values()) + 1

    def plain(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def special(self, text):
        return self.tokenizer.encode(text).ids

    def decode(self, ids, skip):
        return self.tokenizer.decode(ids, skip_special_tokens=skip)


def theirs(tokenizer, request):
    plain = tokenizer.plain(request["text"])
    decoded = [tokenizer.decode(ids, skip) for ids in (plain, request["ids"]) for skip in (True, False)]
    return {"plain": plain, "special": tokenizer.special(request["text"]), "decoded": decoded}


def requests(tokenizer, count):
    table = fragments()
    for seed in range(count):
        fuzz = Fuzz(table, seed)
        text = fuzz.string().decode("utf-8", "replace")
        yield {"text": text, "ids": [fuzz.below(tokenizer.top + 2) for _ in range(fuzz.below(12))]}


def compare(binary, model, count):
    """Of one tokenizer, how many strings differ; None where it is refused."""
    tokenizer = (HuggingFace if (model / "tokenizer.json").exists() else SentencePiece)(model)
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
            print("".join(f"  {part}\n    reference  {want[part]}\n    sluice     {got[part]}\n" for part in parts), end="")
    return different


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("roots", nargs="+", type=pathlib.Path)
    parser.add_argument("--strings", type=int, default=5000)
    options = parser.parse_args()
    models = sorted({path.parent for root in options.roots for path in root.rglob("tokenizer.*")
                     if path.name in ("tokenizer.json", "tokenizer.model")})
    if not models:
        raise SystemExit("no tokenizer.json or tokenizer.model found")
    results = {model: compare(options.binary, model, options.strings) for model in models}
    refused = [model for model, different in results.items() if different is None]
    bad = [model for model, different in results.items() if different]
    for model in bad:
        print(f"{model}: {results[model]} of {options.strings} strings differ")
    print(f"{len(models) - len(bad) - len(refused)} equal, {len(bad)} different, {len(refused)} refused")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
