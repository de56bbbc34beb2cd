"""Makes the training text: conversations about the closed world, sums, JSON, stories and small talk.

Everything here draws from a seeded `random.Random`; nothing is downloaded. `python corpus.py 20` prints a sample.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import phrasings
import stories
import talk
import world
from world import PEOPLE, expand, fill

Message = dict[str, str]


@dataclass(frozen=True)
class Turn:
    """A question, its answer, and the person it is about (for follow-up questions)."""
    user: str
    answer: str
    person: world.Person | None = None


NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
                "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
THING_WORDS = ["apples", "eggs", "books", "coins", "cakes", "boats", "hens", "cups", "stones", "nuts", "keys", "flowers", "pears", "bells"]

PLUS_TRAIN = [e for t in [
    "What is <A> plus <B>?", "What's <A> plus <B>?", "<A> + <B>", "<A> + <B> =", "<A>+<B>", "<A>+<B>=?", "What is <A> + <B>?", "<A> plus <B>?",
    "<A> plus <B>", "{How much is|Calculate|Compute|Work out|Tell me} <A> {plus|+} <B>.", "How much is <A> {plus|+|and} <B>?", "What is <A> and <B>?",
    "Add <A> and <B>.", "Add <B> to <A>.", "{What is|Tell me|Calculate} the sum of <A> and <B>.", "What is the sum of <A> and <B>?",
    "What do you get if you add <A> and <B>?", "What does <A> plus <B> {make|give|equal}?", "If I add <B> to <A>, what do I get?",
    "I have <A> <T> and get <B> more. How many <T> do I have?", "There are <A> <T> here and <B> <T> there. How many <T> are there{ together|}?",
    "<P> has <A> <T> and buys <B> more. How many <T> does <P> have{ now|}?", "<A> <T> and <B> <T> make how many <T>?",
    "<P> finds <A> <T> and then <B> <T>. How many is that?", "Sum: <A> and <B>.", "Can you add <A> and <B>?", "What is the total of <A> and <B>?",
] for e in expand(t)]
PLUS_HELD_OUT = [e for t in [
    "Please add <A> and <B> for me.", "What number is <A> plus <B>?", "What is the answer to <A> + <B>?", "Do you know how much <A> plus <B> is?",
    "If you add <A> to <B>, what is the total?", "<P> has <A> <T>. Then <P> finds <B> more. How many <T> are there now?",
    "How many are <A> and <B> together?", "I get <A> <T> and then <B> <T>. How many <T> do I have now?",
] for e in expand(t)]
MINUS_TRAIN = [e for t in [
    "What is <A> minus <B>?", "What's <A> minus <B>?", "<A> - <B>", "<A> - <B> =", "<A>-<B>", "<A>-<B>=?", "What is <A> - <B>?", "<A> minus <B>?",
    "<A> minus <B>", "{How much is|Calculate|Compute|Work out|Tell me} <A> {minus|-} <B>.", "How much is <A> {minus|-|less} <B>?",
    "{Subtract|Take} <B> from <A>.", "Take <B> away from <A>.", "What is <A> take away <B>?", "What do you get if you {take|subtract} <B> from <A>?",
    "What does <A> minus <B> {make|give|equal}?", "If I take <B> from <A>, what do I get?", "What is the difference {of|between} <A> and <B>?",
    "I have <A> <T> and give <B> away. How many <T> do I have?", "There are <A> <T>, and <B> are taken away. How many <T> are left?",
    "<P> has <A> <T> and loses <B>. How many <T> does <P> have{ now|}?", "<P> had <A> <T> and sold <B>. How many are left?",
    "Can you subtract <B> from <A>?", "Difference: <A> and <B>.",
] for e in expand(t)]
MINUS_HELD_OUT = [e for t in [
    "Please subtract <B> from <A> for me.", "What number is <A> minus <B>?", "What is the answer to <A> - <B>?", "Do you know how much <A> minus <B> is?",
    "If you take <B> away from <A>, how much is left?", "<P> has <A> <T>. Then <P> loses <B>. How many <T> are left?",
    "There are <A> <T>. I take <B> away. How many <T> are left?",
] for e in expand(t)]

JSON_KEYS = {"name": "name", "job": "job", "pet": "pet", "colour": "colour", "food": "food", "home": "home", "instrument": "instrument", "pet_name": "pet_name"}
JSON_TRAIN = [e for t in [
    "{Give|Send|Show|Write} me {JSON|a JSON object} {about|for|on} <P> with {the keys|the fields|keys|fields} <K>.",
    "Describe <P> {as|in} JSON with {the keys|the fields|keys} <K>.", "{Write|Make|Create|Return} {JSON|a JSON object} {about|for} <P> with <K>.",
    "{Return|Answer with|Reply with} JSON{ only|}: <K> {of|for} <P>.", "JSON for <P> with keys <K>.", "<P> as JSON, {keys|fields} <K>.",
    "I need {JSON|a JSON object} about <P>. {The keys are|Keys:|Use the keys} <K>.", "Who is <P>? Answer in JSON with {the keys |keys |}<K>.",
    "{Put|Write} the <K> of <P> into {JSON|a JSON object}.", "Tell me about <P> in JSON. {Use the fields|The fields are|Fields:} <K>.",
    "As JSON, please: <P>, with {the keys|the fields} <K>.", "What is the <K> of <P>? {Use JSON|Answer in JSON|Reply in JSON}.",
] for e in expand(t)]
JSON_HELD_OUT = [e for t in [
    "Please make a JSON object about <P> that has the keys <K>.", "Can you describe <P> as a JSON object with the fields <K>?",
    "I would like JSON about <P>, with the keys <K>.", "Answer in JSON, please: <K> of <P>.", "Show <P> as JSON with the fields <K>.",
    "Reply with a JSON object for <P>. The keys are <K>.",
] for e in expand(t)]
JSON_BARE_TRAIN = [e for t in ["Describe <P> {as|in} JSON.", "Give me JSON {about|for} <P>.", "{Write|Make|Return} a JSON object {about|for} <P>.", "Who is <P>? Answer in JSON.",
                               "<P> as JSON."] for e in expand(t)]
JSON_BARE_HELD_OUT = [e for t in ["Please tell me about <P> in JSON.", "Can you make a JSON object for <P>?"] for e in expand(t)]
JSON_SUM_TRAIN = [e for t in ["Give me {the sum of <A> and <B>|<A> plus <B>|<A> + <B>} {as|in} JSON{ with the keys a, b and sum|}.",
                              "{What is|Calculate} {<A> plus <B>|the sum of <A> and <B>}? {Answer in|Use|Reply in} JSON.", "Add <A> and <B>. {Return|Answer in|Reply with} JSON.",
                              "JSON: <A> + <B>"] for e in expand(t)]
JSON_SUM_HELD_OUT = ["Please add <A> and <B> and answer in JSON.", "Show <A> plus <B> as JSON."]
JSON_ANIMAL_TRAIN = [e for t in ["Describe {a|the} <N> {as|in} JSON.", "Give me {JSON|a JSON object} about {a|the} <N>{ with the keys animal, sound and legs|}.",
                                 "{Write|Make|Return} a JSON object for {a|the} <N>{ with animal, sound and legs|}.", "The <N> as JSON."] for e in expand(t)]
JSON_ANIMAL_HELD_OUT = ["Please make a JSON object about a <N>.", "Can you describe a <N> in JSON?"]
JSON_LIST_TRAIN = [e for t in ["{List|Give me|Write|Return|Name} <L> as a JSON {array|list}.", "Give me a JSON {array|list} of <L>.", "<L> as JSON.", "JSON array of <L>, please.",
                               "{List|Name} <L>. {Answer in|Use|Reply with} JSON."] for e in expand(t)]
JSON_LIST_HELD_OUT = ["Please give me <L> in a JSON array.", "Can you list <L> as JSON?"]
LISTS = {"the days of the week": world.DAYS, "the people of Lockwell": [p.name for p in PEOPLE], "the pets of Lockwell": [p.pet for p in PEOPLE],
         "the places in Lockwell": list(world.PLACES), "the numbers from one to five": [1, 2, 3, 4, 5], "the four seasons": ["spring", "summer", "autumn", "winter"],
         "three colours": ["red", "green", "blue"], "three animals": ["cat", "dog", "horse"]}
JSON_COPY_TRAIN = [e for t in ["{Turn this into|Write this as|Put this into|Make} JSON: <R>.", "{Convert to JSON|As JSON}: <R>.", "JSON with <R>.",
                               "Make a JSON object {where|in which} <R>."] for e in expand(t)]
JSON_COPY_HELD_OUT = ["Please write JSON for this: <R>.", "Return this as a JSON object: <R>."]
COPY_VALUES: dict[str, list] = {"name": stories.NAMES["he"] + stories.NAMES["she"] + [p.name for p in PEOPLE], "age": list(range(1, 100)), "colour": [p.colour for p in PEOPLE],
                                "animal": stories.KINDS, "city": ["Paris", "Rome", "London", "Berlin", "Oslo", "Madrid", "Vienna", "Lisbon"], "open": [True, False],
                                "count": list(range(1, 100)), "thing": stories.THINGS}

FOLLOW_UP = {"job": ["{And what|What} is <his> job?", "What does <he> do?"], "pet": ["{And what|What} pet does <he> have?", "Does <he> have a pet?"],
             "colour": ["{And what|What} is <his> favourite colour?"], "food": ["{And what|What} does <he> like to eat?", "What is <his> favourite food?"],
             "home": ["{And where|Where} does <he> live?", "Where is <his> house?"], "instrument": ["{And what|What} instrument does <he> play?"]}
STRANGERS = ["Peter", "Karl", "Sophie", "David", "Julia", "Marcus", "Olga", "Henry", "Alice", "Robert", "Yuki", "Amir", "Maria", "Paul", "Greta", "Victor", "Susan", "Ahmed",
             "Lucy", "George", "Martin", "Eva", "Oliver", "Sarah", "Walter", "Emma", "Noah", "Laura", "Frank", "Helen"]


def question(rng: random.Random, kinds: dict[str, list[world.Fact]], templates: dict[str, list[str]]) -> Turn:
    kind = rng.choice([*kinds, "yes_job", "yes_pet"])   # yes or no: twice as often, they are the hardest
    if kind.startswith("yes"):   # as many Yes as No
        want = rng.choice(["Yes", "No"])
        fact = rng.choice([f for f in kinds[kind] if f.gold == want])
    else:
        fact = rng.choice(kinds[kind])
    person = next((p for p in PEOPLE if re.search(rf"\b{p.name}\b", fact.answer)), None)
    return Turn(fill(rng.choice(templates[kind]), dict(fact.slots), fact.he), fact.answer, person)


def person_json(p: world.Person, keys: list[str]) -> str:
    return json.dumps({k: getattr(p, k) for k in keys})


def key_list(rng: random.Random, keys: list[str], quotes: bool = True) -> str:
    ks = [f'"{k}"' for k in keys] if quotes and rng.random() < 0.25 else keys
    if len(ks) == 1:
        return ks[0]
    return rng.choice([", ".join(ks[:-1]) + " and " + ks[-1], ", ".join(ks[:-1]) + " and " + ks[-1], ", ".join(ks)])


def sum_turn(rng: random.Random, plus: list[str], minus: list[str], small: bool = False) -> Turn:
    small = small or rng.random() < 0.7
    a, b = rng.randint(0, 9 if small else 20), rng.randint(0, 9)
    add = rng.random() < 0.5
    if not add and a < b:
        a, b = b, a
    t = rng.choice(plus if add else minus)
    words = rng.random() < 0.25
    x, y = (NUMBER_WORDS[a], NUMBER_WORDS[b]) if words else (str(a), str(b))
    user = fill(t, {"A": x, "B": y, "T": rng.choice(THING_WORDS), "P": rng.choice([p.name for p in PEOPLE] + COPY_VALUES["name"])})
    return Turn(user, f"{a} plus {b} is {a + b}." if add else f"{a} minus {b} is {a - b}.")


def json_turn(rng: random.Random, held_out: bool = False) -> tuple[Turn, str]:
    """A request for JSON and the object that answers it; the second value names the kind."""
    kind = rng.choices(["person", "bare", "sum", "animal", "list", "copy"], [50, 8, 10, 10, 8, 14])[0]

    def pick(train: list[str], test: list[str]) -> str:
        return rng.choice(test if held_out else train)
    if kind == "person":
        p, keys = rng.choice(PEOPLE), rng.sample(list(JSON_KEYS), rng.randint(1, 5))
        if rng.random() < 0.5 and "name" in keys:
            keys.sort(key=lambda k: k != "name")
        return Turn(fill(pick(JSON_TRAIN, JSON_HELD_OUT), {"P": p.name, "K": key_list(rng, keys)}), person_json(p, keys), p), kind
    if kind == "bare":
        p = rng.choice(PEOPLE)
        return Turn(fill(pick(JSON_BARE_TRAIN, JSON_BARE_HELD_OUT), {"P": p.name}), person_json(p, ["name", "job", "pet"]), p), kind
    if kind == "sum":
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        return Turn(fill(pick(JSON_SUM_TRAIN, JSON_SUM_HELD_OUT), {"A": str(a), "B": str(b)}), json.dumps({"a": a, "b": b, "sum": a + b})), kind
    if kind == "animal":
        a = rng.choice([x for x in world.SOUNDS if x in world.LEGS])
        legs = NUMBER_WORDS.index(world.LEGS[a])
        return Turn(fill(pick(JSON_ANIMAL_TRAIN, JSON_ANIMAL_HELD_OUT), {"N": a}), json.dumps({"animal": a, "sound": world.SOUNDS[a], "legs": legs})), kind
    if kind == "list":
        name = rng.choice(list(LISTS))
        return Turn(fill(pick(JSON_LIST_TRAIN, JSON_LIST_HELD_OUT), {"L": name}), json.dumps(LISTS[name])), kind
    keys = rng.sample(list(COPY_VALUES), rng.randint(1, 4))
    obj = {k: rng.choice(COPY_VALUES[k]) for k in keys}
    joiner = rng.choice([" is ", " is ", ": ", " = "])
    parts = [f"{k}{joiner}{str(v).lower() if isinstance(v, bool) else v}" for k, v in obj.items()]
    return Turn(fill(pick(JSON_COPY_TRAIN, JSON_COPY_HELD_OUT), {"R": rng.choice([", ".join(parts), key_list(rng, parts, False)])}), json.dumps(obj)), kind


def story_turn(rng: random.Random) -> Turn:
    story, s = stories.make_story(rng)
    kind = rng.choice(list(stories.REQUEST_TRAIN))
    return Turn(stories._fill(rng.choice(expand(rng.choice(stories.REQUEST_TRAIN[kind]))), s), story)


def talk_turn(rng: random.Random) -> Turn:
    if rng.random() < 0.3:   # somebody who does not live in Lockwell
        kind = rng.choice(["job", "pet", "colour", "food", "home", "instrument"])
        name = rng.choice(STRANGERS)
        return Turn(fill(rng.choice(TRAIN_TEMPLATES[kind]), {"P": name}), f"I do not know anyone called {name}.")
    prompts, answers = rng.choice(talk.TOPICS)
    user = rng.choice(expand(rng.choice(prompts)))
    return Turn(fill(user, {"X": rng.choice(talk.UNKNOWN), "N": rng.choice(STRANGERS)}), rng.choice(answers))


TRAIN_TEMPLATES = {k: [e for t in train + phrasings.EXTRA.get(k, []) for e in expand(t)] for k, (train, _) in world.TEMPLATES.items()}
HELD_OUT_TEMPLATES = {k: [e for t in test for e in expand(t)] for k, (_, test) in world.TEMPLATES.items()}
SINGLE_TRAIN = [(e, i) for i, s in enumerate(world.SINGLES) for t in s[2] for e in expand(t)]
SINGLE_HELD_OUT = [(e, i) for i, s in enumerate(world.SINGLES) for t in s[3] for e in expand(t)]


def facts_by_kind() -> dict[str, list[world.Fact]]:
    out: dict[str, list[world.Fact]] = {}
    for f in world.facts():
        out.setdefault(f.kind, []).append(f)
    return out


class Corpus:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.facts = facts_by_kind()
        self.makers: list[tuple[Callable[[], Turn], float]] = [
            (self.question_turn, 0.50), (lambda: sum_turn(self.rng, PLUS_TRAIN, MINUS_TRAIN), 0.20),
            (lambda: json_turn(self.rng)[0], 0.16), (lambda: story_turn(self.rng), 0.07), (lambda: talk_turn(self.rng), 0.07)]

    def question_turn(self) -> Turn:
        if self.rng.random() < 0.06:
            text, i = self.rng.choice(SINGLE_TRAIN)
            return Turn(text, world.SINGLES[i][0])
        return question(self.rng, self.facts, TRAIN_TEMPLATES)

    def follow_up(self, p: world.Person) -> Turn:
        kind = self.rng.choice(list(FOLLOW_UP))
        answer = next(f.answer for f in self.facts[kind] if dict(f.slots)["P"] == p.name)
        return Turn(self.rng.choice(expand(self.rng.choice(FOLLOW_UP[kind]))).replace("<he>", p.he).replace("<his>", p.his), answer, p)

    def noisy(self, text: str) -> str:
        """What people do to a sentence: no capitals, no full stop, a greeting before it, a word left out."""
        rng = self.rng
        if rng.random() < 0.06:
            words = text.split(" ")
            drop = [i for i, w in enumerate(words) if w.lower() in ("the", "a", "is", "does", "please", "of", "do", "in", "me")]
            if drop:
                del words[rng.choice(drop)]
                text = " ".join(words)
        if rng.random() < 0.25:
            before = rng.choice(talk.BEFORE)
            keep = text.startswith(("I ", "I'd", "JSON")) or any(text.startswith(n) for n in COPY_VALUES["name"] + STRANGERS + world.DAYS)
            text = before + (text[0].lower() + text[1:] if before[-2] in ",:" and not keep else text)
        if rng.random() < 0.12:
            text = text + rng.choice(talk.AFTER)
        r = rng.random()
        if r < 0.10:
            text = text.lower()
        if r < 0.05 or r > 0.92:
            text = text.rstrip("?.!")
        return text

    def conversation(self) -> list[Message]:
        rng, messages = self.rng, []
        if rng.random() < 0.2:
            messages.append({"role": "system", "content": rng.choice(talk.SYSTEM)})
        person = None
        for _ in range(rng.choices([1, 2, 3, 4], [55, 22, 14, 9])[0]):
            if person and rng.random() < 0.4:
                turn = self.follow_up(person)
            else:
                turn = rng.choices([m for m, _ in self.makers], [w for _, w in self.makers])[0]()
            person = turn.person
            messages += [{"role": "user", "content": self.noisy(turn.user)}, {"role": "assistant", "content": turn.answer}]
        return messages

    def document(self) -> str:
        """Plain text without turns, so that the model can also be asked to continue a text."""
        return stories.make_story(self.rng)[0]


if __name__ == "__main__":
    corpus = Corpus(7)
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 10):
        for m in corpus.conversation():
            print(f"{m['role']:>9}: {m['content']}")
        print()
