"""The closed world of the demo model: the village of Lockwell, and how to ask about it.

Templates are written in a small notation. `{a|b|}` is a choice, `<P>` is a slot. TRAIN_* templates are the only
ones that reach the training text; HELD_OUT templates are kept for evaluate.py, which asserts that the two sets
do not meet.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    name: str
    he: str
    his: str
    job: str
    pet: str
    pet_name: str
    colour: str
    food: str
    home: str
    instrument: str


PEOPLE = [
    Person("Mara", "she", "her", "sluice keeper", "cat", "Pip", "blue", "plum cake", "lock house", "fiddle"),
    Person("Otto", "he", "his", "baker", "goat", "Biscuit", "yellow", "apple pie", "corner house", "drum"),
    Person("Ines", "she", "her", "teacher", "parrot", "Comma", "red", "tomato soup", "school house", "piano"),
    Person("Tomas", "he", "his", "miller", "donkey", "Barley", "white", "fresh bread", "windmill", "horn"),
    Person("Petra", "she", "her", "boat builder", "duck", "Anchor", "green", "fried fish", "boat shed", "banjo"),
    Person("Hugo", "he", "his", "gardener", "tortoise", "Moss", "orange", "carrot stew", "rose cottage", "flute"),
    Person("Lena", "she", "her", "doctor", "rabbit", "Button", "pink", "rice pudding", "hill house", "harp"),
    Person("Felix", "he", "his", "fisherman", "otter", "Ripple", "grey", "cheese toast", "river hut", "whistle"),
    Person("Rosa", "she", "her", "weaver", "sheep", "Cloud", "purple", "honey cake", "wool loft", "guitar"),
    Person("Emil", "he", "his", "blacksmith", "horse", "Ember", "black", "potato pie", "forge", "trumpet"),
    Person("Nora", "she", "her", "librarian", "owl", "Page", "brown", "mushroom soup", "tower", "cello"),
    Person("Jonas", "he", "his", "postman", "dog", "Stamp", "gold", "pea soup", "red cottage", "accordion"),
]

# Place: where it is, and what it is good for.
PLACES = {
    "bakery": ("next to the market square", "buy bread and cakes"),
    "library": ("at the foot of the tower", "borrow books"),
    "school": ("behind the church", "learn to read and write"),
    "market": ("in the middle of the village", "buy fruit and vegetables"),
    "mill": ("on the windy hill", "have corn ground into flour"),
    "harbour": ("where the canal meets the river", "hire a boat"),
    "inn": ("beside the stone bridge", "eat and sleep"),
    "post office": ("across from the school", "send letters"),
    "church": ("at the end of Long Lane", "hear the bells"),
    "park": ("along the canal", "play and rest"),
}

SOUNDS = {"cow": "moo", "dog": "woof", "cat": "meow", "sheep": "baa", "duck": "quack", "pig": "oink", "lion": "roar",
          "horse": "neigh", "owl": "hoot", "bee": "buzz", "frog": "croak", "mouse": "squeak"}
LEGS = {"cow": "four", "dog": "four", "cat": "four", "duck": "two", "spider": "eight", "bee": "six", "horse": "four",
        "owl": "two", "ant": "six", "frog": "four", "hen": "two", "fish": "no"}
COLOUR_OF = {"grass": "green", "snow": "white", "the sky": "blue", "blood": "red", "coal": "black", "a lemon": "yellow",
             "a carrot": "orange", "milk": "white", "a crow": "black", "a banana": "yellow", "chocolate": "brown",
             "a leaf": "green"}
OPPOSITES = [("hot", "cold"), ("big", "small"), ("up", "down"), ("day", "night"), ("happy", "sad"), ("fast", "slow"),
             ("old", "young"), ("wet", "dry"), ("open", "closed"), ("full", "empty"), ("light", "dark"),
             ("hard", "soft"), ("early", "late"), ("long", "short")]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

_PET = "{pet|animal}"
_FAV = "{favourite|favorite}"
_COL = "{colour|color}"
_TELL = "{Tell me|Say|Name|Give me|Please tell me}"
_KNOW = "{Do you know|Can you tell me|Could you tell me|Can you say|Would you tell me|I want to know|I would like to know}"

# kind -> (training templates, held-out templates)
TEMPLATES: dict[str, tuple[list[str], list[str]]] = {
    "job": ([
        "What {is|'s} <P>'s {job|work|trade|profession|occupation}?", "What does <P> do {for a living|for work|all day|}?",
        "What {job|work|trade} does <P> {have|do}?", "What is the {job|work|trade|occupation} of <P>?",
        _TELL + " {the job of <P>|<P>'s job|<P>'s trade}.", _KNOW + " what <P> does{ for a living| for work|}?",
        _KNOW + " <P>'s {job|profession|trade}?", "How does <P> earn {money|a living}?", "What is <P>?",
        "<P> works as what?", "What kind of {work|job} does <P> {do|have}?", "<P>'s {job|occupation}?",
        "{In Lockwell, what|What} does <P> work as?",
    ], [
        "Which trade is <P>'s?", "What sort of work does <P> do in the village?", "Please name the job that <P> does.",
        "I would like to hear what <P> does for a living.", "<P> has which job?", "Could you say what <P>'s work is?",
    ]),
    "who_job": ([
        "Who is the <J>{| in Lockwell| of Lockwell| in the village}?", "Who works as {the|a} <J>?",
        "What is the name of the <J>?", "What {is|'s} the <J>'s name?", "Which person is the <J>?", _TELL + " who the <J> is.",
        _KNOW + " who the <J> is?", "Who {in the village |}has the job of <J>?", "Name the <J>.", "The <J> is who?",
        "Who does the work of {the|a} <J>?", "What is the <J> called?", "Is there a <J> in Lockwell?",
        _TELL + " the name of the <J>.", _KNOW + " the <J>'s name?",
    ], [
        "Which person works as the <J>?", "Please say who is the <J> in the village.", "Who is it that works as the <J>?",
        "What name does the <J> have?", "I am looking for the <J>. Who is it?",
    ]),
    "pet": ([
        "What " + _PET + " does <P> have?", "What {kind|sort} of " + _PET + " does <P> {have|keep|own}?",
        "Which " + _PET + " {belongs to <P>|does <P> keep|does <P> own}?", "What is <P>'s " + _PET + "?",
        "Does <P> have {a pet|an animal}?", _TELL + " what " + _PET + " <P> has.", _KNOW + " what " + _PET + " <P> {has|keeps}?",
        "<P>'s pet?", "What animal lives with <P>?", _TELL + " <P>'s pet.", _TELL + " about <P>'s pet.",
        "{Tell me|Say} which " + _PET + " <P> has.", "What is the pet of <P>?", "<P> has what pet?",
    ], [
        "Which kind of animal does <P> own?", "Please say what <P> keeps as a pet.", "I want to hear about the animal of <P>.",
        "What animal is <P>'s pet?", "Would you say which pet lives with <P>?",
    ]),
    "who_pet": ([
        "Who {has|owns|keeps} {the|a} <A>?", "Who does the <A> belong to?", "Whose {pet|animal} is the <A>?", "Whose is the <A>?",
        "Which person {has|owns|keeps} {the|a} <A>?", _TELL + " who {has|owns} the <A>.", _KNOW + " who {has|owns|keeps} {the|a} <A>?",
        "Who in {Lockwell|the village} {has|keeps} {the|a} <A>?", "Who is the owner of the <A>?", "The <A> belongs to whom?",
        "Who has a pet <A>?", "Who lives with {the|a} <A>?",
    ], [
        "To whom does the <A> belong?", "Which person in the village keeps {the|a} <A>?", "Name the person who owns the <A>.",
        "Who is it that has {the|a} <A> as a pet?", "Please say whose <A> it is.",
    ]),
    "pet_name": ([
        "What is <P>'s {pet|animal|<A>} called?", "What is the name of <P>'s {pet|animal|<A>}?",
        "What's <P>'s {pet|<A>}'s name?", "What does <P> call {her|his} {pet|<A>}?", "How is <P>'s {pet|<A>} called?",
        _TELL + " the name of <P>'s {pet|animal|<A>}.", _KNOW + " the name of <P>'s {pet|<A>}?", "<P>'s {pet|<A>} has what name?",
        _KNOW + " what <P>'s {pet|<A>} is called?", "What name does <P>'s {pet|<A>} have?", "Who is <P>'s {pet|<A>}?",
    ], [
        "Which name has <P>'s {pet|<A>}?", "What is the {pet|<A>} of <P> called?", "Please name <P>'s {pet|<A>}.",
        "By what name does <P> call the {pet|<A>}?",
    ]),
    "colour": ([
        "What is <P>'s " + _FAV + " " + _COL + "?", "What's <P>'s " + _FAV + " " + _COL + "?",
        "{What|Which} " + _COL + " does <P> {like|love} {best|most|the most|}?", "Which " + _COL + " is <P>'s " + _FAV + "?",
        _TELL + " <P>'s " + _FAV + " " + _COL + ".", _KNOW + " <P>'s " + _FAV + " " + _COL + "?",
        _KNOW + " {what|which} " + _COL + " <P> likes {best|most|}?", "What " + _COL + " is <P> fond of?",
        "The " + _FAV + " " + _COL + " of <P> is what?", "<P>'s " + _FAV + " " + _COL + "?", "What is the " + _FAV + " " + _COL + " of <P>?",
    ], [
        "Which " + _COL + " does <P> like most of all?", "Please name the " + _COL + " that <P> likes.",
        "Which is the " + _COL + " <P> likes the most?", "<P> likes which " + _COL + " best?",
    ]),
    "food": ([
        "What is <P>'s " + _FAV + " {food|dish|meal}?", "What does <P> {like|love} to eat{| best| most}?",
        "{What|Which} {food|dish|meal} does <P> {like|love} {best|most|the most|}?", _TELL + " <P>'s " + _FAV + " {food|dish|meal}.",
        _KNOW + " <P>'s " + _FAV + " {food|dish|meal}?", _KNOW + " what <P> likes to eat?", "What does <P> {enjoy eating|eat}?",
        "<P>'s " + _FAV + " {food|meal}?", "What is the " + _FAV + " {food|dish} of <P>?", "What should I cook for <P>?",
        "What does <P> want for {dinner|lunch}?",
    ], [
        "Which meal is <P>'s " + _FAV + "?", "Please say what food <P> likes most.", "What would <P> love to have for dinner?",
        "What is it that <P> likes to eat?",
    ]),
    "home": ([
        "Where does <P> live?", "Where is <P>'s {home|house}?", "Where is the {home|house} of <P>?", "In {what|which} {house|place} does <P> live?",
        _TELL + " where <P> lives.", _KNOW + " where <P> lives?", "Where can I {find|visit|meet} <P>?", "What is <P>'s home?",
        "<P> lives where?", "What is <P>'s address?", "Where does <P> {sleep|stay}?", "{What|Which} house does <P> live in?",
    ], [
        "At which house can I visit <P>?", "Please say where the home of <P> is.", "Where would I go to find <P> at home?",
        "In what place is <P> living?",
    ]),
    "who_home": ([
        "Who lives in the <H>?", "Whose {home|house} is the <H>?", "Who is {living|at home} in the <H>?", "Which person lives in the <H>?",
        _TELL + " who lives in the <H>.", _KNOW + " who lives in the <H>?", "Who has {a home|a house} in the <H>?",
        "The <H> is the home of whom?", "Who {sleeps|stays} in the <H>?", "Who can I {visit|meet|find} in the <H>?",
    ], [
        "Which person has a home in the <H>?", "Name the person who lives in the <H>.", "If I visit the <H>, who lives there?",
        "Who is it that lives in the <H>?",
    ]),
    "instrument": ([
        "{What|Which} instrument does <P> play?", "What does <P> play?", "What is <P>'s instrument?",
        "What {kind|sort} of instrument does <P> {play|have}?", _TELL + " {what|which} instrument <P> plays.",
        _KNOW + " {what|which} instrument <P> plays?", "What music does <P> {make|play}?", "Does <P> play an instrument?",
        "<P> plays what?", "<P>'s instrument?", "What is the instrument of <P>?", "What can <P> play?",
    ], [
        "On which instrument does <P> make music?", "Please name the instrument that <P> plays.", "Which is the instrument of <P>?",
        "When there is music, what does <P> play?",
    ]),
    "who_instrument": ([
        "Who plays the <I>?", "Who {can play|knows how to play} the <I>?", "Who has {the|a} <I>?", "Which person plays the <I>?",
        _TELL + " who plays the <I>.", _KNOW + " who plays the <I>?", "Who in {Lockwell|the village} plays the <I>?",
        "Who makes music {on|with} the <I>?", "Whose instrument is the <I>?", "The <I> is played by whom?",
    ], [
        "Which person can play the <I>?", "Name the person who plays the <I>.", "By whom is the <I> played?",
        "Who is it that plays the <I> in the village?",
    ]),
    "about": ([
        "Who is <P>?", _TELL + " about <P>.", "Do you know <P>?", "What do you know about <P>?", "Can you tell me about <P>?",
        "Tell me {something|more} about <P>.", "Describe <P>.", "What can you tell me about <P>?", "<P>?", "Introduce <P>.",
    ], ["Please say who <P> is.", "I want to hear about <P>.", "What can you say about <P>?"]),
    "yes_job": ([
        "Is <P> {the|a} <J>?", "Does <P> work as {the|a} <J>?", "<P> is the <J>, {right|isn't it|is that right|is that true}?",
        "Is the <J> called <P>?", "Is it true that <P> is the <J>?", "Is <P>'s job <J>?", "Am I right that <P> is the <J>?",
    ], ["Is it right that <P> works as the <J>?", "Is the name of the <J> <P>?", "Is <P> the <J> of the village?"]),
    "yes_pet": ([
        "Does <P> {have|own|keep} {a|the} <A>?", "Is <P>'s pet {a|the} <A>?", "<P> has a <A>, {right|is that right|is that true}?",
        "Is it true that <P> {has|owns|keeps} a <A>?", "Does the <A> belong to <P>?", "Am I right that <P> has a <A>?",
    ], ["Is it right that <P> keeps a <A>?", "Is the <A> <P>'s pet?", "Is <P> the owner of the <A>?"]),
    "where": ([
        "Where is the <L>?", "Where {can|do|will} I find the <L>?", "Where does the <L> stand?", "How do I get to the <L>?",
        _TELL + " where the <L> is.", _KNOW + " where the <L> is?", "In what place is the <L>?", "I am looking for the <L>.",
        "Where in {Lockwell|the village} is the <L>?", "Which way is the <L>?", "Where's the <L>?", "The <L> is where?",
    ], [
        "Please say where I can find the <L>.", "How can I find the <L>?", "Where would I go to get to the <L>?",
        "I want to go to the <L>. Where is it?",
    ]),
    "use": ([
        "What can {I|you|people|we} do at the <L>?", "What is the <L> {good |}for?", "What do people do at the <L>?", "Why {do people|should I} go to the <L>?",
        _TELL + " what I can do at the <L>.", _KNOW + " what I can do at the <L>?", "What happens at the <L>?", "What is there to do at the <L>?",
    ], ["For what do people go to the <L>?", "Why would I go to the <L>?", "Please say what people can do at the <L>."]),
    "sound": ([
        "What {sound|noise} does {a|the} <A> make?", "What does {a|the} <A> say?", "What is the {sound|noise} of {a|the} <A>?",
        "How does {a|the} <A> {sound|go}?", _TELL + " {what|which} sound a <A> makes.", _KNOW + " what sound a <A> makes?",
        "Which {sound|noise} comes from a <A>?", "What {sound|noise} do you hear from a <A>?",
    ], ["Which sound does {a|the} <A> make?", "Please say what noise a <A> makes.", "What can I hear a <A> say?"]),
    "legs": ([
        "How many legs does {a|the} <A> have?", "How many legs {has a <A> got|are on a <A>}?", "What number of legs does a <A> have?",
        _TELL + " how many legs a <A> has.", _KNOW + " how many legs a <A> has?", "A <A> has how many legs?", "Count the legs of a <A>.",
        "On how many legs does a <A> walk?",
    ], ["Please count the legs a <A> has.", "What is the number of legs on a <A>?", "How many are the legs of a <A>?"]),
    "colour_of": ([
        "What " + _COL + " is <T>?", "Which " + _COL + " is <T>?", "What is the " + _COL + " of <T>?", _TELL + " the " + _COL + " of <T>.",
        _KNOW + " {what|which} " + _COL + " <T> is?", "What " + _COL + " does <T> have?", "<T> has what " + _COL + "?",
        _TELL + " what " + _COL + " <T> is.",
    ], ["Please say which " + _COL + " <T> is.", "<T> is what " + _COL + "?", "Which " + _COL + " does <T> have?"]),
    "opposite": ([
        "What is the opposite of <W>?", "What's the opposite of <W>?", "Which word is the opposite of <W>?", "What is not <W>?",
        _TELL + " the opposite of <W>.", _KNOW + " the opposite of <W>?", "The opposite of <W> is what?", "What word means the opposite of <W>?",
        "Opposite of <W>?",
    ], ["Please say the opposite of <W>.", "Of which word is <W> the opposite?", "Which is the opposite word of <W>?"]),
    "day_after": ([
        "{What|Which} day {comes|is} after <D>?", "What is the day after <D>?", "{What|Which} day follows <D>?", "What comes after <D>?",
        _TELL + " {what|which} day comes after <D>.", _KNOW + " what day comes after <D>?", "If today is <D>, what {is|day is} tomorrow?",
        "Today is <D>. What day is tomorrow?", "After <D> comes what day?",
    ], ["Which is the day after <D>?", "When today is <D>, what day is tomorrow?", "Please say which day follows <D>."]),
    "day_before": ([
        "{What|Which} day {comes|is} before <D>?", "What is the day before <D>?", "What comes before <D>?",
        _TELL + " {what|which} day comes before <D>.", _KNOW + " what day comes before <D>?", "If today is <D>, what day was yesterday?",
        "Today is <D>. What day was yesterday?", "Before <D> comes what day?",
    ], ["Which is the day before <D>?", "Please say which day is before <D>."]),
}

# One-off facts: (answer sentence, words that a right answer must hold, training templates, held-out templates)
SINGLES: list[tuple[str, str, list[str], list[str]]] = [
    ("The village is called Lockwell.", "Lockwell",
     ["What is the {village|town} called?", "What is the name of {the|your} village?", _TELL + " the name of the village.",
      _KNOW + " the name of the village?", "Which village do you know{ about|}?", "What village is this?"],
     ["What name does the village have?", "Please say what the village is called."]),
    ("The river in Lockwell is called the Alder.", "Alder",
     ["What is the river called?", "What is the name of the river?", "Which river {flows through|is in|runs through} {Lockwell|the village}?",
      _TELL + " the name of the river.", _KNOW + " the name of the river?", "What river is in Lockwell?"],
     ["What name does the river have?", "Please say which river flows in Lockwell."]),
    ("Market day in Lockwell is Saturday.", "Saturday",
     ["When is {market day|the market open|the market}?", "What day is {market day|the market|the market on}?", "On {what|which} day is the market?",
      _TELL + " when the market is.", _KNOW + " when market day is?", "Which day is market day?"],
     ["On which day can I go to the market?", "Please say when it is market day."]),
    ("The mayor of Lockwell is Rosa.", "Rosa",
     ["Who is the mayor{| of Lockwell| in the village}?", "What is the name of the mayor?", "Who is mayor?", _TELL + " who the mayor is.",
      _KNOW + " who the mayor is?", "Name the mayor.", "Which person is the mayor?"],
     ["Who in the village is the mayor?", "Which of the people is the mayor?"]),
    ("There are three bridges in Lockwell.", "three",
     ["How many bridges are {there|in Lockwell|in the village}?", "How many bridges does {Lockwell|the village} have?",
      _TELL + " how many bridges there are.", _KNOW + " how many bridges there are?", "Count the bridges in Lockwell."],
     ["What is the number of bridges in the village?", "Please count the bridges of Lockwell."]),
    ("Twelve people live in Lockwell.", "twelve",
     ["How many people live {there|in Lockwell|in the village}?", "How many people are in {Lockwell|the village}?",
      _TELL + " how many people live in Lockwell.", _KNOW + " how many people live in Lockwell?", "How big is {Lockwell|the village}?"],
     ["What is the number of people in Lockwell?", "Please say how many people the village has."]),
    ("The sluice gate is green.", "green",
     ["What " + _COL + " is the sluice{ gate|}?", "Which " + _COL + " is the sluice gate?", "What is the " + _COL + " of the sluice{ gate|}?",
      _TELL + " the " + _COL + " of the sluice gate.", _KNOW + " what " + _COL + " the sluice gate is?"],
     ["Which " + _COL + " does the sluice gate have?", "Please say what " + _COL + " the sluice gate is."]),
    ("A sluice is a gate that lets water through when it is needed.", "water",
     ["What is a sluice?", "What is a sluice {gate|for}?", "What does a sluice do?", "Explain what a sluice is.", _TELL + " what a sluice is.",
      _KNOW + " what a sluice is?", "What does the word sluice mean?"],
     ["Please say what a sluice does.", "For what do people need a sluice?"]),
    ("The festival of Lockwell is Lantern Night, and it is in autumn.", "Lantern Night",
     ["What festival {is there|is in Lockwell|does Lockwell have}?", "What is the {festival|feast} called?", "What is the name of the festival?",
      "When is the festival?", _TELL + " about the festival.", _KNOW + " the name of the festival?", "When is Lantern Night?"],
     ["What name does the festival have?", "Which festival do people have in the village?"]),
]


def expand(template: str) -> list[str]:
    """Every string that the `{a|b}` choices of a template stand for."""
    parts = re.split(r"\{([^{}]*)\}", template)
    choices = [p.split("|") if i % 2 else [p] for i, p in enumerate(parts)]
    return [re.sub(r" +([?.!,]|$)", r"\1", re.sub(r"  +", " ", "".join(c))) for c in itertools.product(*choices)]


def person_slots(p: Person) -> dict[str, str]:
    return {"P": p.name, "J": p.job, "A": p.pet, "H": p.home, "I": p.instrument}


@dataclass(frozen=True)
class Fact:
    """One question with its slots filled by `slots`; `answer` is what the model says."""
    kind: str
    slots: tuple[tuple[str, str], ...]
    answer: str
    gold: str                      # what a right answer holds
    wrong: tuple[str, ...] = ()    # what it must not hold
    he: str = ""


def _fact(kind: str, slots: dict[str, str], answer: str, gold: str, values, he: str = "") -> Fact:
    wrong = tuple(v for v in dict.fromkeys(values) if v.lower() not in answer.lower())
    return Fact(kind, tuple(slots.items()), answer, gold, wrong, he)


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def facts() -> list[Fact]:
    out: list[Fact] = []
    names = [p.name for p in PEOPLE]
    for p in PEOPLE:
        s = person_slots(p)
        rows = [
            ("job", f"{p.name} is the {p.job} of Lockwell.", p.job, [q.job for q in PEOPLE]),
            ("who_job", f"The {p.job} is {p.name}.", p.name, names),
            ("pet", f"{p.name} has {with_article(p.pet)} called {p.pet_name}.", p.pet, [q.pet for q in PEOPLE]),
            ("who_pet", f"The {p.pet} belongs to {p.name}.", p.name, names),
            ("pet_name", f"{p.name}'s {p.pet} is called {p.pet_name}.", p.pet_name, [q.pet_name for q in PEOPLE]),
            ("colour", f"{p.name}'s favourite colour is {p.colour}.", p.colour, [q.colour for q in PEOPLE]),
            ("food", f"{p.name} likes {p.food} best.", p.food, [q.food for q in PEOPLE]),
            ("home", f"{p.name} lives in the {p.home}.", p.home, [q.home for q in PEOPLE]),
            ("who_home", f"{p.name} lives in the {p.home}.", p.name, names),
            ("instrument", f"{p.name} plays the {p.instrument}.", p.instrument, [q.instrument for q in PEOPLE]),
            ("who_instrument", f"{p.name} plays the {p.instrument}.", p.name, names),
        ]
        he = p.he.capitalize()
        rows.append(("about", f"{p.name} is the {p.job} of Lockwell. {he} lives in the {p.home} and has {with_article(p.pet)} called {p.pet_name}.",
                     p.job, [q.job for q in PEOPLE]))
        out += [_fact(k, s, a, g, v, p.he) for k, a, g, v in rows]
        for q in PEOPLE:
            yes = "Yes" if p is q else "No"
            out.append(_fact("yes_job", s | {"J": q.job}, f"{yes}, {p.name} is the {p.job}.", yes, [], p.he))
            out.append(_fact("yes_pet", s | {"A": q.pet}, f"{yes}, {p.name} has {with_article(p.pet)}.", yes, [], p.he))
    for place, (where, use) in PLACES.items():
        out.append(_fact("where", {"L": place}, f"The {place} is {where}.", where, [w for w, _ in PLACES.values()]))
        out.append(_fact("use", {"L": place}, f"At the {place} you can {use}.", use, [u for _, u in PLACES.values()]))
    for a, sound in SOUNDS.items():
        out.append(_fact("sound", {"A": a}, f"{with_article(a).capitalize()} says {sound}.", sound, SOUNDS.values()))
    for a, n in LEGS.items():
        out.append(_fact("legs", {"A": a}, f"{with_article(a).capitalize()} has {n} legs.", n, LEGS.values()))
    for thing, colour in COLOUR_OF.items():
        out.append(_fact("colour_of", {"T": thing}, f"{thing.capitalize()} is {colour}.", colour, COLOUR_OF.values()))
    for w, o in [x for pair in OPPOSITES for x in (pair, pair[::-1])]:
        out.append(_fact("opposite", {"W": w}, f"The opposite of {w} is {o}.", o, []))
    for i, d in enumerate(DAYS):
        after, before = DAYS[(i + 1) % 7], DAYS[i - 1]
        out.append(_fact("day_after", {"D": d}, f"The day after {d} is {after}.", after, DAYS))
        out.append(_fact("day_before", {"D": d}, f"The day before {d} is {before}.", before, DAYS))
    return out


def fill(template: str, slots: dict[str, str], he: str = "") -> str:
    """Puts the slots in, with `a`/`an` and her/his agreeing, and a capital at the start."""
    text = template
    if he:
        her, she = {"she": ("her", "she"), "he": ("his", "he")}[he]
        text = re.sub(r"\b(her|his)\b", her, text)
        text = re.sub(r"\b(she|he)\b", she, text)
    for k, v in slots.items():
        text = text.replace(f"<{k}>", v)
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[0].upper() + text[1:]
