#!/usr/bin/env python3
"""What keeping keys and values in fewer bits does to answers: two daemons, one prompt after the other.

    bench/kv_quality.py BINARY MODEL_DIR PROMPTS [--dtypes bf16 fp8] [--tokens 64] [-- FLAG...]

PROMPTS has one on each line. Each is answered greedily by both; flags behind -- are both daemons'. Prints how many answers are
the same to the end, after how many tokens the others part, and, over the tokens before that, how far the
logarithms of probabilities are apart, of the token taken and of the five likeliest.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request


class Daemon:
    def __init__(self, binary, model, flags):
        self.folder = tempfile.TemporaryDirectory()
        ports = pathlib.Path(self.folder.name) / "ports"
        self.process = subprocess.Popen([binary, "serve", model, "--port=0", "--grpc-port=0", f"--ports-file={ports}",
                                         "--cache.prefix_caching=false", *flags],
                                        stderr=subprocess.DEVNULL,
                                        env={k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")})
        while not ports.exists():
            if self.process.poll() is not None:
                sys.exit("the daemon did not start; its flags: " + " ".join(flags))
            time.sleep(0.05)
        self.url = f"http://127.0.0.1:{ports.read_text().split()[0]}/v1/completions"

    def answer(self, prompt, tokens):
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": 5}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)["choices"][0]["logprobs"]


def main():
    arguments, flags = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, flags = arguments[:at], arguments[at + 1:]
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("prompts", type=pathlib.Path)
    parser.add_argument("--dtypes", nargs=2, default=["bf16", "fp8"])
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args(arguments)
    daemons = [Daemon(options.binary, options.model, [f"--cache.dtype={t}", *flags]) for t in options.dtypes]
    same, total, before, taken, top = 0, 0, [], [], []
    for prompt in options.prompts.read_text(encoding="utf-8").splitlines():
        first, second = (d.answer(prompt, options.tokens) for d in daemons)
        total += 1
        pairs = list(zip(first["tokens"], second["tokens"]))
        agreed = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        if agreed == len(first["tokens"]) == len(second["tokens"]):
            same += 1
        else:
            before.append(agreed)
        for i in range(agreed):
            taken.append(abs(first["token_logprobs"][i] - second["token_logprobs"][i]))
            a, b = first["top_logprobs"][i], second["top_logprobs"][i]
            top += [abs(a[t] - b[t]) for t in a.keys() & b.keys()]
    for d in daemons:
        d.process.terminate()
        d.process.wait()
    print(f"{options.dtypes[1]} beside {options.dtypes[0]}: {same} of {total} answers are the same, {len(taken)} tokens in all "
          f"until the others part" + (f" (after {statistics.median(before)} tokens in the median)" if before else ""))
    print(f"log-probabilities apart, mean and largest: of the token {statistics.mean(taken):.4f} and {max(taken):.3f}, "
          f"of the five likeliest {statistics.mean(top):.4f} and {max(top):.3f}")


if __name__ == "__main__":
    main()
