#!/usr/bin/env python3
"""A model's tokenizer here and in Hugging Face's `tokenizers` (SentencePiece, where there is only a
tokenizer.model), in one run, on one core each.

    bench/tokenizer_peer.py build/release/bin/sluice MODEL_DIR FILE... [--rounds 5]

Needs `tokenizers` (`sentencepiece`) from PyPI. For each text file the two take turns, and who goes first alternates. Ids must
be as many, or nothing is measured. Prints a Markdown table: medians in MB/s of UTF-8, and the median and range
of the rounds' ratios.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"


class HuggingFace:
    def __init__(self, model):
        import tokenizers  # reads the variable when it is loaded
        self.name, self.tokenizer = f"tokenizers {tokenizers.__version__}", tokenizers.Tokenizer.from_file(str(model))

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False)


class SentencePiece:
    def __init__(self, model):
        import sentencepiece
        self.name = f"sentencepiece {sentencepiece.__version__}"
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(model))
        self.encode, self.decode = self.tokenizer.encode, self.tokenizer.decode


def ours(binary, model, path):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run([binary, "bench", "tokenizer", model, "--file", path, "--seconds", "0.5", "--json", out.name],
                       check=True, capture_output=True)
        line = json.load(out)["lines"][0]
    return line["encode_mb_per_s"], line["decode_mb_per_s"], line["tokens"]


def theirs(tokenizer, text):
    def rate(call):
        times = []
        while len(times) < 3 or sum(times) < 0.5:
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        return len(text.encode()) / statistics.median(times) / 1e6

    ids = tokenizer.encode(text)
    return rate(lambda: tokenizer.encode(text)), rate(lambda: tokenizer.decode(ids)), len(ids)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = pathlib.Path(options.model)
    by_json = (model / "tokenizer.json").exists()
    tokenizer = HuggingFace(model / "tokenizer.json") if by_json else SentencePiece(model / "tokenizer.model")
    print(f"| text | | sluice MB/s | {tokenizer.name} MB/s | ratio |\n|---|---|---|---|---|")
    for path in options.files:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        rounds = []
        for i in range(options.rounds):
            sides = [lambda: ours(options.binary, options.model, path), lambda: theirs(tokenizer, text)]
            results = [sides[i % 2](), sides[1 - i % 2]()]
            rounds.append(results if i % 2 == 0 else results[::-1])
            if rounds[-1][0][2] != rounds[-1][1][2]:
                raise SystemExit(f"{path}: {rounds[-1][0][2]} tokens here, {rounds[-1][1][2]} there")
        for k, what in enumerate(["encode", "decode"]):
            ratios = [a[k] / b[k] for a, b in rounds]
            print(f"| {pathlib.Path(path).name} | {what} | {statistics.median(a[k] for a, _ in rounds):.1f} | "
                  f"{statistics.median(b[k] for _, b in rounds):.1f} | {statistics.median(ratios):.2f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
