#!/usr/bin/env python3
"""Makes the tokenizer fixtures beside this file, with the reference library as the oracle.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3
    /tmp/venv/bin/python make_fixtures.py              # writes the fixtures
    /tmp/venv/bin/python make_fixtures.py show NAME K  # one fuzzed string, to look into a mismatch

fragments.json     what fuzzed strings are put together from, here and in the C++ test
NAME.json          a tokenizer trained here with the published settings of a model family
NAME.hashes        for 5,000 fuzzed strings: 32 bits of a hash of everything that must be equal
NAME.cases.json    readable cases
classes.json       which code points classes of the regex language hold, and what normal forms
                   make of every code point, as hashes
variants.json      other settings on top of those tokenizers (JSON merge patches), with hashes
"""
import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
MASK = (1 << 64) - 1
NUM_STRINGS = 5000
NUM_VARIANT_STRINGS = 300

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

ENGLISH = """
The river was wide and slow, and nobody knew where it ended. A small boat lay on the sand with its
oars inside, as though somebody had only gone for bread. In the morning the fishermen came down and
talked about the weather, the price of salt and the new bridge that would never be finished.
She said that it didn't matter, they'd wait; he wasn't sure, I'm told, but we'll see what's left.
Every request begins with a few words and ends with an answer, and between them a machine counts.
One, two, three: the train leaves at 10:45 from platform 7, and costs 12.50 for children under 14.
What is the capital of France? The capital of France is Paris. How many days are there in a week?
"""

WORDS = """Hello world Hello, world! hello HELLO the The THE of and to in is that it was for with
don't DON'T can't I'll you're they've he'd she's I'm it's IT'S 'S 'T 'RE 'LL 'ſ 'ſt we'd've o'clock
rock'n'roll 'twas ' '' ''' 'x 's't 're've isn’t l’été naïve café cafe\u0301 re\u0301sume\u0301
straße STRASSE ſſ ﬁ ﬂ Å A\u030a \u212b \u2126 \u1e9b\u0323 İstanbul ıI K ℌ ½ ² ¼ ⅷ ① ５ ٣ ४५ 一二三
42 3.14159 1,000,000 12345678901234567890 0x1F 1e-9 007 3rd 2nd 10:45 2024-01-31 v1.2.3-rc4 50%
def f(x): return x ** 2 for(int i=0;i<n;++i){a[i]+=b[i];} if(a&&b||!c) => -> :: // /* */ <!-- -->
#include <vector> std::vector<int>&& {"key":[1,2.5,null,true]} <div class="a">text</div> SELECT * FROM t;
https://example.com/a?b=c&d=%20e#f user@example.com /usr/local/bin C:\\Windows\\System32 $HOME ~/.bashrc
foo_bar fooBar FooBar FOO_BAR foo-bar __init__ !important @media #hashtag \\n \\t \\\\ `code` ```py
... ---- ==== **** ____ !!! ?!?! ;; :: () [] {} <> « » „“ ‘’ — – … • ° ± × ÷ § ¶ € £ ¥ ₹ № ™ ©
Привет мир Ёлка українська Ελληνικά Ἀθῆναι Հայերեն ქართული עִבְרִית שלום العربية مُحَمَّد فارسی
اردو हिन्दी नमस्ते क्षत्रिय বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල ไทย สวัสดี ลาว မြန်မာ ភាសាខ្មែរ བོད་ སྐད་
中文 你好，世界 漢字 简体字 日本語 こんにちは カタカナ ｶﾀｶﾅ が が 한국어 안녕하세요 \u1112\u1161\u11ab ᄀᄀᄀ
Tiếng Việt Ðông Łódź Çeşme Ñandú Øre Þórr ƒ ǅ ꜳ ᚠᚢᚦ ⴰⵣⵓⵍ አማርኛ ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ ᠮᠣᠩᠭᠣᠯ 𐌰𐌱 𝒜𝓫 𝟘𝟙 𠀀𪚥
😀 😀😃 👍🏽 👩‍👩‍👧‍👦 👨🏿‍🚀 🏳️‍🌈 🏴‍☠️ 🇩🇪 🇫🇷🇯🇵 🇺 ❤️ ☺︎ 1️⃣ #️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🫠 🧑🏻‍❤️‍💋‍🧑🏿 ♀️ ™️ ㊗️
word Word words sword word's word1 1word _word <a> <b> <a><b> <a <<a> <c> caf\u00e9 ﬁx ½x <A>""".split()

SPACES = [" ", "  ", "   ", "    ", "        ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", "\r",
          " \n", "\n ", " \n \n ", "\t \n", "\u00a0", "\u2003", "\u2028", "\u3000", "\u180e", "\u200b",
          "\u200d", "\ufeff", "\u0085", "\x0b", "\x0c", "\x1c", "\x00", "\x7f", "\x1b[0m", "\u202e", "\ufffd"]

SPECIALS = ["<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
            "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<tool_call>",
            "</tool_call>", "<|im_start|>user\n", "<|im_end|>\n", "<|im_", "<|endoftext", "|>", "<s>",
            "<a>", "<b>", "<a><b>", " <a> ", " <b>\n", " word ", " the", "<c>  <a>"]

# Whole planes by block, so that every script is drawn from.
RANGES = [(0x20, 0x7e), (0x80, 0xff), (0x100, 0x24f), (0x250, 0x2ff), (0x300, 0x36f), (0x370, 0x3ff),
          (0x400, 0x52f), (0x530, 0x58f), (0x590, 0x5ff), (0x600, 0x6ff), (0x700, 0x7ff), (0x800, 0x8ff),
          (0x900, 0xdff), (0xe00, 0xeff), (0xf00, 0xfff), (0x1000, 0x109f), (0x10a0, 0x11ff),
          (0x1200, 0x139f), (0x13a0, 0x167f), (0x1680, 0x17ff), (0x1800, 0x1aff), (0x1b00, 0x1cff),
          (0x1d00, 0x1eff), (0x1f00, 0x1fff), (0x2000, 0x206f), (0x2070, 0x20ff), (0x2100, 0x23ff),
          (0x2400, 0x2bff), (0x2c00, 0x2dff), (0x2e00, 0x30ff), (0x3100, 0x33ff), (0x3400, 0x4dff),
          (0x4e00, 0x9fff), (0xa000, 0xabff), (0xac00, 0xd7ff), (0xe000, 0xe0ff), (0xf900, 0xfaff),
          (0xfb00, 0xfdff), (0xfe00, 0xffff), (0x10000, 0x107ff), (0x10800, 0x10fff), (0x11000, 0x11fff),
          (0x12000, 0x143fa), (0x16100, 0x16fff), (0x18cff, 0x18cff), (0x1b130, 0x1b155), (0x1cc00, 0x1d7ff),
          (0x1df00, 0x1e8ff), (0x1e900, 0x1eeff), (0x1f000, 0x1faff), (0x1fb00, 0x1fbff),
          (0x20000, 0x2a6df), (0x2b739, 0x2ee5d), (0x2f800, 0x2fa1f), (0x30000, 0x323af), (0xe0000, 0xe01ef)]
MARKS = [0x300, 0x301, 0x302, 0x303, 0x304, 0x307, 0x308, 0x30a, 0x316, 0x323, 0x327, 0x328, 0x334,
         0x338, 0x345, 0x5b0, 0x5bc, 0x64b, 0x651, 0x93c, 0x94d, 0xe38, 0x1ab0, 0x20d0, 0x302a, 0x3099,
         0x309a, 0x8ca, 0x1ac1, 0x1df6, 0x10eab, 0x1133b, 0x11938, 0x11935, 0x11930, 0x1e08f, 0x1e4ec]


def fragments():
    return {"words": WORDS + ENGLISH.split() + ENGLISH.strip().split("\n"), "spaces": SPACES,
            "specials": SPECIALS, "ranges": RANGES, "marks": MARKS}


class Fuzz:
    """Same steps as Fuzz in tests/unit/text/golden.h."""

    def __init__(self, table, seed):
        # Mixed: neighbouring seeds must not be neighbouring places of one stream.
        self.table, self.state = table, self.mix((seed + 1) * 0xD1342543DE82EF95 & MASK)

    @staticmethod
    def mix(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        return self.mix(self.state) % n

    def pick(self, name):
        return self.table[name][self.below(len(self.table[name]))]

    def char(self):
        low, high = self.pick("ranges")
        return chr(low + self.below(high - low + 1)).encode()

    def part(self):
        kind = self.below(20)
        if kind < 6:
            return self.pick("words").encode()
        if kind < 9:
            return b" " + self.pick("words").encode()
        if kind < 11:
            return self.pick("spaces").encode()
        if kind == 11:
            return b"".join(self.char() for _ in range(1 + self.below(5)))
        if kind == 12:
            unit = self.pick("spaces") if self.below(2) else "a.-=\n 0*"[self.below(8)]
            return unit.encode() * (1 + self.below(60))
        if kind == 13:
            code = self.below(0x110000 - 0x800)
            return chr(code if code < 0xD800 else code + 0x800).encode()
        if kind == 14:
            return bytes(self.below(256) for _ in range(1 + self.below(4)))
        if kind == 15:
            return self.pick("specials").encode()
        if kind == 16:
            base = self.char()
            return base + b"".join(chr(self.pick("marks")).encode() for _ in range(self.below(6)))
        if kind == 17:
            return str(self.below(10 ** (1 + self.below(12)))).encode()
        if kind == 18:
            return bytes(33 + self.below(94) for _ in range(1 + self.below(8)))
        word = self.pick("words").encode()
        return word[: self.below(len(word) + 1)]

    def string(self):
        return b"".join(self.part() for _ in range(1 + self.below(10)))


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h & 0xFFFFFFFF


def packed(ids):
    return b"".join(i.to_bytes(4, "little") for i in ids) + b"\xff\xff\xff\xff"


def everything(tokenizer, fuzz, top, ids_only):
    """One byte string of all that must be equal for the next fuzzed string."""
    text = fuzz.string().decode("utf-8", "replace")
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    with_special = tokenizer.encode(text, add_special_tokens=True).ids
    loose = [fuzz.below(top + 2) for _ in range(fuzz.below(12))]  # ids in no sensible order
    out = packed(plain) + packed(with_special)
    if ids_only:
        return out
    for ids in (plain, loose):
        for skip in (True, False):
            out += tokenizer.decode(ids, skip_special_tokens=skip).encode() + b"\xff"
    return out


def hashes(tokenizer, table, count, ids_only=False):
    top = max(tokenizer.get_vocab().values()) + 1
    return [f"{fnv(everything(tokenizer, Fuzz(table, seed), top, ids_only)):08x}" for seed in range(count)]


def train(table, pre, vocab_size, salt):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    corpus = [Fuzz(table, salt + i).string().decode("utf-8", "replace") for i in range(6000)]
    corpus += ENGLISH.split("\n") * 40 + [w for w in WORDS + SPACES for _ in range(5)]
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def split(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def special(content):
    return AddedToken(content, special=True, normalized=False)


ALL = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
CLASSES = [r"\s", r"\S", r"\d", r"\D", r"\w", r"\W", r"\h", ".", r"\p{L}", r"\P{L}", r"\p{N}", r"\p{M}",
           r"\p{P}", r"\p{S}", r"\p{Lu}", r"\p{Ll}", r"\p{Lm}", r"\p{Lo}", r"\p{Nd}", r"\p{No}", r"\p{Mc}",
           r"\p{Zs}", r"\p{Cf}", r"\p{Han}", r"\p{Hiragana}", r"\p{Latin}", r"\p{Hangul}", "(?i:[sdmtk])",
           r"[^\s\p{L}\p{N}]", r"[^\r\n\p{L}\p{N}]", r"[\S]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"]


def class_hash(pattern):
    """Of the ranges of code points that the class matches."""
    rest, ranges = set(), []
    for part, _ in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(ALL):
        rest.update(part)
    for code in (ord(c) for c in ALL if c not in rest):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return f"{fnv(''.join(f'{a:x}-{b:x} ' for a, b in ranges).encode()):08x}"


def form_hash(form):
    """Of every code point that changes, alone or beside a mark, where its combining class shows."""
    normalize = getattr(normalizers, form)().normalize_str
    out = []
    for c in ALL:
        for text in (c + NL, "a" + c + MARK + NL):
            normal = normalize(text)
            if normal != text:
                out.append(normal)
    return f"{fnv(''.join(out).encode()):08x}"


NL, MARK = "\n", "\u0334"


def make_tokenizers(table):
    gpt2 = train(table, pre_tokenizers.ByteLevel(add_prefix_space=False), 1300, 10**6)
    gpt2.add_special_tokens([special("<|endoftext|>")])
    gpt2.post_processor = processors.ByteLevel(trim_offsets=False)

    llama3 = train(table, split(LLAMA3), 1500, 2 * 10**6)
    llama3.add_special_tokens([special(t) for t in SPECIALS[1:6]])
    llama3.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
            special_tokens=[("<|begin_of_text|>", llama3.token_to_id("<|begin_of_text|>"))])])

    qwen2 = train(table, split(QWEN2), 1500, 3 * 10**6)
    qwen2.normalizer = normalizers.NFC()
    qwen2.add_special_tokens([special(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    qwen2.add_tokens([AddedToken(t, normalized=False) for t in ("<tool_call>", "</tool_call>")])
    qwen2.post_processor = processors.ByteLevel(trim_offsets=False)

    out = {}
    for name, tokenizer in (("gpt2", gpt2), ("llama3", llama3), ("qwen2", qwen2)):
        doc = json.loads(tokenizer.to_str())
        if name == "gpt2":  # as the files of that time are written
            doc["model"]["merges"] = [" ".join(m) for m in doc["model"]["merges"]]
            del doc["model"]["ignore_merges"]
        if name == "llama3":
            doc["model"]["ignore_merges"] = True
            # An entry that no merge reaches.
            doc["model"]["merges"] = [m for m in doc["model"]["merges"] if m[0] + m[1] != "Ġriver"]
        out[name] = doc
    return out


def byte_level(prefix=False, use_regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def stage(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(*stages, last=None):
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*stages, last or byte_level()]}}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def added(doc, *tokens):
    """The tokenizer's own added tokens and more, with the ids that they will get."""
    out = list(doc["added_tokens"])
    top = max([*doc["model"]["vocab"].values(), *(t["id"] for t in out)]) + 1
    for content, flags in tokens:
        known = doc["model"]["vocab"].get(content)
        token = {"id": top if known is None else known, "content": content, "single_word": False,
                 "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        token.update({flag: True for flag in flags.split()})
        top += known is None
        out.append(token)
    return {"added_tokens": out}


def variants(docs):
    gpt2, qwen2 = docs["gpt2"], docs["qwen2"]
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "b", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"a": {"id": "a", "ids": [5, 7], "tokens": ["x", "y"]},
                                   "b": {"id": "b", "ids": [9], "tokens": ["z"]}}}
    yield "prefix space", "gpt2", {"pre_tokenizer": byte_level(True, True)}
    yield "no regex", "gpt2", {"pre_tokenizer": byte_level(False, False)}
    yield "prefix space in a sequence", "gpt2", sequence(stage(r"\s+"), last=byte_level(True))
    yield "digits one by one", "gpt2", sequence(digits(True), last=byte_level(False, True))
    yield "digits together", "gpt2", sequence(digits(False), last=byte_level(False, True))
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield f"{behavior} {invert}", "gpt2", sequence(stage(r"\s|[a-e]+", behavior, invert))
    yield "literal", "llama3", sequence(stage(".-", kind="String"), stage(" ", "MergedWithNext", kind="String"))
    yield "empty matches", "gpt2", sequence(stage(r"[a-f]*"), stage(r"x*|\d", "MergedWithPrevious"))
    yield "lines", "gpt2", sequence(stage(r"^.|.$"), stage(r"\A\w|\w\z"))
    yield "quantifiers", "gpt2", sequence(stage(r"a{,2}b{1,2}+|\p{Ll}{2,3}+|(?>\p{Lu}+|.)\W?|o{2}|\w{3,}?"))
    yield "lookaround", "gpt2", sequence(stage(r"(?<=[aeiou])\S|(?<!\s)\d+(?=\p{P})|\u0065+|[\S]\x{301}"))
    yield "o200k", "llama3", sequence(stage(O200K))
    yield "deepseek", "llama3", sequence(
        stage("[\r\n]"), stage(r"\s?\p{L}+"), stage(r"\s?\p{P}+"), stage("[一-龥ࠀ-一가-퟿]+"), digits(True))
    yield "han", "llama3", sequence(stage(r"[\p{Han}]+|\p{Hiragana}|[^\p{Latin}]"))
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield form, "gpt2", {"normalizer": {"type": form}}
    yield "two forms", "gpt2", {"normalizer": {
        "type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "NFD"}]}}
    yield "merges heeded", "llama3", {"model": {"ignore_merges": False}}
    yield "merges ignored", "qwen2", {"model": {"ignore_merges": True}}
    yield "template", "gpt2", {"post_processor": template}
    yield "stripping tokens", "gpt2", added(
        gpt2, ("<a>", "lstrip"), ("<b>", "rstrip special"), ("<c>", "lstrip rstrip"), ("Hello", "lstrip"))
    yield "nested tokens", "gpt2", added(gpt2, ("<a", ""), ("<a>", ""), ("<a><b>", "special"), ("of", ""), (" the", ""))
    yield "single words", "gpt2", added(gpt2, ("word", "single_word"), ("is", "single_word"), ("1", "single_word"))
    yield "normalized tokens", "qwen2", added(
        qwen2, ("cafe\u0301", "normalized special"), ("\u212b", "normalized rstrip"), ("<a>", "normalized lstrip"),
        ("re\u0301", ""))
    yield "compatibility tokens", "qwen2", {"normalizer": {"type": "NFKC"}, **added(
        qwen2, ("fix", "normalized"), ("1", "normalized single_word"), ("\u2003", "normalized"))}


def merge_patch(doc, patch):
    if not isinstance(patch, dict):
        return patch
    out = dict(doc) if isinstance(doc, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


CASES = ["", " ", "  ", "a", "Hello, world!", " Hello", "hello   world", "a\nb\n\nc\r\n\r\nd", "tabs\tand\t\ttabs",
         "I'm sure they'd've said it's DON'T 'ſ", "1234567890 3.14 1,000", "naïve café cafe\u0301 \u212b",
         "def f(x):\n    return x ** 2  # comment\n", "{\"a\": [1, 2.5, null]}", "日本語と中文 한국어", "नमस्ते ไทย العربية",
         "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 🏴󠁧󠁢󠁥󠁮󠁧󠁿 1️⃣", "<|endoftext|>x<|im_start|>user\nHi<|im_end|>", "<|begin_of_text|><|eot_id|>",
         "<|im_<|im_end|>|>", "<tool_call>{}</tool_call>", "\u00a0\u2003\u3000\u180e\u200b", "\x00\x01\x7f\u0085",
         "a" * 70, "=" * 40, " " * 50 + "x", "\n" * 9 + " ", "the river"]


def dump(path, doc, **more):
    path.write_text(json.dumps(doc, ensure_ascii=False, **more) + "\n", encoding="utf-8")


def lines(values):
    return "".join(" ".join(values[i:i + 10]) + "\n" for i in range(0, len(values), 10))


def main():
    table = fragments()
    if sys.argv[1:2] == ["show"]:
        text = Fuzz(table, int(sys.argv[3])).string()
        print(repr(text.decode("utf-8", "replace")))
        tokenizer = Tokenizer.from_file(str(HERE / f"{sys.argv[2]}.json"))
        encoding = tokenizer.encode(text.decode("utf-8", "replace"), add_special_tokens=False)
        print(encoding.ids, encoding.tokens)
        return
    dump(HERE / "fragments.json", table, separators=(",", ":"))
    docs = make_tokenizers(table)
    for name, doc in docs.items():
        dump(HERE / f"{name}.json", doc, separators=(",", ":"))
        tokenizer = Tokenizer.from_file(str(HERE / f"{name}.json"))
        (HERE / f"{name}.hashes").write_text(lines(hashes(tokenizer, table, NUM_STRINGS)))
        rows = []
        for text in CASES + [Fuzz(table, 90000 + i).string().decode("utf-8", "replace") for i in range(40)]:
            ids = tokenizer.encode(text, add_special_tokens=True).ids
            rows.append(json.dumps({"text": text, "ids": ids, "decoded": tokenizer.decode(ids)}, ensure_ascii=False))
        (HERE / f"{name}.cases.json").write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")
    dump(HERE / "classes.json", {"classes": {p: class_hash(p) for p in CLASSES},
                                 "forms": {f: form_hash(f) for f in ("NFC", "NFD", "NFKC", "NFKD")}}, indent=1)
    rows = []
    for name, base, patch in variants(docs):
        tokenizer = Tokenizer.from_str(json.dumps(merge_patch(docs[base], patch)))
        # The reference decodes such tokens to their normalised form, and letters like "é" in it as
        # if they were written in the byte alphabet, to bytes that are no text. We give the content.
        ids_only = name in ("normalized tokens", "compatibility tokens")
        row = {"name": name, "base": base, "patch": patch, "ids_only": ids_only,
               "hashes": " ".join(hashes(tokenizer, table, NUM_VARIANT_STRINGS, ids_only))}
        rows.append(json.dumps(row, ensure_ascii=False))
    (HERE / "variants.json").write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
