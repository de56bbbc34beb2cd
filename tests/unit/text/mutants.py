#!/usr/bin/env python3
"""Seeded bugs: each is put into a copy of the tokenizer, and a test must fail.

    tests/unit/text/mutants.py [--only N ...] [--jobs J] [--cxx g++]

Works in a scratch folder; the tree is not touched. Needs what the tokenizer is built with. What stands behind a
mutant says which program noticed it first: `files` and `rules` (directed), `golden` (the reference libraries' results).

Last result: killed 44 of 44.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import mutation  # noqa: E402

TEXT = ["added_tokens", "bpe", "byte_alphabet", "characters", "charsmap", "decoder", "detokenizer", "json_reader",
        "normal_form", "normalizer", "pretokenizer", "regex", "regex_syntax", "self_test", "sentencepiece",
        "sentencepiece_file", "sentencepiece_normalizer", "tokenizer", "tokenizer_json", "tokenizer_model",
        "tokenizer_stages", "unigram", "utf8"]
SOURCES = ["base/check.cc", "base/log.cc", "base/text.cc", *(f"text/{name}.cc" for name in TEXT)]
PROGRAMS = {  # the quick one first
    "files": ["tests/unit/text/sentencepiece_test.cc", "tests/unit/text/detokenizer_test.cc"],
    "rules": ["tests/unit/text/tokenizer_test.cc"],
    "golden": ["tests/unit/text/golden_test.cc"],
}

FILE, SPM, SPMNORM = "text/sentencepiece_file.cc", "text/sentencepiece.cc", "text/sentencepiece_normalizer.cc"
BPE, QUEUE, UNIGRAM, ADDED, JSON = "text/bpe.cc", "text/pair_queue.h", "text/unigram.cc", "text/added_tokens.cc", "text/tokenizer_json.cc"
CHARSMAP, DETOK, DECODER, PRE = "text/charsmap.cc", "text/detokenizer.cc", "text/decoder.cc", "text/pretokenizer.cc"
# (what is wrong, file, text, text in its place); the text must occur exactly once.
MUTANTS = [
    ("a longer field than the message is taken", FILE, "if (size > bytes_.size() - at_) return false;",
     "size = std::min<uint64_t>(size, bytes_.size() - at_);"),
    ("scores are not read", FILE, "piece.score = std::bit_cast<float>", "piece.score = 0 * std::bit_cast<float>"),
    ("a field that comes again does not count", FILE, "      case 3:\n        return read_flag(message, field, \"add_dummy_prefix\"",
     "      case 3:\n        if (!file.add_dummy_prefix || file.charsmap.empty()) return absl::OkStatus();\n"
     "        return read_flag(message, field, \"add_dummy_prefix\""),
    ("bytes and characters alike are missing", SPM, "options.byte_fallback = file.byte_fallback;\n  options.fuse_unknown",
     "options.fuse_unknown"),
    ("unknown characters are not one token", SPM, "options.fuse_unknown = true;", "options.fuse_unknown = false;"),
    ("equal scores have ranks of their own", SPM, "static_cast<uint32_t>(at - scores.begin())",
     "static_cast<uint32_t>(at - scores.begin() + long(ranks.size() % 3))"),
    ("worse scores merge first", SPM, "std::sort(scores.begin(), scores.end(), std::greater<>());",
     "std::sort(scores.begin(), scores.end(), std::greater<>());\n  std::reverse(scores.begin(), scores.end());"),
    ("symbols of the user merge", SPM, "if (file.model == SentencePieceFile::Model::bpe) parts.symbols.push_back(symbol);", ""),
    ("symbols of the user are rewritten", SPM, "symbols.add(symbol.content, symbol);", ""),
    ("entries out of use are used", SPM, "!is_reserved(piece) && piece.type != Type::unused", "!is_reserved(piece)"),
    ("bytes are found in text", SPM, "!is_reserved(piece) && piece.type != Type::unused",
     "piece.type != Type::unused && piece.type != Type::control"),
    ("sums of scores are doubles", SPM, "options.single_precision = true;", ""),
    ("symbols of the user have no bonus", SPM, "if (piece.type == Type::user_defined)\n      score",
     "if (piece.type == Type::byte)\n      score"),
    ("unknown characters cost as much as the worst entry", SPM, "worst - 10.0f", "worst"),
    ("a prefix behind each special token", SPM, ": SentencePieceNormalizer::Prefix::at_beginning;",
     ": SentencePieceNormalizer::Prefix::always;"),
    ("legacy is ignored", SPM, "return *legacy ?", "return false ?"),
    ("the config's wish for no prefix is ignored", SPM, "if (!*wanted) return SentencePieceNormalizer::Prefix::never;", ""),
    ("one space of many is dropped from decoded text", SPM, "file.remove_extra_spaces ? kManySpaces : prefix",
     "file.remove_extra_spaces ? 1 : prefix"),
    ("bytes lose a space", SPM, ", .by_token = true", ""),
    ("a run of bytes is text or not as a whole", SPM, "decoder.set_bytes_apart();", ""),
    ("no token ends a text", SPM, "\"add_eos_token\", false", "\"add_eos\", false"),
    ("a text begins with nothing", SPM, "\"add_bos_token\", true", "\"add_bos_token\", false"),
    ("named tokens are not special", SPM, "        token.special = true;\n", ""),
    ("old lists of added tokens are not read", SPM, "table[std::to_string(*id)] = ", "Json() = "),
    ("the shortest rule counts", CHARSMAP, "if (!longest) break;", "break;"),
    ("a rule that begins with a letter is overlooked", SPMNORM, "!(rules_.map && rules_.map->has_beginning(byte))",
     "!(rules_.map && rules_.map->longest({&byte, 1}))"),
    ("spaces at the end stay", SPMNORM, "while (rules_.squeeze && out.ends_with(space))", "while (false)"),
    ("spaces in a row stay", SPMNORM, "while (behind_space && part.starts_with(' '))", "while (false)"),
    ("a rule that deletes ends a run of spaces", SPMNORM, "if (!part.empty()) behind_space", "behind_space"),
    ("spaces are marked though they shall not be", SPMNORM, "rules_.mark ? kMark : \" \"", "kMark"),
    ("only letters merge into ranked entries", BPE, "id && (ranks[*id] != kNoRank || utf8_step(text, 0).length == text.size())",
     "id && utf8_step(text, 0).length == text.size()"),
    ("the rightmost of equal pairs merges", BPE, "if (symbols[i].rank < symbols[best].rank) best = i;",
     "if (symbols[i].rank <= symbols[best].rank) best = i;"),
    ("the rightmost of equal pairs merges in long texts", QUEUE, "rank < o.rank : at < o.at", "rank < o.rank : at > o.at"),
    ("pairs of a rank merge as they came", QUEUE,
     "if (!std::is_sorted(opened_.begin(), opened_.end())) std::sort(opened_.begin(), opened_.end());", ""),
    ("a pair that comes late waits for a list", QUEUE, "if (pair.rank < next_rank_) {", "if (false) {"),
    ("a pair of the rank that merges waits for a list", QUEUE, "next_rank_ = rank + 1;", "next_rank_ = rank;"),
    ("late pairs go last", QUEUE, "if (late_.empty()) {", "if (late_.empty() || at_ < opened_.size()) {"),
    ("of equal ways the last one stays", UNIGRAM, "|| score > best[end].score", "|| score >= best[end].score"),
    ("the shortest added token is taken", ADDED, "    length = at + 1;\n", "    length = at + 1;\n    break;\n"),
    ("white space before a token stays", ADDED, "token.lstrip ?", "false ?"),
    ("white space behind a token stays", ADDED, "token.rstrip ?", "false ?"),
    ("a token is found inside of a word", ADDED, "if (token.single_word && !stands_alone(text, found, scratch)) continue;", ""),
    ("a space is stripped from later tokens", DETOK, "if (ends.by_token && !rest.empty()) to_strip_ = 0;", ""),
    ("the first token keeps its mark", DECODER, "place.first && rule.drop_first ? \"\" : \" \"", "\" \""),
]


def users_of(header):
    if header == QUEUE:
        return [BPE]
    return [source for source in SOURCES if header.removesuffix(".h") in source]


if __name__ == "__main__":
    flags = ["-O1", "-DSPDLOG_COMPILED_LIB", "-DSPDLOG_FMT_EXTERNAL", f'-DSLUICE_SOURCE_DIR="{mutation.ROOT}"']
    mutation.main(__doc__, MUTANTS,
                  [mutation.Build(SOURCES, PROGRAMS, flags, packages=["libpcre2-8", "libutf8proc", "spdlog", "fmt", "absl_status",
                                                                      "absl_statusor", "absl_hash", "absl_raw_hash_set"])],
                  ["base", "text", "tests/unit/text"], users_of)
