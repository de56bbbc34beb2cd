"""Measures the exported model on phrasings it was never trained on.

    python evaluate.py            # the bars; non-zero exit when one is missed
    python evaluate.py --samples  # stories and other answers, drawn at temperature 0.7

Greedy decoding of the exported bf16 weights through the exported tokenizer and chat template. Before anything is
measured, the script checks that no held-out template is a training template and that no question it asks can
come out of the training templates.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import torch
from tokenizers import Tokenizer

import corpus as C
import model as llama
import stories
import world


def _raise(message: str) -> None:
    raise ValueError(message)


class Chat:
    """The exported directory, ready to be asked."""

    def __init__(self, directory: Path) -> None:
        self.net = llama.load(directory)
        self.tok = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = json.loads((directory / "tokenizer_config.json").read_text())
        self.stops = set(json.loads((directory / "generation_config.json").read_text())["eos_token_id"])
        env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        env.globals["raise_exception"] = _raise
        self.template, self.bos = env.from_string(config["chat_template"]), config["bos_token"]

    def prompt(self, messages: list[C.Message]) -> list[int]:
        text = self.template.render(messages=messages, bos_token=self.bos, add_generation_prompt=True)
        return self.tok.encode(text, add_special_tokens=False).ids

    @torch.no_grad()
    def generate(self, prompts: list[list[int]], limit: int = 96, temperature: float = 0.0) -> list[str]:
        """Answers to prompts of one and the same length."""
        past: llama.Past = {}
        ids, done = torch.tensor(prompts), [False] * len(prompts)
        out: list[list[int]] = [[] for _ in prompts]
        for _ in range(limit):
            logits = self.net.logits(self.net.hidden(ids, past)[:, -1])
            ids = torch.multinomial(torch.softmax(logits / temperature, -1), 1) if temperature else logits.argmax(-1, keepdim=True)
            for i, token in enumerate(ids[:, 0].tolist()):
                done[i] |= token in self.stops
                if not done[i]:
                    out[i].append(token)
            if all(done):
                break
        return [self.tok.decode(o) + ("" if d else " [no end]") for o, d in zip(out, done)]

    def answers(self, users: list[str]) -> list[str]:
        groups: dict[int, list[int]] = defaultdict(list)
        prompts = [self.prompt([{"role": "user", "content": u}]) for u in users]
        for i, p in enumerate(prompts):
            groups[len(p)].append(i)
        result = [""] * len(users)
        for members in groups.values():
            for i, a in zip(members, self.generate([prompts[i] for i in members])):
                result[i] = a
        return result


@dataclass
class Tally:
    right: int = 0
    total: int = 0
    by_kind: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, kind: str, ok: bool, user: str, answer: str) -> None:
        self.total += 1
        self.right += ok
        self.kinds[kind] += 1
        self.by_kind[kind] += ok
        if not ok:
            self.wrong.append(f"[{kind}] {user} -> {answer}")

    @property
    def share(self) -> float:
        return self.right / max(1, self.total)


def plain(text: str) -> str:
    """A template or question reduced to its words: case and punctuation make no difference."""
    return " ".join(re.findall(r"<\w+>|[\w+=-]+", text.lower()))


TEMPLATE_PAIRS = [(C.PLUS_TRAIN, C.PLUS_HELD_OUT), (C.MINUS_TRAIN, C.MINUS_HELD_OUT), (C.JSON_TRAIN, C.JSON_HELD_OUT), (C.JSON_BARE_TRAIN, C.JSON_BARE_HELD_OUT),
                  (C.JSON_SUM_TRAIN, C.JSON_SUM_HELD_OUT), (C.JSON_ANIMAL_TRAIN, C.JSON_ANIMAL_HELD_OUT), (C.JSON_LIST_TRAIN, C.JSON_LIST_HELD_OUT),
                  (C.JSON_COPY_TRAIN, C.JSON_COPY_HELD_OUT), ([t for t, _ in C.SINGLE_TRAIN], [t for t, _ in C.SINGLE_HELD_OUT]),
                  *((C.TRAIN_TEMPLATES[k], C.HELD_OUT_TEMPLATES[k]) for k in C.TRAIN_TEMPLATES)]


def check_disjoint(questions: set[str], seed: int, draws: int = 40000) -> int:
    """Fails if a held-out template is a training template or has words that none has (phrasings are held out, words
    are not), or if a question can be heard in fresh training text."""
    train = {plain(t) for pair in TEMPLATE_PAIRS for t in pair[0]}
    held = {plain(t) for pair in TEMPLATE_PAIRS for t in pair[1]}
    assert not train & held, f"held-out templates that are trained on: {train & held}"
    known = {w for t in train for w in t.split()}
    strange = {w for t in held for w in t.split()} - known
    assert not strange, f"held-out templates with words no training template has: {strange}"
    source, asked = C.Corpus(seed), {plain(q) for q in questions}
    for _ in range(draws):
        for m in source.conversation():
            assert m["role"] != "user" or plain(m["content"]) not in asked, f"asked in training too: {m['content']}"
    return len(held)


def make_questions(rng: random.Random, per_template: int) -> list[tuple[str, world.Fact]]:
    out = []
    for kind, facts in C.facts_by_kind().items():
        for template in C.HELD_OUT_TEMPLATES[kind]:
            if kind.startswith("yes"):
                yes, no = ([f for f in facts if f.gold == g] for g in ("Yes", "No"))
                chosen = rng.sample(yes, per_template // 2) + rng.sample(no, per_template - per_template // 2)
            else:
                chosen = rng.sample(facts, min(per_template, len(facts)))
            out += [(world.fill(template, dict(f.slots), f.he), f) for f in chosen]
    for template, i in C.SINGLE_HELD_OUT:
        out.append((template, world.Fact("single", (), world.SINGLES[i][0], world.SINGLES[i][1])))
    return out


def says(answer: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words.lower())}\b", answer.lower()) is not None


def is_right(answer: str, f: world.Fact) -> bool:
    if f.kind.startswith("yes"):
        return answer.startswith(f.gold)
    return says(answer, f.gold) and not any(says(answer, w) for w in f.wrong)


def json_right(answer: str, want: object) -> tuple[bool, bool, bool]:
    """Whether it parses, has the asked keys, and has the right values too."""
    try:
        got = json.loads(answer)
    except json.JSONDecodeError:
        return False, False, False
    keys = set(got) == set(want) if isinstance(got, dict) and isinstance(want, dict) else type(got) is type(want)
    return True, keys, got == want


def measure(chat: Chat, seed: int, per_template: int) -> tuple[dict[str, Tally], int]:
    rng = random.Random(seed)
    questions = make_questions(rng, per_template)
    sums: dict[str, C.Turn] = {}
    while len(sums) < 400:
        turn = C.sum_turn(rng, C.PLUS_HELD_OUT, C.MINUS_HELD_OUT, small=True)
        sums[turn.user] = turn
    objects: dict[str, tuple[C.Turn, str]] = {}
    while len(objects) < 300:
        turn, kind = C.json_turn(rng, held_out=True)
        objects[turn.user] = (turn, kind)
    held = check_disjoint({q for q, _ in questions} | set(sums) | set(objects), seed + 1)

    tallies: dict[str, Tally] = defaultdict(Tally)
    for (user, fact), answer in zip(questions, chat.answers([q for q, _ in questions])):
        tallies["questions"].add(fact.kind, is_right(answer, fact), user, answer)
    for (user, turn), answer in zip(sums.items(), chat.answers(list(sums))):
        value = turn.answer.rstrip(".").split(" is ")[1]
        kind = ("plus" if "plus" in turn.answer else "minus") + (", digits" if re.search(r"\d", user) else ", words")
        tallies["sums"].add(kind, re.findall(r"\d+", answer)[-1:] == [value], user, answer)
    for (user, (turn, kind)), answer in zip(objects.items(), chat.answers(list(objects))):
        results = json_right(answer, json.loads(turn.answer))
        for name, ok in zip(("JSON parses", "JSON has the asked keys", "JSON has the right values"), results):
            tallies[name].add(kind, ok, user, answer)
    return tallies, held


BARS = {"questions": 0.95, "sums": 0.90, "JSON parses": 0.95, "JSON has the asked keys": 0.95}


def show_samples(chat: Chat) -> None:
    torch.manual_seed(3)
    for user in ["Tell me a short story about a fox and a lantern.", "Write a story about an otter by the sea.", "Tell me a story.", "Tell me a story about a brave mouse called Ivy.",
                 "Who are you?", "Who keeps the goat?", "What is 8 - 5?", "Describe Nora as JSON with the keys name, job and colour.", "What is the capital of Norway?"]:
        print(f"> {user}\n{chat.generate([chat.prompt([{'role': 'user', 'content': user}])], 260, 0.7)[0]}\n")
    for place in stories.PLACES[:1]:
        print(f"(continued) {chat.generate([chat.tok.encode('Once upon a time, ' + place).ids], 220, 0.7)[0]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--per-template", type=int, default=8, help="questions asked with each held-out template")
    parser.add_argument("--samples", action="store_true")
    parser.add_argument("--wrong", type=int, default=10, help="wrong answers to print of each sort")
    args = parser.parse_args()
    torch.set_num_threads(1)
    chat = Chat(args.directory)
    if args.samples:
        show_samples(chat)
        return 0
    tallies, held = measure(chat, args.seed, args.per_template)
    print(f"{held} held-out templates, none of them trained on")
    missed = 0
    for name, t in tallies.items():
        bar = BARS.get(name)
        missed += bar is not None and t.share < bar
        print(f"{name:26} {t.right:4}/{t.total:<4} {100 * t.share:5.1f} %" + (f"  (bar {100 * bar:.0f} %)" if bar else ""))
        low = [f"{k} {t.by_kind[k]}/{n}" for k, n in sorted(t.kinds.items()) if t.by_kind[k] < n]
        if low:
            print("    not perfect: " + ", ".join(low))
        for line in random.Random(0).sample(t.wrong, min(args.wrong, len(t.wrong))):
            print("    " + line)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
