#include "text/tokenizer_stages.h"

#include <functional>
#include <utility>

#include "base/check.h"
#include "text/characters.h"
#include "text/json_reader.h"
#include "text/utf8.h"

namespace sluice {
namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Calls `read` with each stage of a chain, whatever sequences they are nested in.
absl::Status for_each_stage(const At& at, const char* list_key, int depth,
                            absl::FunctionRef<absl::Status(const At&, const std::string&)> read) {
  if (depth > kMaxJsonDepth) return invalid_argument("{}: nested too deep", at.path);
  absl::StatusOr<std::string> type = read_type(at);
  if (!type.ok()) return type.status();
  if (*type != "Sequence") return read(at, *type);
  const At list = at[list_key];
  if (absl::Status status = want_array(list); !status.ok()) return status;
  for (size_t i = 0; i < list.size(); ++i)
    if (absl::Status status = for_each_stage(list[i], list_key, depth + 1, read); !status.ok())
      return status;
  return absl::OkStatus();
}

std::string literal_pattern(std::string_view literal) {
  std::string out;
  for (const char c : literal) {
    if (std::string_view("\\^$.|?*+()[]{}-&#~").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

struct Pattern {
  std::string path, text;
  bool literal;
};

absl::StatusOr<Pattern> read_pattern(const At& at) {
  if (absl::Status status = want_object(at); !status.ok()) return status;
  const bool literal = !at["String"].null();
  const At text_at = at[literal ? "String" : "Regex"];
  absl::StatusOr<std::string> text = read_string(text_at);
  if (!text.ok()) return text.status();
  if (text->empty()) return wrong(text_at, "must not be empty");
  return Pattern{text_at.path, *std::move(text), literal};
}

absl::StatusOr<Regex> compile(const Pattern& pattern) {
  absl::StatusOr<Regex> regex =
      Regex::compile(pattern.literal ? literal_pattern(pattern.text) : pattern.text);
  if (!regex.ok()) return annotate(regex.status(), pattern.path);
  return regex;
}

// A pattern of ours.
Regex own_regex(std::string_view pattern) {
  absl::StatusOr<Regex> regex = Regex::compile(pattern);
  CHECK(regex.ok());
  return *std::move(regex);
}

// Replacements of replacements grow without bound: a short file could ask for all memory there is.
absl::Status check_growth(const At& at, double growth) {
  constexpr double kMaxGrowth = 1000;
  if (growth <= kMaxGrowth) return absl::OkStatus();
  return invalid_argument(
      "{}: its replacements may make a text {:.2g} times as long, the limit is {:g}", at.path,
      growth, kMaxGrowth);
}

absl::Status read_strip(const At& at, Normalizer& out) {
  absl::StatusOr<bool> left = read_bool(at["strip_left"], std::nullopt);
  absl::StatusOr<bool> right = read_bool(at["strip_right"], std::nullopt);
  if (!left.ok()) return left.status();
  if (!right.ok()) return right.status();
  out.add_strip(*left, *right);
  return absl::OkStatus();
}

absl::Status read_replace(const At& at, Normalizer& out) {
  absl::StatusOr<Pattern> pattern = read_pattern(at["pattern"]);
  if (!pattern.ok()) return pattern.status();
  absl::StatusOr<std::string> content = read_string(at["content"]);
  if (!content.ok()) return content.status();
  if (pattern->literal) {
    out.add_replace(std::move(pattern->text), *std::move(content));
    return absl::OkStatus();
  }
  absl::StatusOr<Regex> regex = compile(*pattern);
  if (!regex.ok()) return regex.status();
  out.add_replace(*std::move(regex), *std::move(content));
  return absl::OkStatus();
}

absl::StatusOr<std::string> decode_base64(const At& at) {
  absl::StatusOr<std::string> text = read_string(at);
  if (!text.ok()) return text.status();
  std::string out;
  uint32_t bits = 0;
  int num_bits = 0;
  while (text->ends_with('=')) text->pop_back();
  for (const char c : *text) {
    constexpr std::string_view kDigits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t digit = kDigits.find(c);
    if (digit == kDigits.npos) return wrong(at, "must be base64");
    bits = bits << 6 | static_cast<uint32_t>(digit);
    num_bits += 6;
    if (num_bits < 8) continue;
    num_bits -= 8;
    out.push_back(static_cast<char>(bits >> num_bits));
  }
  return out;
}

absl::Status read_charsmap(const At& at, Normalizer& out) {
  absl::StatusOr<std::string> blob = decode_base64(at);
  if (!blob.ok()) return blob.status();
  absl::StatusOr<Charsmap> map = Charsmap::parse(*blob);
  if (!map.ok()) return annotate(map.status(), at.path);
  out.add_charsmap(*std::move(map));
  return absl::OkStatus();
}

absl::Status read_one_normalizer(const At& at, const std::string& type, Normalizer& out) {
  constexpr std::pair<std::string_view, NormalForm> kForms[] = {{"NFC", NormalForm::nfc},
                                                                {"NFD", NormalForm::nfd},
                                                                {"NFKC", NormalForm::nfkc},
                                                                {"NFKD", NormalForm::nfkd}};
  for (const auto& [name, form] : kForms)
    if (type == name) {
      out.add(form);
      return absl::OkStatus();
    }
  if (type == "Strip") return read_strip(at, out);
  if (type == "Replace") return read_replace(at, out);
  if (type == "Precompiled") return read_charsmap(at["precompiled_charsmap"], out);
  if (type == "Lowercase") {
    out.add_lowercase();
  } else if (type == "StripAccents") {
    out.add_replace(own_regex(mark_pattern()), "");
  } else if (type == "Nmt") {
    // Control characters go, and what a reader takes for a space becomes one.
    out.add_replace(own_regex(R"([\x01-\x08\x0b\x0e-\x1f\x7f\u008f\u009f])"), "");
    out.add_replace(own_regex(R"([\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd])"),
                    " ");
  } else if (type == "Prepend") {
    absl::StatusOr<std::string> text = read_string(at["prepend"]);
    if (!text.ok()) return text.status();
    out.add_prepend(*std::move(text));
  } else {
    return wrong(at["type"],
                 "only NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Replace, Prepend, "
                 "Precompiled, Nmt and Sequence are supported");
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitBehavior> read_behavior(const At& at) {
  constexpr std::pair<std::string_view, SplitBehavior> kBehaviors[] = {
      {"Isolated", SplitBehavior::isolated},
      {"Removed", SplitBehavior::removed},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous}};
  for (const auto& [name, behavior] : kBehaviors)
    if (at.json == name) return behavior;
  return wrong(at, "must name what becomes of matches, like Isolated");
}

absl::Status read_split(const At& at, PreTokenizer& out) {
  absl::StatusOr<Pattern> pattern = read_pattern(at["pattern"]);
  if (!pattern.ok()) return pattern.status();
  absl::StatusOr<Regex> regex = compile(*pattern);
  if (!regex.ok()) return regex.status();
  absl::StatusOr<bool> invert = read_bool(at["invert"], false);
  if (!invert.ok()) return invert.status();
  absl::StatusOr<SplitBehavior> behavior = read_behavior(at["behavior"]);
  if (!behavior.ok()) return behavior.status();
  out.add_split(*std::move(regex), *behavior, *invert);
  return absl::OkStatus();
}

absl::Status read_byte_level(const At& at, PreTokenizer& out) {
  absl::StatusOr<bool> prefix = read_bool(at["add_prefix_space"], std::nullopt);
  if (!prefix.ok()) return prefix.status();
  absl::StatusOr<bool> use_regex = read_bool(at["use_regex"], true);
  if (!use_regex.ok()) return use_regex.status();
  if (*prefix) out.add_prefix_space();
  if (!*use_regex) return absl::OkStatus();
  out.add_split(own_regex(kGpt2Pattern), SplitBehavior::isolated, false);
  return absl::OkStatus();
}

absl::Status read_digits(const At& at, PreTokenizer& out) {
  absl::StatusOr<bool> individual = read_bool(at["individual_digits"], std::nullopt);
  if (!individual.ok()) return individual.status();
  out.add_split(own_regex(number_pattern()),
                *individual ? SplitBehavior::isolated : SplitBehavior::contiguous, false);
  return absl::OkStatus();
}

struct Metaspace {
  std::string mark;
  PreTokenizer::Prepend prepend = PreTokenizer::Prepend::always;
  bool split = true;
};

// The stage and the decoder of this name have the same fields.
absl::StatusOr<Metaspace> read_metaspace(const At& at) {
  Metaspace out;
  absl::StatusOr<std::string> mark = read_character(at["replacement"]);
  if (!mark.ok()) return mark.status();
  out.mark = *std::move(mark);
  absl::StatusOr<bool> split = read_bool(at["split"], true);
  if (!split.ok()) return split.status();
  out.split = *split;
  const At scheme = at["prepend_scheme"];
  if (scheme.json == "first") {
    out.prepend = PreTokenizer::Prepend::first;
  } else if (scheme.json == "never") {
    out.prepend = PreTokenizer::Prepend::never;
  } else if (!scheme.null() && scheme.json != "always") {
    return wrong(scheme, "must be always, first or never");
  }
  // Older files say it so.
  absl::StatusOr<bool> old = read_bool(at["add_prefix_space"], true);
  if (!old.ok()) return old.status();
  if (!*old && !scheme.null() && out.prepend != PreTokenizer::Prepend::never)
    return wrong(at["add_prefix_space"], "must agree with prepend_scheme");
  if (!*old) out.prepend = PreTokenizer::Prepend::never;
  return out;
}

absl::Status read_one_pretokenizer(const At& at, const std::string& type, PreTokenizer& out) {
  if (type == "Split") return read_split(at, out);
  if (type == "Digits") return read_digits(at, out);
  if (type == "Metaspace") {
    absl::StatusOr<Metaspace> metaspace = read_metaspace(at);
    if (!metaspace.ok()) return metaspace.status();
    out.add_metaspace(metaspace->mark, metaspace->prepend, metaspace->split);
  } else if (type == "Punctuation") {
    SplitBehavior behavior = SplitBehavior::isolated;
    if (!at["behavior"].null()) {
      absl::StatusOr<SplitBehavior> given = read_behavior(at["behavior"]);
      if (!given.ok()) return given.status();
      behavior = *given;
    }
    out.add_split(own_regex(punctuation_pattern()), behavior, false);
  } else if (type == "Whitespace") {
    // Words, and what is neither word nor space; \s and the like go.
    const std::string word = word_pattern();
    out.add_split(own_regex(fmt::format("{}+|(?:(?!{})\\S)+", word, word)), SplitBehavior::removed,
                  true);
  } else if (type == "WhitespaceSplit") {
    out.add_split(own_regex("\\s"), SplitBehavior::removed, false);
  } else if (type == "BertPreTokenizer") {
    out.add_split(own_regex("\\s"), SplitBehavior::removed, false);
    out.add_split(own_regex(punctuation_pattern()), SplitBehavior::isolated, false);
  } else {
    return wrong(at["type"],
                 "only ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace, "
                 "WhitespaceSplit, BertPreTokenizer and Sequence are supported");
  }
  return absl::OkStatus();
}

absl::Status read_template(const At& at, TokenizerParts& parts) {
  const At single = at["single"];
  if (absl::Status status = want_array(single); !status.ok()) return status;
  std::vector<TokenId> before, behind;
  int sequences = 0;
  for (size_t i = 0; i < single.json.size(); ++i) {
    const At piece = single[i];
    if (!piece["Sequence"].null()) {
      if (piece["Sequence"]["id"].json != "A") return wrong(piece, "must be sequence A");
      ++sequences;
      continue;
    }
    absl::StatusOr<std::string> name = read_string(piece["SpecialToken"]["id"]);
    if (!name.ok()) return name.status();
    const At ids = at["special_tokens"][*name]["ids"];
    if (absl::Status status = want_array(ids); !status.ok()) return status;
    for (size_t k = 0; k < ids.json.size(); ++k) {
      absl::StatusOr<TokenId> id = read_id(ids[k]);
      if (!id.ok()) return id.status();
      (sequences ? behind : before).push_back(*id);
    }
  }
  if (sequences != 1) return wrong(single, "must hold sequence A once");
  if (!parts.prefix.empty() || !parts.suffix.empty())
    return wrong(at["type"], "there may be one template only");
  parts.prefix = std::move(before);
  parts.suffix = std::move(behind);
  return absl::OkStatus();
}

// [content, id], as BertProcessing and RobertaProcessing write their tokens.
absl::StatusOr<TokenId> read_pair_id(const At& at) {
  if (!at.json.is_array() || at.size() != 2) return wrong(at, "must be a token and its id");
  return read_id(at[1]);
}

absl::Status read_brackets(const At& at, TokenizerParts& parts) {
  absl::StatusOr<TokenId> before = read_pair_id(at["cls"]);
  absl::StatusOr<TokenId> behind = read_pair_id(at["sep"]);
  if (!before.ok()) return before.status();
  if (!behind.ok()) return behind.status();
  if (!parts.prefix.empty() || !parts.suffix.empty())
    return wrong(at["type"], "there may be one template only");
  parts.prefix = {*before};
  parts.suffix = {*behind};
  return absl::OkStatus();
}

// Decoders that rewrite each token on its own.
class DecoderReader {
 public:
  explicit DecoderReader(Decoder& out) : out_(out) {}

  absl::Status read(const At& at, const std::string& type) {
    if (type == "Fuse") {
      fused_ = true;
      return absl::OkStatus();
    }
    if (type == "Strip") return strip(at);
    if (type == "Replace") return replace(at);
    if (fused_) return wrong(at["type"], "only Strip and Replace are supported behind a Fuse");
    if (type == "Metaspace") {
      absl::StatusOr<Metaspace> metaspace = read_metaspace(at);
      if (!metaspace.ok()) return metaspace.status();
      out_.add_metaspace(metaspace->mark, metaspace->prepend != PreTokenizer::Prepend::never);
    } else if (type == "ByteFallback") {
      if (out_.byte_fallback()) return wrong(at["type"], "there may be one ByteFallback only");
      out_.add_byte_fallback();
    } else if (type == "ByteLevel") {
      // Its output is one text.
      out_.set_byte_level();
      fused_ = true;
    } else if (type == "BPEDecoder") {
      absl::StatusOr<std::string> suffix = read_string(at["suffix"]);
      if (!suffix.ok()) return suffix.status();
      if (suffix->empty()) return wrong(at["suffix"], "must not be empty");
      out_.add_word_end(*std::move(suffix));
    } else {
      return wrong(at["type"],
                   "only ByteLevel, Metaspace, ByteFallback, Fuse, Strip, Replace, BPEDecoder and "
                   "Sequence are supported");
    }
    return absl::OkStatus();
  }

 private:
  static absl::StatusOr<size_t> count(const At& at) {
    if (!at.json.is_number_integer() || at.json < 0 || at.json > kMaxStrip)
      return wrong(at, fmt::format("must be from 0 to {}", kMaxStrip));
    return at.json.get<size_t>();
  }

  absl::Status strip(const At& at) {
    absl::StatusOr<std::string> content = read_character(at["content"]);
    if (!content.ok()) return content.status();
    absl::StatusOr<size_t> start = count(at["start"]), stop = count(at["stop"]);
    if (!start.ok()) return start.status();
    if (!stop.ok()) return stop.status();
    if (!fused_) {
      out_.add_strip(*std::move(content), *start, *stop);
      return absl::OkStatus();
    }
    if (!out_.ends().character.empty())
      return wrong(at["type"], "there may be one Strip only behind a Fuse");
    out_.set_ends({*std::move(content), *start, *stop});
    return absl::OkStatus();
  }

  absl::Status replace(const At& at) {
    absl::StatusOr<Pattern> pattern = read_pattern(at["pattern"]);
    if (!pattern.ok()) return pattern.status();
    // One character cannot lie in two tokens, so that it does not matter where they are joined.
    const bool one = pattern->literal && utf8_step(pattern->text, 0).length == pattern->text.size();
    if (fused_ && (!one || out_.byte_level() || !out_.ends().character.empty()))
      return wrong(at["type"],
                   "a Replace behind a Fuse must be of one character, and before Strip");
    absl::StatusOr<Regex> regex = compile(*pattern);
    if (!regex.ok()) return regex.status();
    absl::StatusOr<std::string> content = read_string(at["content"]);
    if (!content.ok()) return content.status();
    out_.add_replace(*std::move(regex), *std::move(content));
    return absl::OkStatus();
  }

  static constexpr int kMaxStrip = 1000;
  Decoder& out_;
  bool fused_ = false;
};

}  // namespace

absl::Status read_normalizer(const At& at, Normalizer& normalizer) {
  if (at.null()) return absl::OkStatus();
  return for_each_stage(at, "normalizers", 0, [&](const At& stage, const std::string& type) {
    absl::Status status = read_one_normalizer(stage, type, normalizer);
    return status.ok() ? check_growth(stage, normalizer.growth()) : status;
  });
}

absl::Status read_pretokenizer(const At& at, PreTokenizer& out, bool& byte_level) {
  if (at.null()) return absl::OkStatus();
  return for_each_stage(at, "pretokenizers", 0, [&](const At& stage, const std::string& type) {
    // It turns bytes into the alphabet's letters, and what came behind it would cut those.
    if (byte_level) return wrong(stage["type"], "ByteLevel must be the last pre-tokenizer");
    byte_level = type == "ByteLevel";
    return byte_level ? read_byte_level(stage, out) : read_one_pretokenizer(stage, type, out);
  });
}

absl::Status read_postprocessor(const At& at, TokenizerParts& parts) {
  if (at.null()) return absl::OkStatus();
  return for_each_stage(at, "processors", 0, [&](const At& stage, const std::string& type) {
    if (type == "ByteLevel") return absl::OkStatus();  // moves offsets, which nobody asks for
    if (type == "TemplateProcessing") return read_template(stage, parts);
    if (type == "BertProcessing" || type == "RobertaProcessing") return read_brackets(stage, parts);
    return wrong(stage["type"],
                 "only TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing and "
                 "Sequence are supported");
  });
}

absl::Status read_decoder(const At& at, bool byte_level, Decoder& out) {
  if (at.null()) {
    if (byte_level)
      out.set_byte_level();
    else
      out.set_between(" ");
    return absl::OkStatus();
  }
  DecoderReader reader(out);
  absl::Status status =
      for_each_stage(at, "decoders", 0, [&](const At& stage, const std::string& type) {
        absl::Status read = reader.read(stage, type);
        return read.ok() ? check_growth(stage, out.growth()) : read;
      });
  if (status.ok() && byte_level && !out.byte_level())
    return wrong(at["type"], "must hold ByteLevel, as the pre-tokenizer does");
  return status;
}

}  // namespace sluice
