#!/usr/bin/env python3
"""Makes the fixtures of tokenizer.model files beside this file, with SentencePiece itself as the oracle.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3 protobuf
    /tmp/venv/bin/python sentencepiece_fixtures.py

spm_NAME.model     trained here
sentencepiece.json what lies beside a model, bytes that change it (a field that comes again counts), and hashes
                   of fuzzed strings as in make_fixtures.py: 5,000 for a model, 300 for a change of it
                   and for the model whose scores are often equal
"""
import collections
import io
import json
import pathlib
import re

import sentencepiece
from make_fixtures import Fuzz, HERE, NUM_STRINGS, NUM_VARIANT_STRINGS, corpus, fnv, fragments, packed

NORMALIZER, PREFIX, SQUEEZE, MARK = 0x1A, 0x18, 0x20, 0x28


def flags(**values):
    """A NormalizerSpec that has only these, to go behind a model."""
    body = b"".join(bytes([tag, int(values[name])]) for name, tag in
                    (("prefix", PREFIX), ("squeeze", SQUEEZE), ("mark", MARK)) if name in values)
    return bytes([NORMALIZER, len(body)]) + body


def load(proto):
    return sentencepiece.SentencePieceProcessor(model_proto=proto)


def content_of(token):
    return token["content"] if isinstance(token, dict) else token


class Reference:
    """SentencePiece for text, and around it what Hugging Face's LlamaTokenizer does, not `legacy`."""

    def __init__(self, proto, config, special_tokens=None, added_tokens=None):
        if "added_tokens_decoder" in config:
            special_tokens = added_tokens = None
        self.model = load(proto)
        self.first, self.rest = self.model, load(proto + flags(prefix=False))
        if config.get("add_prefix_space") is False:
            self.first = self.rest
        if config.get("legacy"):
            self.rest = self.first
        self.inner = load(proto + flags(prefix=False, squeeze=False))  # decodes behind the beginning
        self.tokens = {self.model.id_to_piece(i): (i, True) for i in range(self.model.get_piece_size())
                       if self.model.is_control(i) or self.model.is_unknown(i)}
        self.add_tokens(config, special_tokens or {}, added_tokens or {})
        self.by_id = {i: (content, special) for content, (i, special) in self.tokens.items()}
        self.pattern = re.compile("|".join(re.escape(t) for t in sorted(self.tokens, key=len, reverse=True)))
        named = {**(special_tokens or {}), **config}
        self.prefix = [self.tokens[content_of(named.get("bos_token", "<s>"))][0]] if config.get("add_bos_token", True) else []
        self.suffix = [self.tokens[content_of(named.get("eos_token", "</s>"))][0]] if config.get("add_eos_token") else []
        self.top = max([self.model.get_piece_size() - 1, *self.by_id]) + 1

    def add_tokens(self, config, special_tokens, added_tokens):
        for i, token in config.get("added_tokens_decoder", {}).items():
            self.tokens[token["content"]] = (int(i), token.get("special", False))
        for content, i in added_tokens.items():
            self.tokens[content] = (i, self.tokens.get(content, (0, False))[1])
        named = {**special_tokens, **config}
        contents = [content_of(named.get(k)) for k in ("bos_token", "eos_token", "unk_token", "pad_token")]
        for content in filter(None, contents + [content_of(t) for t in named.get("additional_special_tokens") or []]):
            following = max(self.model.get_piece_size() - 1, *(i for i, _ in self.tokens.values())) + 1
            self.tokens[content] = (self.tokens.get(content, (following,))[0], True)

    def encode(self, text):
        out, done = [], 0
        for match in [*self.pattern.finditer(text), None]:
            part = text[done:match.start() if match else len(text)]
            out += (self.rest if done else self.first).encode(part)
            if match:
                out.append(self.tokens[match[0]][0])
                done = match.end()
        return out

    def decode(self, ids, skip):
        out, run = [], []

        def end_run():
            out.append((self.inner if any(out) else self.first).decode(run))
            run.clear()
        for i in ids:
            if i in self.by_id:
                content, special = self.by_id[i]
                if not (skip and special):
                    end_run()
                    out.append(content)
            elif i < self.model.get_piece_size():
                run.append(i)
        end_run()
        return "".join(out)

    def everything(self, fuzz):
        """As everything() in make_fixtures.py."""
        text = fuzz.string().decode("utf-8", "replace")
        plain = self.encode(text)
        loose = [fuzz.below(self.top + 2) for _ in range(fuzz.below(12))]
        out = packed(plain) + packed(self.prefix + plain + self.suffix)
        for ids in (plain, loose):
            for skip in (True, False):
                out += self.decode(ids, skip).encode() + b"\xff"
        return out


def train(table, salt, kind, size, **options):
    lines = corpus(table, salt)
    known = {c for c, _ in collections.Counter("".join(lines)).most_common(250)} - {"\0", "\n", "\r"}
    lines = ["".join(c for c in line if c in known) for line in lines]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type=kind, vocab_size=size, minloglevel=2,
        num_threads=1, character_coverage=1.0, **options)
    from sentencepiece import sentencepiece_model_pb2 as pb
    model = pb.ModelProto()
    model.ParseFromString(out.getvalue())
    model.normalizer_spec.ClearField("normalization_rule_tsv")  # a file's place
    return model


def rules():
    """A character map, as lines of the trainer's file."""
    map = {"\u00a0": " ", "\u3000": " ", "\u2003": " ", "\t": " ", "\n": " ", "\r": " ", "\u200b": "", "\u00ad": "",
           "\ufb01": "fi", "\u00bd": "1\u20442", "\u2460": "1", "e\u0301": "\u00e9", "e\u0301\u0323": "\u1eb9\u0301",
           "\u2026": "...", "\u2122": " TM ", "\r\n": " ", "\u1112\u1161": "\ud558", "\u1112\u1161\u11ab": "\ud55c"}
    map.update({chr(0xff01 + i): chr(0x21 + i) for i in range(94)})
    hexed = lambda text: " ".join(f"{ord(c):X}" for c in text)
    return "".join(f"{hexed(a)}\t{hexed(b)}\n" for a, b in map.items())


def models(table, at):
    bpe = train(table, 8 * 10**6, "bpe", 1300, byte_fallback=True, split_digits=True, remove_extra_whitespaces=False,
                normalization_rule_name="identity", allow_whitespace_only_pieces=True,
                user_defined_symbols=["\u2581\u2581", "\u2581\u2581\u2581\u2581", "<a>", "<start_of_turn>", "e\u0301"],
                control_symbols=["<|im_start|>", "[INST]"])
    (at / "rules.tsv").write_text(rules())
    unigram = train(table, 9 * 10**6, "unigram", 1100, normalization_rule_tsv=str(at / "rules.tsv"),
                    user_defined_symbols=["<a>", "word"], hard_vocab_limit=False)
    # Bytes, entries out of use, and scores so coarse that many ways to write a text are equal.
    ties = train(table, 10 * 10**6, "unigram", 700, normalization_rule_name="identity", byte_fallback=True,
                 remove_extra_whitespaces=False, hard_vocab_limit=False)
    for i, piece in enumerate(ties.pieces):
        if piece.type == piece.NORMAL:
            piece.score = round(piece.score * 2) / 10
            if i % 7 == 0 and len(piece.piece) > 1:
                piece.type = piece.UNUSED
    return {"bpe": bpe, "unigram": unigram, "ties": ties}


def token(content, special=False):
    return {"content": content, "special": special, "normalized": False, "lstrip": False, "rstrip": False,
            "single_word": False}


def rows(sizes):
    """Name, model, bytes behind it, and the files beside it."""
    size = sizes["bpe"]
    decoder = {"0": token("<unk>", True), "1": token("<s>", True), "2": token("</s>", True), str(size): token("<|im_end|>", True),
               str(size + 1): token("<tool_call>"), str(size + 9): token("<b>")}
    full = {"config": {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": decoder, "add_bos_token": True,
                       "add_eos_token": True, "legacy": False, "bos_token": "<s>", "pad_token": "<|im_end|>", "sp_model_kwargs": {}}}
    old = {"config": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False},
           "special_tokens": {"bos_token": "<s>", "pad_token": "<pad>", "additional_special_tokens": ["<c>"]},
           "added_tokens": {"<b>": sizes["unigram"], "<tool_call>": sizes["unigram"] + 1}}
    yield "bpe", "bpe", b"", full
    yield "unigram", "unigram", b"", old
    yield "ties", "ties", b"", {"config": {}}
    yield "bpe alone", "bpe", b"", {"config": {}}
    yield "bpe without a prefix", "bpe", flags(prefix=False), full
    yield "bpe with squeezed spaces", "bpe", flags(squeeze=True), full
    yield "bpe with plain spaces", "bpe", flags(mark=False), {"config": {}}
    yield "bpe with a prefix everywhere", "bpe", b"", {"config": full["config"] | {"legacy": True}}
    yield "bpe as the config wants no prefix", "bpe", b"", {"config": full["config"] | {"add_prefix_space": False}}
    yield "unigram with all spaces", "unigram", flags(squeeze=False), old
    yield "unigram without a prefix", "unigram", flags(squeeze=False, prefix=False), old
    yield "ties with squeezed spaces", "ties", flags(squeeze=True), {"config": {}}


def main():
    import tempfile
    table = fragments()
    with tempfile.TemporaryDirectory() as at:
        protos = {name: model.SerializeToString() for name, model in models(table, pathlib.Path(at)).items()}
    for name, proto in protos.items():
        (HERE / f"spm_{name}.model").write_bytes(proto)
    sizes = {name: load(proto).get_piece_size() for name, proto in protos.items()}
    out = []
    for name, base, change, beside in rows(sizes):
        reference = Reference(protos[base] + change, **beside)
        count = NUM_STRINGS if name in ("bpe", "unigram") else NUM_VARIANT_STRINGS
        hashes = " ".join(f"{fnv(reference.everything(Fuzz(table, i))):08x}" for i in range(count))
        out.append(json.dumps({"name": name, "model": base, "change": change.hex(), **beside, "hashes": hashes}))
    (HERE / "sentencepiece.json").write_text("[\n" + ",\n".join(out) + "\n]\n")


if __name__ == "__main__":
    main()
