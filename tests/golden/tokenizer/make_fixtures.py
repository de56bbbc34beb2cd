#!/usr/bin/env python3
"""Makes the tokenizer fixtures beside this file, with the reference library as the oracle.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3 sentencepiece protobuf
    /tmp/venv/bin/python make_fixtures.py              # writes the fixtures
    /tmp/venv/bin/python make_fixtures.py variants     # only variants.json
    /tmp/venv/bin/python make_fixtures.py show NAME K  # one fuzzed string, to look into a mismatch

fragments.json     what fuzzed strings are put together from, here and in the C++ test
NAME.json          a tokenizer trained here with the published settings of a model family
NAME.hashes        for 5,000 fuzzed strings: 32 bits of a hash of everything that must be equal
NAME.cases.json    readable cases
classes.json       which code points classes of the regex language hold, and what normal forms
                   make of every code point, as hashes
variants.json      other settings on top of those tokenizers (JSON merge patches), with hashes
"""
import collections
import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
MASK = (1 << 64) - 1
NAMES = ["gpt2", "llama3", "qwen2", "llama2", "gemma", "unigram", "words"]
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
            "<a>", "<b>", "<a><b>", " <a> ", " <b>\n", " word ", " the", "<c>  <a>",
            "</s>", "<unk>", "<0x41>", "\u2581", "\u2581\u2581 ", "a\u2581the", "</w>", "<start_of_turn>user\n"]

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
    tokenizer.train_from_iterator(corpus(table, salt), trainer)
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


def stage_hash(pre):
    """Of the characters that a stage with behavior removed takes away."""
    kept = {c for part, _ in pre.pre_tokenize_str(ALL) for c in part}
    return f"{fnv(''.join(c for c in ALL if c not in kept).encode()):08x}"


def step_hash(normalizer):
    """Of what a normalizer makes of every code point."""
    return f"{fnv(''.join(normalizer.normalize_str(c) + NL for c in ALL).encode()):08x}"


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


# SentencePiece's letter for a space.
MARK_SPACE = "\u2581"
SPM_SPECIALS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def corpus(table, salt):
    out = [Fuzz(table, salt + i).string().decode("utf-8", "replace") for i in range(6000)]
    return out + ENGLISH.split("\n") * 40 + [w for w in WORDS + SPACES for _ in range(5)]


def spm_bpe(table, vocab_size, salt):
    """As converted from SentencePiece: characters, bytes for those without an entry."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, limit_alphabet=250,
                                  special_tokens=SPM_SPECIALS + BYTES)
    tokenizer.train_from_iterator(corpus(table, salt), trainer)
    tokenizer.pre_tokenizer = None
    return tokenizer


def brackets(tokenizer):
    return processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B", special_tokens=[(t, tokenizer.token_to_id(t)) for t in SPM_SPECIALS[1:]])


def keep_added(doc, contents):
    """Bytes are entries like others; the trainer has made added tokens of them."""
    doc["added_tokens"] = [t for t in doc["added_tokens"] if t["content"] in contents]
    return doc


def charsmap():
    """A small character map, in SentencePiece's own format."""
    rules = {"\u00a0": " ", "\u3000": " ", "\u2003": " ", "\t": " ", "\n": " ", "\r": " ", "\u200b": "", "\u00ad": "",
             "\ufb01": "fi", "\ufb02": "fl", "\u00bd": "1\u20442", "\u2460": "1", "\u212b": "\u00c5", "e\u0301": "\u00e9",
             "A\u030a": "\u00c5", "\u2126": "\u03a9", "\u2026": "...", "\u2122": "TM", "\u212a": "K", "\u0133": "ij",
             "\u1112\u1161\u11ab": "\ud55c", "\uff76": "\u30ab", "\uff80": "\u30bf", "\uff85": "\u30ca", "\uff8a\uff9f": "\u30d1",
             "\u304b\u3099": "\u304c", "\r\n": "\n", "\U0001d49c": "A", "\u0130": "i\u0307", "\u1e9b\u0323": "\u1e69"}
    rules.update({chr(0xff01 + i): chr(0x21 + i) for i in range(94)})
    import tempfile
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb
    with tempfile.TemporaryDirectory() as at:
        tsv = pathlib.Path(at) / "rules.tsv"
        hexed = lambda text: " ".join(f"{ord(c):X}" for c in text)
        tsv.write_text("".join(f"{hexed(a)}\t{hexed(b)}\n" for a, b in rules.items()))
        (pathlib.Path(at) / "text").write_text(ENGLISH)
        sentencepiece.SentencePieceTrainer.train(
            input=f"{at}/text", model_prefix=f"{at}/m", vocab_size=60, normalization_rule_tsv=str(tsv), minloglevel=2)
        model = pb.ModelProto()
        model.ParseFromString((pathlib.Path(at) / "m.model").read_bytes())
    return model.normalizer_spec.precompiled_charsmap


def unigram(table, salt):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Precompiled(charsmap()), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.UnigramTrainer(vocab_size=1300, show_progress=False, unk_token="<unk>",
                                      special_tokens=["<pad>", "</s>", "<unk>"])
    # This trainer takes every character that there is.
    lines = corpus(table, salt)
    known = {c for c, _ in collections.Counter("".join(lines)).most_common(250)}
    tokenizer.train_from_iterator(("".join(c for c in line if c in known) for line in lines), trainer)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return json.loads(tokenizer.to_str())


def make_spm_tokenizers(table):
    llama2 = spm_bpe(table, 1300, 4 * 10**6)
    llama2.normalizer = normalizers.Sequence([normalizers.Prepend(MARK_SPACE), normalizers.Replace(" ", MARK_SPACE)])
    llama2.post_processor = brackets(llama2)
    llama2.decoder = decoders.Sequence([decoders.Replace(MARK_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
                                        decoders.Strip(" ", 1, 0)])
    gemma = spm_bpe(table, 1400, 5 * 10**6)
    gemma.normalizer = normalizers.Replace(" ", MARK_SPACE)
    gemma.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    gemma.add_special_tokens([special("<start_of_turn>"), special("<end_of_turn>")])
    gemma.post_processor = brackets(gemma)
    gemma.decoder = decoders.Sequence([decoders.Replace(MARK_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    out = {"llama2": keep_added(json.loads(llama2.to_str()), SPM_SPECIALS),
           "gemma": keep_added(json.loads(gemma.to_str()), SPM_SPECIALS + ["<start_of_turn>", "<end_of_turn>"]),
           "unigram": unigram(table, 6 * 10**6)}
    out["llama2"]["model"]["merges"] = [" ".join(m) for m in out["llama2"]["model"]["merges"]]
    words = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##", end_of_word_suffix="</w>"))
    words.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(corpus(table, 7 * 10**6), trainers.BpeTrainer(
        vocab_size=1000, show_progress=False, limit_alphabet=150, special_tokens=SPM_SPECIALS,
        continuing_subword_prefix="##", end_of_word_suffix="</w>"))
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    words.decoder = decoders.BPEDecoder("</w>")
    out["words"] = json.loads(words.to_str())
    return out


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
    return out | make_spm_tokenizers(table)


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


def metaspace(scheme="always", split=True, **more):
    return {"type": "Metaspace", "replacement": MARK_SPACE, "prepend_scheme": scheme, "split": split, **more}


def chain(key, *stages):
    return {"type": "Sequence", key: list(stages)}


def kind(name, **more):
    return {"type": name, **more}


def replace(pattern, content, regex=False):
    return kind("Replace", pattern={"Regex" if regex else "String": pattern}, content=content)


def spm_variants(docs):
    llama2, unigram_doc = docs["llama2"], docs["unigram"]
    bare = {"normalizer": None}
    for scheme in ("first", "always", "never"):
        for split in (False, True):
            yield f"metaspace {scheme} {split}", "llama2", {**bare, "pre_tokenizer": metaspace(scheme, split)}
    yield "metaspace as it was", "llama2", {**bare, "pre_tokenizer": {
        "type": "Metaspace", "replacement": MARK_SPACE, "str_rep": MARK_SPACE, "add_prefix_space": True}}
    yield "metaspace as it was, never", "llama2", {**bare, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "_", "add_prefix_space": False, "prepend_scheme": "never"},
        "decoder": metaspace("never", replacement="_")}
    yield "whole entries", "llama2", {"model": {"ignore_merges": True}}
    yield "whole words", "llama2", {**bare, "pre_tokenizer": metaspace(), "model": {"ignore_merges": True}}
    yield "no bytes", "llama2", {"model": {"byte_fallback": False}}
    yield "no bytes, one by one", "llama2", {"model": {"byte_fallback": False, "fuse_unk": False}}
    yield "some bytes", "llama2", {"model": {"vocab": {"<0xE4>": None, "<0x98>": None}}}
    yield "some bytes, one by one", "llama2", {"model": {"fuse_unk": False, "vocab": {"<0xE4>": None, "<0x98>": None}}}
    yield "nothing unknown", "llama2", {"model": {"byte_fallback": False, "unk_token": None}}
    yield "a word goes on", "llama2", {"model": {
        "vocab": {"e" + MARK_SPACE: 1300, "e" + MARK_SPACE + "t": 1301},
        "merges": ["e " + MARK_SPACE, f"e{MARK_SPACE} t"] + llama2["model"]["merges"]}}
    yield "no decoder", "llama2", {"decoder": None}
    for front in ([kind("Strip", strip_left=True, strip_right=True)], [kind("Strip", strip_left=False, strip_right=True)],
                  [replace(r"^\s+", "", True)], [replace(" ", "")], [replace(r"\s+", " ", True)], [replace("  ", "x")],
                  [kind("NFD"), kind("StripAccents")], [kind("Lowercase")], [kind("Nmt")], [kind("NFKC")],
                  [kind("Prepend", prepend="_")], [replace("[aeiou]*", "-", True)], [replace(r"\d(?=\d{3})", "\u0661", True)]):
        yield f"normalizers {json.dumps(front)}", "llama2", {
            "normalizer": chain("normalizers", *front), "pre_tokenizer": metaspace("first", False)}
    for name in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer"):
        yield name, "llama2", {**bare, "pre_tokenizer": chain("pretokenizers", kind(name), metaspace("first"))}
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        yield f"punctuation {behavior}", "llama2", {**bare, "pre_tokenizer": chain(
            "pretokenizers", kind("Punctuation", behavior=behavior), digits(True), metaspace("always"))}
    yield "behind a template", "llama2", {"post_processor": kind("BertProcessing", sep=["x", 7], cls=["y", 9])}
    space = replace(MARK_SPACE, " ")
    strip = kind("Strip", content=" ", start=1, stop=0)
    for stages in ([kind("ByteFallback"), metaspace()], [metaspace(), kind("ByteFallback"), kind("Fuse")],
                   [metaspace("never"), kind("Fuse")], [space, kind("Fuse"), kind("Strip", content=" ", start=2, stop=0)],
                   [kind("ByteFallback"), space, strip], [kind("Fuse"), space, strip], [kind("BPEDecoder", suffix="e")],
                   [kind("ByteFallback"), kind("Fuse")], [replace(MARK_SPACE + "[a-m]", "-", True), kind("ByteFallback")],
                   [space, byte_level()]):
        yield f"decoders {json.dumps(stages)}", "llama2", {"decoder": chain("decoders", *stages)}
    tokens = added(llama2, ("<a>", "lstrip"), ("<b>", "rstrip special"), ("word", "single_word"), ("Hello", "normalized lstrip"),
                   ("\u2581the", ""), ("is", "normalized single_word"))
    yield "added tokens", "llama2", tokens
    yield "added tokens, first", "llama2", {**tokens, **bare, "pre_tokenizer": metaspace("first", False)}
    old = [dict(t, normalized=True) for t in llama2["added_tokens"]]
    yield "normalized specials", "llama2", {"added_tokens": old}
    yield "lowercase tokens", "words", added(docs["words"], ("Hello", "normalized"), ("The", "normalized single_word"))

    with_bytes = unigram_doc["model"]["vocab"] + [[b, 0.0 if i % 2 else -15.0] for i, b in enumerate(BYTES)]
    yield "unigram with bytes", "unigram", {
        "model": {"vocab": with_bytes, "byte_fallback": True},
        "decoder": chain("decoders", kind("ByteFallback"), metaspace())}
    yield "unigram with some bytes", "unigram", {"model": {"vocab": with_bytes[:-80], "byte_fallback": True}}
    yield "unigram of a whole text", "unigram", {"normalizer": replace(" ", MARK_SPACE), "pre_tokenizer": None}
    yield "unigram first", "unigram", {"normalizer": chain("normalizers", kind("Nmt"), kind("NFKC"), replace(r" {2,}", " ", True)),
                                       "pre_tokenizer": metaspace("first", False)}
    ties = [[piece, float(-len(piece) // 2)] for piece, _ in unigram_doc["model"]["vocab"]]
    yield "unigram with equal scores", "unigram", {"model": {"vocab": ties}}
    yield "unigram, a piece twice", "unigram", {"model": {"vocab": unigram_doc["model"]["vocab"] + [
        [MARK_SPACE + "the", -50.0], ["e", -0.5]]}}
    yield "unigram in words", "unigram", {"pre_tokenizer": chain("pretokenizers", kind("WhitespaceSplit"), metaspace("always"))}


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


def dump_variants(table, docs):
    rows = []
    for name, base, patch in [*variants(docs), *spm_variants(docs)]:
        tokenizer = Tokenizer.from_str(json.dumps(merge_patch(docs[base], patch)))
        # The reference decodes such tokens to their normalised form, and letters like "é" in it as
        # if they were written in the byte alphabet, to bytes that are no text. We give the content.
        ids_only = name in ("normalized tokens", "compatibility tokens", "normalized specials", "lowercase tokens",
                            "added tokens")
        row = {"name": name, "base": base, "patch": patch, "ids_only": ids_only,
               "hashes": " ".join(hashes(tokenizer, table, NUM_VARIANT_STRINGS, ids_only))}
        rows.append(json.dumps(row, ensure_ascii=False))
    (HERE / "variants.json").write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")


def main():
    table = fragments()
    if sys.argv[1:2] == ["show"]:
        text = Fuzz(table, int(sys.argv[3])).string()
        print(repr(text.decode("utf-8", "replace")))
        tokenizer = Tokenizer.from_file(str(HERE / f"{sys.argv[2]}.json"))
        encoding = tokenizer.encode(text.decode("utf-8", "replace"), add_special_tokens=False)
        print(encoding.ids, encoding.tokens)
        return
    if sys.argv[1:2] == ["variants"]:  # of the tokenizers that lie here
        return dump_variants(table, {p.stem: json.loads(p.read_text()) for p in HERE.glob("*.json") if p.stem in NAMES})
    dump(HERE / "fragments.json", table, separators=(",", ":"))
    docs = make_tokenizers(table)
    dump_variants(table, docs)
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
                                 "forms": {f: form_hash(f) for f in ("NFC", "NFD", "NFKC", "NFKD")},
                                 "punctuation": stage_hash(pre_tokenizers.Punctuation("removed")),
                                 "lowercase": step_hash(normalizers.Lowercase()),
                                 "accents": step_hash(normalizers.StripAccents())}, indent=1)


if __name__ == "__main__":
    main()
