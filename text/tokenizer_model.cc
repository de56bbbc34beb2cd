#include "text/tokenizer_model.h"

#include <absl/container/flat_hash_set.h>

#include <cmath>
#include <cstdlib>
#include <utility>

#include "text/json_reader.h"

namespace sluice {
namespace {

absl::StatusOr<std::pair<std::string, std::string>> read_merge(const At& at) {
  if (at.json.is_string()) {
    const auto text = at.json.get<std::string>();
    const size_t space = text.find(' ');
    if (space == 0 || space == std::string::npos || space + 1 == text.size() ||
        text.find(' ', space + 1) != std::string::npos)
      return wrong(at, "must be two tokens with a space between them");
    return std::pair(text.substr(0, space), text.substr(space + 1));
  }
  if (!at.json.is_array() || at.json.size() != 2 || !at.json[0].is_string() ||
      !at.json[1].is_string())
    return wrong(at, "must be two tokens");
  return std::pair(at.json[0].get<std::string>(), at.json[1].get<std::string>());
}

absl::StatusOr<std::string> read_optional(const At& at) {
  return at.null() ? absl::StatusOr<std::string>(std::string()) : read_string(at);
}

absl::StatusOr<Bpe::Options> read_bpe_options(const At& model, bool byte_level) {
  if (absl::Status status = want_off(model["dropout"], 0.0, "dropout"); !status.ok()) return status;
  Bpe::Options options;
  options.byte_level = byte_level;
  const std::pair<const char*, bool*> flags[] = {{"ignore_merges", &options.ignore_merges},
                                                 {"byte_fallback", &options.byte_fallback},
                                                 {"fuse_unk", &options.fuse_unknown}};
  for (const auto& [name, flag] : flags) {
    absl::StatusOr<bool> value = read_bool(model[name], false);
    if (!value.ok()) return value.status();
    *flag = *value;
  }
  const std::pair<const char*, std::string*> texts[] = {
      {"unk_token", &options.unknown},
      {"continuing_subword_prefix", &options.inner_prefix},
      {"end_of_word_suffix", &options.end_suffix}};
  for (const auto& [name, text] : texts) {
    absl::StatusOr<std::string> value = read_optional(model[name]);
    if (!value.ok()) return value.status();
    *text = *std::move(value);
    // What the unknown token speaks of does not happen there: every byte has an entry.
    if (byte_level && text != &options.unknown && !text->empty())
      return wrong(model[name], "is not supported with ByteLevel");
  }
  return options;
}

absl::StatusOr<Bpe> read_bpe(const At& model, bool byte_level) {
  absl::StatusOr<Bpe::Options> options = read_bpe_options(model, byte_level);
  if (!options.ok()) return options.status();

  const At vocab = model["vocab"];
  if (absl::Status status = want_object(vocab); !status.ok()) return status;
  Bpe::Vocabulary vocabulary;
  vocabulary.reserve(vocab.json.size());
  absl::flat_hash_set<TokenId> ids;
  for (const auto& [content, value] : vocab.json.items()) {
    const At entry{value, "model.vocab['" + content.substr(0, 100) + "']"};
    absl::StatusOr<TokenId> id = read_id(entry);
    if (!id.ok()) return id.status();
    if (!ids.insert(*id).second) return wrong(entry, "has the id of another entry");
    vocabulary.emplace_back(content, *id);
  }

  const At list = model["merges"];
  if (absl::Status status = want_array(list); !status.ok()) return status;
  Bpe::Merges merges;
  merges.reserve(list.json.size());
  for (size_t i = 0; i < list.json.size(); ++i) {
    // Old files begin with the header of the merges.txt that they were made from.
    if (list.json[i].is_string() &&
        list.json[i].get_ref<const std::string&>().starts_with("#version"))
      continue;
    auto merge = read_merge(list[i]);
    if (!merge.ok()) return merge.status();
    merges.push_back(*std::move(merge));
  }
  return Bpe::make(std::move(vocabulary), merges, *std::move(options));
}

// A number as the reference reads it: its digits as an integer, times or over a power of ten, which
// may be off by the last bit. Of two ways to write a text whose scores are equal but for rounding,
// that bit decides. The digits are the fewest that mean `value`, as such files are written.
double as_the_reference_reads(double value) {
  const std::string text = fmt::format("{}", value);
  uint64_t digits = 0;
  int exponent = 0;
  bool fraction = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] >= '0' && text[i] <= '9') {
      digits = digits * 10 + static_cast<uint64_t>(text[i] - '0');
      exponent -= fraction;
    } else if (text[i] == '.') {
      fraction = true;
    } else if (text[i] == 'e') {
      exponent += std::stoi(text.substr(i + 1));
      break;
    }
  }
  const double power = std::strtod(fmt::format("1e{}", std::abs(exponent)).c_str(), nullptr);
  const double size = static_cast<double>(digits);
  return std::copysign(exponent < 0 ? size / power : size * power, value);
}

absl::StatusOr<Unigram> read_unigram(const At& model) {
  Unigram::Options options;
  absl::StatusOr<bool> fallback = read_bool(model["byte_fallback"], false);
  if (!fallback.ok()) return fallback.status();
  options.byte_fallback = *fallback;
  // Without it the reference fails at the first character that it does not know.
  absl::StatusOr<TokenId> unknown = read_id(model["unk_id"]);
  if (!unknown.ok()) return unknown.status();
  options.unknown = *unknown;
  const At vocab = model["vocab"];
  if (absl::Status status = want_array(vocab); !status.ok()) return status;
  if (vocab.size() > static_cast<size_t>(kMaxTokenId))
    return invalid_argument("{}: {} entries, the limit is {}", vocab.path, vocab.size(),
                            kMaxTokenId);
  std::vector<Unigram::Entry> entries;
  entries.reserve(vocab.size());
  for (size_t i = 0; i < vocab.size(); ++i) {
    const Json& entry = vocab.json[i];
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
      return wrong(vocab[i], "must be a token and its score");
    entries.push_back(
        {entry[0].get<std::string>(), as_the_reference_reads(entry[1].get<double>())});
  }
  return Unigram::make(std::move(entries), options);
}

}  // namespace

absl::StatusOr<TextModel> read_text_model(const At& model, bool byte_level) {
  absl::StatusOr<std::string> type = read_type(model);
  if (!type.ok()) return type.status();
  if (*type == "BPE") {
    absl::StatusOr<Bpe> bpe = read_bpe(model, byte_level);
    if (!bpe.ok()) return bpe.status();
    return TextModel(*std::move(bpe));
  }
  if (*type != "Unigram") return wrong(model["type"], "only BPE and Unigram are supported");
  if (byte_level) return wrong(model["type"], "must be BPE where the pre-tokenizer is ByteLevel");
  absl::StatusOr<Unigram> unigram = read_unigram(model);
  if (!unigram.ok()) return unigram.status();
  return TextModel(*std::move(unigram));
}

std::optional<TokenId> find_token(const TextModel& model, std::string_view content) {
  return std::visit([&](const auto& m) { return m.find(content); }, model);
}

size_t num_entries(const TextModel& model) {
  return std::visit([](const auto& m) { return m.size(); }, model);
}

void for_each_entry(const TextModel& model,
                    absl::FunctionRef<void(const std::string&, TokenId)> visit) {
  if (const auto* bpe = std::get_if<Bpe>(&model))
    for (const auto& [content, id] : bpe->vocabulary()) visit(content, id);
  if (const auto* unigram = std::get_if<Unigram>(&model))
    for (size_t id = 0; id < unigram->size(); ++id)
      visit(unigram->entries()[id].content, static_cast<TokenId>(id));
}

}  // namespace sluice
