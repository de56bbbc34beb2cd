"""Trains the demo model from nothing and writes it beside this file in Hugging Face layout.

    python train.py                 # the whole run: half an hour on two cores of a 2.5 GHz Xeon
    python train.py --tokens 5e5    # a quick look

One seed decides the text, the tokenizer, the weights' start and the order of the batches.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import bpe
import model as llama
import stories
from corpus import Corpus
from muon import Muon

VOCAB = 2048
ROW = 384          # tokens in a training row; conversations are packed whole
STORY_WEIGHT = 0.4  # what a token of a story counts in the loss; one of a short answer counts 1,
                    # and so does a word that the story has to carry on: a name, a thing, he or she
PRONOUNS = ["he", "him", "his", "she", "her", "He", "His", "She", "Her"]
OPEN_ROWS = 24     # rows being filled at a time


class Encoder:
    """Conversations to token ids and to what each token weighs in the loss."""

    def __init__(self, tok: Tokenizer) -> None:
        self.tok = tok
        self.bos, self.eos, self.start, self.end = (tok.token_to_id(t) for t in bpe.SPECIAL)
        self.cache: dict[str, list[int]] = {}
        words = [*stories.NAMES["he"], *stories.NAMES["she"], *stories.KINDS, *stories.THINGS, *PRONOUNS]
        self.carried = {i for w in words for text in (w, " " + w) for i in self.ids(text)}

    def ids(self, text: str) -> list[int]:
        return self.tok.encode(text, add_special_tokens=False).ids

    def conversation(self, messages: list[dict[str, str]]) -> tuple[list[int], list[float]]:
        """As the chat template renders it. Only what the assistant says, with its end of turn, is learned."""
        ids, weight = [self.bos], [0.0]
        for m in messages:
            if m["role"] not in self.cache:
                self.cache[m["role"]] = [self.start, *self.ids(m["role"] + "\n")]
                self.cache["\n"] = self.ids("\n")
            head, tail = self.cache[m["role"]], self.cache["\n"]
            body = [*self.ids(m["content"]), self.end]
            worth = self.worth(body) if m["role"] == "assistant" else [0.0] * len(body)
            ids += head + body + tail
            weight += [0.0] * len(head) + worth + [0.0] * len(tail)
        return ids, weight

    def worth(self, body: list[int]) -> list[float]:
        if len(body) < 64:
            return [1.0] * len(body)
        return [1.0 if i in self.carried else STORY_WEIGHT for i in body]

    def document(self, text: str) -> tuple[list[int], list[float]]:
        ids = [self.bos, *self.ids(text), self.eos]
        return ids, [0.0] + self.worth(ids[1:])


def rows(corpus: Corpus, enc: Encoder) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of ROW + 1 tokens, filled with whole conversations by first fit and padded with end-of-text."""
    open_rows: list[tuple[list[int], list[float]]] = []
    while True:
        item = enc.document(corpus.document()) if corpus.rng.random() < 0.03 else enc.conversation(corpus.conversation())
        if len(item[0]) > ROW + 1:
            continue
        place = next((r for r in open_rows if len(r[0]) + len(item[0]) <= ROW + 1), None)
        if place is None:
            open_rows.append(([], []))
            place = open_rows[-1]
        place[0].extend(item[0])
        place[1].extend(item[1])
        if len(open_rows) > OPEN_ROWS:
            fullest = max(range(len(open_rows)), key=lambda i: len(open_rows[i][0]))
            ids, weight = open_rows.pop(fullest)
            pad = ROW + 1 - len(ids)
            yield np.array(ids + [enc.eos] * pad), np.array(weight + [0.0] * pad, dtype=np.float32)


def batches(seed: int, enc: Encoder, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    source = rows(Corpus(seed), enc)
    while True:
        got = [next(source) for _ in range(size)]
        yield torch.from_numpy(np.stack([g[0] for g in got])), torch.from_numpy(np.stack([g[1] for g in got]))


def loss_of(net: llama.Llama, ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the cross-entropy over the tokens that count; logits are made for those alone."""
    h = net.hidden(ids[:, :-1])
    keep = weight[:, 1:] > 0
    w = weight[:, 1:][keep]
    return (F.cross_entropy(net.logits(h[keep]), ids[:, 1:][keep], reduction="none") * w).sum() / w.sum()


def make_tokenizer(seed: int) -> Tokenizer:
    corpus = Corpus(seed)
    texts = [m["content"] for _ in range(20000) for m in corpus.conversation()]
    return bpe.train_tokenizer(texts + ["system\n", "user\n", "assistant\n"] * 100, VOCAB)


def draw(history: list[tuple[int, float]], held: list[tuple[int, float]], out: Path) -> None:
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots(figsize=(6, 3.2), dpi=90)
    tokens, losses = np.array(history).T
    width = max(1, len(losses) // 200)
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    ax.plot(tokens[width - 1:] / 1e6, smooth, lw=1, label="training (new text at every step)")
    ax.plot(np.array(held)[:, 0] / 1e6, np.array(held)[:, 1], "o-", ms=3, lw=1, label="unseen text, other seed")
    ax.set(xlabel="million tokens read", ylabel="cross-entropy, nats per token", yscale="log", title="Demo model: loss")
    ax.grid(alpha=0.3, which="both")
    ax.legend()
    fig.tight_layout()
    fig.savefig(out / "loss.png")


def export(net: llama.Llama, tok: Tokenizer, enc: Encoder, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    stops = [enc.end, enc.eos]
    llama.save(net, out)
    config = net.config.to_json(enc.bos, stops, enc.eos)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": enc.bos, "eos_token_id": stops, "pad_token_id": enc.eos, "do_sample": True, "temperature": 0.7, "top_p": 0.95}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    bpe.save_tokenizer(tok, out, net.config.max_position_embeddings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=6.5e6, help="training tokens")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--batch", type=int, default=6, help=f"rows of {ROW} tokens a step")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="the weights here were made with two")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    began, cpu_began = time.time(), time.process_time()
    tok = make_tokenizer(args.seed)
    enc = Encoder(tok)
    net = llama.Llama(llama.Config(vocab_size=math.ceil(tok.get_vocab_size() / 64) * 64))
    print(f"{sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters, {tok.get_vocab_size()} tokens in the vocabulary", flush=True)

    matrices = [p for n, p in net.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in net.named_parameters() if p.dim() < 2 or "embed" in n]
    optimizers = [Muon(matrices, lr=args.muon_lr, weight_decay=0.1), torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
    peaks = [args.muon_lr, args.lr]
    steps = max(1, round(args.tokens / (args.batch * ROW)))
    warm_up = max(1, min(100, steps // 10))
    check = next(batches(args.seed + 1000, enc, 16))
    source = batches(args.seed + 1, enc, args.batch)
    history: list[tuple[int, float]] = []
    held: list[tuple[int, float]] = []
    for step in range(steps):
        rate = min((step + 1) / warm_up, 1.0, (1 - step / steps) / 0.7)   # flat, then straight down to nothing
        for opt, peak in zip(optimizers, peaks):
            opt.param_groups[0]["lr"] = peak * rate
        loss = loss_of(net, *next(source))
        net.zero_grad(set_to_none=True)
        loss.backward()
        for opt in optimizers:
            opt.step()
        read = (step + 1) * args.batch * ROW
        history.append((read, loss.item()))
        if step % 100 == 99 or step + 1 == steps:
            with torch.no_grad():
                held.append((read, loss_of(net, *check).item()))
            seconds, cpu = time.time() - began, time.process_time() - cpu_began
            recent = sum(x for _, x in history[-100:]) / len(history[-100:])
            print(f"step {step + 1}/{steps}  loss {recent:.4f}  unseen {held[-1][1]:.4f}  {read / seconds:.0f} tokens/s  "
                  f"{seconds / 60:.1f} min, {cpu / 60:.1f} CPU-min", flush=True)
            export(net, tok, enc, args.out)
    draw(history, held, args.out)
    print(f"wrote {args.out} after {(time.time() - began) / 60:.1f} min ({(time.process_time() - cpu_began) / 60:.1f} CPU-min)")


if __name__ == "__main__":
    main()
