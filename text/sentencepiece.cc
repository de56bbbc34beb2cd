#include "text/sentencepiece.h"

#include <absl/container/flat_hash_set.h>

#include <algorithm>
#include <array>
#include <cfloat>
#include <exception>
#include <functional>
#include <utility>

#include "text/json_reader.h"
#include "text/sentencepiece_file.h"

namespace sluice {
namespace {

using Piece = SentencePieceFile::Piece;
using Type = SentencePieceFile::Type;

constexpr size_t kManySpaces = 1000;  // that decoding drops at the beginning

bool is_reserved(const Piece& piece) {
  return piece.type == Type::unknown || piece.type == Type::control || piece.type == Type::byte;
}

bool names_a_byte(std::string_view content) {
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
  return content.size() == 6 && content.starts_with("<0x") && is_digit(content[3]) &&
         is_digit(content[4]) && content[5] == '>';
}

absl::Status check(const SentencePieceFile& file) {
  if (file.model != SentencePieceFile::Model::bpe &&
      file.model != SentencePieceFile::Model::unigram)
    return invalid_argument("\"model_type\" is {}, only UNIGRAM and BPE are supported",
                            file.model == SentencePieceFile::Model::word ? "WORD" : "CHAR");
  if (file.space_as_suffix)
    return invalid_argument("\"treat_whitespace_as_suffix\" is true, which is not supported");
  if (!file.output_charsmap.empty())
    return invalid_argument("\"denormalizer_spec\" has a character map, which is not supported");
  size_t bytes = 0, unknown = 0;
  absl::flat_hash_set<std::string_view> contents;
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    const Piece& piece = file.pieces[id];
    if (!contents.insert(piece.content).second)
      return invalid_argument("pieces[{}]: '{}' is there twice", id, piece.content);
    if (piece.type == Type::byte && !names_a_byte(piece.content))
      return invalid_argument("pieces[{}]: '{}' is a byte, expected <0x00> to <0xFF>", id,
                              piece.content);
    bytes += piece.type == Type::byte;
    unknown += piece.type == Type::unknown;
  }
  if (unknown != 1) return invalid_argument("{} pieces are of type UNKNOWN, expected one", unknown);
  if (bytes != (file.byte_fallback ? 256 : 0))
    return invalid_argument("{} pieces are bytes, expected {} where \"byte_fallback\" is {}", bytes,
                            file.byte_fallback ? 256 : 0, file.byte_fallback);
  return absl::OkStatus();
}

// The better the score, the sooner the merge; equal scores have equal ranks.
std::vector<uint32_t> ranks_of(const std::vector<Piece>& pieces) {
  std::vector<float> scores;
  for (const Piece& piece : pieces) scores.push_back(piece.score);
  std::sort(scores.begin(), scores.end(), std::greater<>());
  std::vector<uint32_t> ranks;
  for (const Piece& piece : pieces) {
    // Symbols of the user are cut out before, so that no merge gives them.
    const bool merges = piece.type == Type::normal || piece.type == Type::unused;
    const auto at = std::lower_bound(scores.begin(), scores.end(), piece.score, std::greater<>());
    ranks.push_back(merges ? static_cast<uint32_t>(at - scores.begin()) : Bpe::kNoRank);
  }
  return ranks;
}

absl::StatusOr<TextModel> make_bpe(const SentencePieceFile& file) {
  Bpe::Vocabulary vocabulary;
  Bpe::Options options;
  options.byte_level = false;
  options.byte_fallback = file.byte_fallback;
  options.fuse_unknown = true;
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    vocabulary.emplace_back(file.pieces[id].content, static_cast<TokenId>(id));
    if (file.pieces[id].type == Type::unknown) options.unknown = file.pieces[id].content;
  }
  absl::StatusOr<Bpe> bpe =
      Bpe::make_ranked(std::move(vocabulary), ranks_of(file.pieces), std::move(options));
  if (!bpe.ok()) return bpe.status();
  Bpe::Scratch scratch;
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    if (file.pieces[id].type != Type::unused) continue;
    // SentencePiece would undo its merges.
    std::vector<TokenId> tokens;
    bpe->encode(file.pieces[id].content, scratch, tokens);
    if (tokens.size() == 1)
      return invalid_argument(
          "pieces[{}]: '{}' is UNUSED, but text may become it, which is not "
          "supported for BPE",
          id, file.pieces[id].content);
  }
  return TextModel(*std::move(bpe));
}

absl::StatusOr<TextModel> make_unigram(const SentencePieceFile& file) {
  std::vector<Unigram::Entry> entries;
  Unigram::Options options;
  options.byte_fallback = file.byte_fallback;
  options.single_precision = true;
  float worst = FLT_MAX, best = 0.1f;  // SentencePiece's own bounds
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    const Piece& piece = file.pieces[id];
    if (piece.type == Type::unknown) options.unknown = static_cast<TokenId>(id);
    if (piece.type != Type::normal) continue;
    worst = std::min(worst, piece.score);
    best = std::max(best, piece.score);
  }
  options.unknown_score = worst - 10.0f;
  for (const Piece& piece : file.pieces) {
    float score = piece.score;
    // So that it is always preferred.
    if (piece.type == Type::user_defined)
      score = static_cast<float>(static_cast<float>(piece.content.size()) * best - 0.1);
    entries.push_back({piece.content, score, !is_reserved(piece) && piece.type != Type::unused});
  }
  absl::StatusOr<Unigram> unigram = Unigram::make(std::move(entries), options);
  if (!unigram.ok()) return unigram.status();
  return TextModel(*std::move(unigram));
}

absl::Status add_normalizer(const SentencePieceFile& file, SentencePieceNormalizer::Prefix prefix,
                            TokenizerParts& parts) {
  SentencePieceNormalizer::Rules rules;
  rules.prefix = file.add_dummy_prefix ? prefix : SentencePieceNormalizer::Prefix::never;
  rules.squeeze = file.remove_extra_spaces;
  rules.mark = file.mark_spaces;
  if (!file.charsmap.empty()) {
    absl::StatusOr<Charsmap> map = Charsmap::parse(file.charsmap);
    if (!map.ok()) return annotate(map.status(), "normalizer_spec.precompiled_charsmap");
    rules.map = *std::move(map);
  }
  AddedTokenMatcher symbols;
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    if (file.pieces[id].type != Type::user_defined) continue;
    const AddedToken symbol{.content = file.pieces[id].content, .id = static_cast<TokenId>(id)};
    symbols.add(symbol.content, symbol);
    // Unigram finds them itself, by their scores.
    if (file.model == SentencePieceFile::Model::bpe) parts.symbols.push_back(symbol);
  }
  parts.normalizer.add(SentencePieceNormalizer(std::move(rules), std::move(symbols)));
  return absl::OkStatus();
}

absl::Status set_decoder(const SentencePieceFile& file, bool prefix, Decoder& decoder) {
  absl::StatusOr<Regex> mark = Regex::compile("\u2581");
  if (!mark.ok()) return mark.status();
  decoder.add_replace(*std::move(mark), " ");
  if (file.byte_fallback) decoder.add_byte_fallback();
  decoder.set_bytes_apart();
  const size_t start = file.remove_extra_spaces ? kManySpaces : prefix;
  if (start > 0) decoder.set_ends({.character = " ", .start = start, .by_token = true});
  return absl::OkStatus();
}

absl::StatusOr<Json> parse_object(const NamedText& file) {
  if (file.text.empty()) return Json::object();
  absl::StatusOr<Json> json = parse_json(file.text);
  if (json.ok() && !json->is_object()) json = invalid_argument("must be a JSON object");
  if (!json.ok()) return annotate(json.status(), file.name);
  return json;
}

// The tokenizer's class decides what is added to a text where the config does not say.
absl::Status check_class(const At& config) {
  constexpr const char* kClasses[] = {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer"};
  const At name = config["tokenizer_class"];
  if (name.null() || !config["add_bos_token"].null()) return absl::OkStatus();
  for (const std::string known : kClasses)
    if (name.json == known || name.json == known + "Fast") return absl::OkStatus();
  return wrong(name,
               "only LlamaTokenizer, CodeLlamaTokenizer and GemmaTokenizer are supported "
               "without tokenizer.json, or a config with \"add_bos_token\"");
}

// The content of a special token: a string, or an object that has it. Empty: there is none.
absl::StatusOr<std::string> read_content(const At& at) {
  if (at.null()) return std::string();
  return read_string(at.json.is_object() ? at["content"] : at);
}

class SpecialTokens {
 public:
  SpecialTokens(const Json& config, const Json& map, TokenizerParts& parts)
      : config_{config, ""}, map_{map, ""}, parts_(parts) {}

  // Each that a config names is one.
  absl::Status add_all() {
    for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                            "cls_token", "mask_token"}) {
      absl::StatusOr<std::string> content = read_content(find(key));
      if (!content.ok()) return content.status();
      add(*content);
    }
    const At more = find("additional_special_tokens");
    if (more.null()) return absl::OkStatus();
    if (absl::Status status = want_array(more); !status.ok()) return status;
    for (size_t i = 0; i < more.size(); ++i) {
      absl::StatusOr<std::string> content = read_content(more[i]);
      if (!content.ok()) return content.status();
      add(*content);
    }
    return absl::OkStatus();
  }

  // What comes before or behind a text: the token under `key`, or `otherwise`.
  absl::Status add_bracket(const char* switch_key, bool by_default, const char* key, int otherwise,
                           std::vector<TokenId>& out) {
    absl::StatusOr<bool> wanted = read_bool(config_[switch_key], by_default);
    if (!wanted.ok()) return wanted.status();
    if (!*wanted) return absl::OkStatus();
    absl::StatusOr<std::string> content = read_content(find(key));
    if (!content.ok()) return content.status();
    if (!content->empty()) {
      for (const AddedToken& token : parts_.added)
        if (token.content == *content) out.push_back(token.id);
    } else if (otherwise >= 0 && static_cast<size_t>(otherwise) < num_entries(parts_.model)) {
      out.push_back(otherwise);
    }
    return absl::OkStatus();
  }

 private:
  At find(const std::string& key) const {
    return config_.json.contains(key) ? config_[key] : map_[key];
  }

  void add(const std::string& content) {
    if (content.empty()) return;
    for (AddedToken& token : parts_.added)
      if (token.content == content) {
        token.special = true;
        return;
      }
    TokenId next = static_cast<TokenId>(num_entries(parts_.model));
    for (const AddedToken& token : parts_.added) next = std::max(next, token.id + 1);
    const TokenId id = find_token(parts_.model, content).value_or(next);
    parts_.added.push_back({.content = content, .id = id, .special = true});
  }

  At config_, map_;
  TokenizerParts& parts_;
};

// {content: id} of the time before added_tokens_decoder, as an added_tokens_decoder.
absl::StatusOr<std::string> modern(const Json& added) {
  Json table = Json::object();
  for (const auto& [content, value] : added.items()) {
    absl::StatusOr<TokenId> id = read_id(At{value, "['" + content.substr(0, 100) + "']"});
    if (!id.ok()) return id.status();
    table[std::to_string(*id)] = {{"content", content}};
  }
  return Json{{"added_tokens_decoder", table}}.dump();
}

absl::Status add_tokens(const SentencePieceTexts& texts, const Json& config,
                        const SentencePieceFile& file, TokenizerParts& parts) {
  for (size_t id = 0; id < file.pieces.size(); ++id)
    if (file.pieces[id].type == Type::control || file.pieces[id].type == Type::unknown)
      parts.added.push_back(
          {.content = file.pieces[id].content, .id = static_cast<TokenId>(id), .special = true});
  const bool has_decoder = config.contains("added_tokens_decoder");
  Json map = Json::object();
  if (has_decoder) {
    absl::Status status = add_config_tokens(texts.config.text, IdsMay::be_any_free, parts);
    if (!status.ok()) return annotate(status, texts.config.name);
  } else {
    absl::StatusOr<Json> named = parse_object(texts.special_tokens);
    if (!named.ok()) return named.status();
    map = *std::move(named);
    absl::StatusOr<Json> added = parse_object(texts.added_tokens);
    if (!added.ok()) return added.status();
    absl::StatusOr<std::string> decoder = modern(*added);
    absl::Status status =
        decoder.ok() ? add_config_tokens(*decoder, IdsMay::be_any_free, parts) : decoder.status();
    if (!status.ok()) return annotate(status, texts.added_tokens.name);
  }
  SpecialTokens special(config, map, parts);
  absl::Status status = special.add_all();
  if (status.ok())
    status = special.add_bracket("add_bos_token", true, "bos_token", file.bos_id, parts.prefix);
  if (status.ok())
    status = special.add_bracket("add_eos_token", false, "eos_token", file.eos_id, parts.suffix);
  if (!status.ok()) return annotate(status, texts.config.name);
  // All are looked for in text as it came.
  for (AddedToken& token : parts.added) token.normalized = false;
  return absl::OkStatus();
}

absl::StatusOr<SentencePieceNormalizer::Prefix> read_prefix(const At& config) {
  absl::StatusOr<bool> wanted = read_bool(config["add_prefix_space"], true);
  absl::StatusOr<bool> legacy = read_bool(config["legacy"], false);
  if (!wanted.ok()) return wanted.status();
  if (!legacy.ok()) return legacy.status();
  if (!*wanted) return SentencePieceNormalizer::Prefix::never;
  return *legacy ? SentencePieceNormalizer::Prefix::always
                 : SentencePieceNormalizer::Prefix::at_beginning;
}

absl::StatusOr<TokenizerParts> make_parts(const SentencePieceTexts& texts) {
  absl::StatusOr<SentencePieceFile> file = read_sentencepiece_file(texts.model.text);
  absl::Status status = file.ok() ? check(*file) : file.status();
  if (!status.ok()) return annotate(status, texts.model.name);
  absl::StatusOr<Json> config = parse_object(texts.config);
  if (!config.ok()) return config.status();
  const At settings{*config, ""};
  status = check_class(settings);
  if (status.ok()) status = want_off(settings["sp_model_kwargs"], Json::object(), "this");
  absl::StatusOr<SentencePieceNormalizer::Prefix> prefix = read_prefix(settings);
  if (status.ok()) status = prefix.status();
  if (!status.ok()) return annotate(status, texts.config.name);

  TokenizerParts parts;
  parts.file = "tokenizer.model";
  absl::StatusOr<TextModel> model =
      file->model == SentencePieceFile::Model::bpe ? make_bpe(*file) : make_unigram(*file);
  status = model.status();
  if (status.ok()) parts.model = *std::move(model);
  if (status.ok()) status = add_normalizer(*file, *prefix, parts);
  const bool has_prefix =
      file->add_dummy_prefix && *prefix != SentencePieceNormalizer::Prefix::never;
  if (status.ok()) status = set_decoder(*file, has_prefix, parts.decoder);
  if (!status.ok()) return annotate(status, texts.model.name);
  status = add_tokens(texts, *config, *file, parts);
  if (!status.ok()) return status;
  return parts;
}

}  // namespace

absl::StatusOr<TokenizerParts> parse_sentencepiece(const SentencePieceTexts& texts) {
  try {
    return make_parts(texts);
  } catch (const std::exception& error) {
    // The JSON library and the allocator throw; nothing above this line does.
    return invalid_argument("{}: {}", texts.model.name, error.what());
  }
}

}  // namespace sluice
