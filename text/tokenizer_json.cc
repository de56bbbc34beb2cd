#include "text/tokenizer_json.h"

#include <absl/container/flat_hash_set.h>

#include <algorithm>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace sluice {
namespace {

using Json = nlohmann::json;

// Ids index tables, so a file may not name far ones. The largest vocabularies have 0.3 million.
constexpr TokenId kMaxId = (1 << 22) - 1;
constexpr int kMaxDepth = 16;
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

const Json kNull;

// A value and the path by which errors name it.
struct At {
  const Json& json;
  std::string path;

  At operator[](const std::string& key) const {
    const auto found = json.is_object() ? json.find(key) : json.end();
    return {json.is_object() && found != json.end() ? *found : kNull,
            path.empty() ? key : path + "." + key};
  }
  At operator[](size_t index) const { return {json[index], fmt::format("{}[{}]", path, index)}; }
  bool null() const { return json.is_null(); }
};

absl::Status wrong(const At& at, std::string_view wanted) {
  std::string found =
      at.null() ? "missing" : at.json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (found.size() > 80) found = found.substr(0, 80) + "...";
  return invalid_argument("{}: {}, found {}", at.path, wanted, found);
}

absl::Status want_object(const At& at) {
  return at.json.is_object() ? absl::OkStatus() : wrong(at, "must be an object");
}
absl::Status want_array(const At& at) {
  return at.json.is_array() ? absl::OkStatus() : wrong(at, "must be an array");
}

absl::StatusOr<std::string> read_string(const At& at) {
  if (!at.json.is_string()) return wrong(at, "must be a string");
  return at.json.get<std::string>();
}

absl::StatusOr<bool> read_bool(const At& at, std::optional<bool> otherwise) {
  if (at.null() && otherwise) return *otherwise;
  if (!at.json.is_boolean()) return wrong(at, "must be true or false");
  return at.json.get<bool>();
}

absl::StatusOr<TokenId> read_id(const At& at) {
  if (!at.json.is_number_integer() || at.json < 0 || at.json > kMaxId)
    return wrong(at, fmt::format("must be a token id from 0 to {}", kMaxId));
  return at.json.get<TokenId>();
}

// For options whose absence, null, or one value means that they are off.
absl::Status want_off(const At& at, const Json& off, std::string_view why) {
  if (at.null() || at.json == off) return absl::OkStatus();
  return wrong(at, fmt::format("{} is not supported", why));
}

absl::StatusOr<std::string> read_type(const At& at) {
  if (absl::Status status = want_object(at); !status.ok()) return status;
  return read_string(at["type"]);
}

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

absl::Status check_model_options(const At& model) {
  absl::StatusOr<std::string> type = read_type(model);
  if (!type.ok()) return type.status();
  if (*type != "BPE") return wrong(model["type"], "only byte-level BPE is supported");
  for (const absl::Status& status :
       {want_off(model["dropout"], 0.0, "dropout"),
        want_off(model["continuing_subword_prefix"], "", "a prefix"),
        want_off(model["end_of_word_suffix"], "", "a suffix"),
        want_off(model["byte_fallback"], false, "byte fallback (SentencePiece style)")})
    if (!status.ok()) return status;
  // What these two speak of does not happen: every byte has an entry (Bpe::make checks).
  if (!model["unk_token"].null() && !model["unk_token"].json.is_string())
    return wrong(model["unk_token"], "must be a string");
  return read_bool(model["fuse_unk"], false).status();
}

absl::StatusOr<Bpe> read_model(const At& model) {
  if (absl::Status status = check_model_options(model); !status.ok()) return status;
  absl::StatusOr<bool> ignore_merges = read_bool(model["ignore_merges"], false);
  if (!ignore_merges.ok()) return ignore_merges.status();

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
  return Bpe::make(std::move(vocabulary), merges, *ignore_merges);
}

absl::Status read_normalizer(const At& at, Normalizer& normalizer, int depth) {
  if (at.null()) return absl::OkStatus();
  if (depth > kMaxDepth) return invalid_argument("{}: nested too deep", at.path);
  absl::StatusOr<std::string> type = read_type(at);
  if (!type.ok()) return type.status();
  if (*type == "Sequence") {
    const At list = at["normalizers"];
    if (absl::Status status = want_array(list); !status.ok()) return status;
    for (size_t i = 0; i < list.json.size(); ++i)
      if (absl::Status status = read_normalizer(list[i], normalizer, depth + 1); !status.ok())
        return status;
    return absl::OkStatus();
  }
  constexpr std::pair<std::string_view, NormalForm> kForms[] = {{"NFC", NormalForm::nfc},
                                                                {"NFD", NormalForm::nfd},
                                                                {"NFKC", NormalForm::nfkc},
                                                                {"NFKD", NormalForm::nfkd}};
  for (const auto& [name, form] : kForms)
    if (*type == name) {
      normalizer.add(form);
      return absl::OkStatus();
    }
  return wrong(at["type"], "only NFC, NFD, NFKC, NFKD and Sequence are supported");
}

std::string literal_pattern(std::string_view literal) {
  std::string out;
  for (const char c : literal) {
    if (std::string_view("\\^$.|?*+()[]{}-&#~").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

absl::Status read_split(const At& at, PreTokenizer& out) {
  const At pattern = at["pattern"];
  if (absl::Status status = want_object(pattern); !status.ok()) return status;
  const bool literal = !pattern["String"].null();
  const At text_at = pattern[literal ? "String" : "Regex"];
  absl::StatusOr<std::string> text = read_string(text_at);
  if (!text.ok()) return text.status();
  if (text->empty()) return wrong(text_at, "must not be empty");
  absl::StatusOr<Regex> regex = Regex::compile(literal ? literal_pattern(*text) : *text);
  if (!regex.ok()) return annotate(regex.status(), text_at.path);
  absl::StatusOr<bool> invert = read_bool(at["invert"], false);
  if (!invert.ok()) return invert.status();
  constexpr std::pair<std::string_view, SplitBehavior> kBehaviors[] = {
      {"Isolated", SplitBehavior::isolated},
      {"Removed", SplitBehavior::removed},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous}};
  for (const auto& [name, behavior] : kBehaviors)
    if (at["behavior"].json == name) {
      out.add_split(*std::move(regex), behavior, *invert);
      return absl::OkStatus();
    }
  return wrong(at["behavior"], "must name what becomes of matches, like Isolated");
}

absl::Status read_byte_level(const At& at, PreTokenizer& out) {
  absl::StatusOr<bool> prefix = read_bool(at["add_prefix_space"], std::nullopt);
  if (!prefix.ok()) return prefix.status();
  absl::StatusOr<bool> use_regex = read_bool(at["use_regex"], true);
  if (!use_regex.ok()) return use_regex.status();
  if (*prefix) out.add_prefix_space();
  if (!*use_regex) return absl::OkStatus();
  absl::StatusOr<Regex> regex = Regex::compile(kGpt2Pattern);
  if (!regex.ok()) return regex.status();
  out.add_split(*std::move(regex), SplitBehavior::isolated, false);
  return absl::OkStatus();
}

absl::Status read_digits(const At& at, PreTokenizer& out) {
  absl::StatusOr<bool> individual = read_bool(at["individual_digits"], std::nullopt);
  if (!individual.ok()) return individual.status();
  absl::StatusOr<Regex> regex = Regex::compile("\\p{N}");
  if (!regex.ok()) return regex.status();
  out.add_split(*std::move(regex),
                *individual ? SplitBehavior::isolated : SplitBehavior::contiguous, false);
  return absl::OkStatus();
}

// `byte_level`: whether a ByteLevel stage has been seen.
absl::Status read_pretokenizer(const At& at, PreTokenizer& out, bool& byte_level, int depth) {
  if (depth > kMaxDepth) return invalid_argument("{}: nested too deep", at.path);
  absl::StatusOr<std::string> type = read_type(at);
  if (!type.ok()) return type.status();
  if (*type == "Sequence") {
    const At list = at["pretokenizers"];
    if (absl::Status status = want_array(list); !status.ok()) return status;
    for (size_t i = 0; i < list.json.size(); ++i)
      if (absl::Status status = read_pretokenizer(list[i], out, byte_level, depth + 1);
          !status.ok())
        return status;
    return absl::OkStatus();
  }
  // It turns bytes into the alphabet's letters, and what came behind it would cut those.
  if (byte_level) return wrong(at["type"], "ByteLevel must be the last pre-tokenizer");
  if (*type == "ByteLevel") {
    byte_level = true;
    return read_byte_level(at, out);
  }
  if (*type == "Split") return read_split(at, out);
  if (*type == "Digits") return read_digits(at, out);
  return wrong(at["type"], "only ByteLevel, Split, Digits and Sequence are supported");
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

absl::Status read_postprocessor(const At& at, TokenizerParts& parts, int depth) {
  if (at.null()) return absl::OkStatus();
  if (depth > kMaxDepth) return invalid_argument("{}: nested too deep", at.path);
  absl::StatusOr<std::string> type = read_type(at);
  if (!type.ok()) return type.status();
  if (*type == "Sequence") {
    const At list = at["processors"];
    if (absl::Status status = want_array(list); !status.ok()) return status;
    for (size_t i = 0; i < list.json.size(); ++i)
      if (absl::Status status = read_postprocessor(list[i], parts, depth + 1); !status.ok())
        return status;
    return absl::OkStatus();
  }
  if (*type == "ByteLevel") return absl::OkStatus();  // moves offsets, which nobody asks for
  if (*type == "TemplateProcessing") return read_template(at, parts);
  return wrong(at["type"], "only TemplateProcessing, ByteLevel and Sequence are supported");
}

absl::Status check_decoder(const At& at, int depth) {
  if (at.null()) return absl::OkStatus();
  if (depth > kMaxDepth) return invalid_argument("{}: nested too deep", at.path);
  absl::StatusOr<std::string> type = read_type(at);
  if (!type.ok()) return type.status();
  if (*type == "Sequence") {
    const At list = at["decoders"];
    if (absl::Status status = want_array(list); !status.ok()) return status;
    for (size_t i = 0; i < list.json.size(); ++i)
      if (absl::Status status = check_decoder(list[i], depth + 1); !status.ok()) return status;
    return absl::OkStatus();
  }
  if (*type == "ByteLevel" || *type == "Fuse") return absl::OkStatus();
  return wrong(at["type"], "only ByteLevel, Fuse and Sequence are supported");
}

absl::StatusOr<AddedToken> read_added(const At& at) {
  if (absl::Status status = want_object(at); !status.ok()) return status;
  AddedToken token;
  absl::StatusOr<std::string> content = read_string(at["content"]);
  if (!content.ok()) return content.status();
  if (content->empty()) return wrong(at["content"], "must not be empty");
  token.content = *std::move(content);
  const std::pair<const char*, bool*> flags[] = {{"special", &token.special},
                                                 {"lstrip", &token.lstrip},
                                                 {"rstrip", &token.rstrip},
                                                 {"single_word", &token.single_word},
                                                 {"normalized", &token.normalized}};
  for (const auto& [name, flag] : flags) {
    const bool otherwise = flag == &token.normalized && !token.special;
    absl::StatusOr<bool> value = read_bool(at[name], otherwise);
    if (!value.ok()) return value.status();
    *flag = *value;
  }
  return token;
}

// The reference numbers added tokens itself: one that is in the vocabulary has its id from there,
// others are counted on from the end of the vocabulary. What the file says must agree.
class AddedTokenReader {
 public:
  explicit AddedTokenReader(TokenizerParts& parts)
      : parts_(parts), next_(static_cast<TokenId>(parts.bpe.size())) {
    parts.bpe.for_each(
        [&](const std::string&, TokenId id, const std::string&) { taken_.insert(id); });
    for (const AddedToken& token : parts.added) {
      taken_.insert(token.id);
      next_ = std::max(next_, token.id + 1);
    }
  }

  absl::Status add(const At& at, const At& id_at, TokenId id, bool may_override) {
    absl::StatusOr<AddedToken> token = read_added(at);
    if (!token.ok()) return token.status();
    token->id = id;
    const auto same =
        std::find_if(parts_.added.begin(), parts_.added.end(),
                     [&](const AddedToken& t) { return t.content == token->content; });
    if (same != parts_.added.end()) {
      if (!may_override) return wrong(at["content"], "is there twice");
      if (same->id != id) return wrong(id_at, "is another id than in tokenizer.json");
      *same = *std::move(token);
      return absl::OkStatus();
    }
    const std::optional<TokenId> known = parts_.bpe.find(token->content);
    const TokenId expected = known ? *known : next_;
    if (id != expected)
      return wrong(id_at, fmt::format("'{}' must have id {}", token->content, expected));
    if (!known && !taken_.insert(id).second) return wrong(id_at, "is the id of another token");
    if (!known) next_ = id + 1;
    parts_.added.push_back(*std::move(token));
    return absl::OkStatus();
  }

 private:
  TokenizerParts& parts_;
  TokenId next_;
  absl::flat_hash_set<TokenId> taken_;
};

absl::Status read_added_tokens(const At& list, AddedTokenReader& reader) {
  if (list.null()) return absl::OkStatus();
  if (absl::Status status = want_array(list); !status.ok()) return status;
  for (size_t i = 0; i < list.json.size(); ++i) {
    absl::StatusOr<TokenId> id = read_id(list[i]["id"]);
    if (!id.ok()) return id.status();
    if (absl::Status status = reader.add(list[i], list[i]["id"], *id, false); !status.ok())
      return status;
  }
  return absl::OkStatus();
}

absl::Status read_config_tokens(const At& table, AddedTokenReader& reader) {
  if (table.null()) return absl::OkStatus();
  if (absl::Status status = want_object(table); !status.ok()) return status;
  std::vector<std::pair<TokenId, std::string>> order;
  for (const auto& [key, value] : table.json.items()) {
    if (key.empty() || key.size() > 7 || key.find_first_not_of("0123456789") != std::string::npos ||
        std::stoi(key) > kMaxId)
      return invalid_argument("{}: '{}' must be a token id from 0 to {}", table.path,
                              key.substr(0, 80), kMaxId);
    order.emplace_back(std::stoi(key), key);
  }
  std::sort(order.begin(), order.end());
  for (const auto& [id, key] : order)
    if (absl::Status status = reader.add(table[key], table[key], id, true); !status.ok())
      return status;
  return absl::OkStatus();
}

absl::StatusOr<Json> parse_json(const std::string& text) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& error) {
    return invalid_argument("not valid JSON: {}", error.what());
  }
}

absl::Status check_template_ids(const TokenizerParts& parts) {
  absl::flat_hash_set<TokenId> known;
  for (const AddedToken& token : parts.added) known.insert(token.id);
  parts.bpe.for_each([&](const std::string&, TokenId id, const std::string&) { known.insert(id); });
  for (const auto* ids : {&parts.prefix, &parts.suffix})
    for (const TokenId id : *ids)
      if (!known.contains(id)) return invalid_argument("post_processor: id {} is no token's", id);
  return absl::OkStatus();
}

absl::StatusOr<TokenizerParts> read_tokenizer(const std::string& text) {
  absl::StatusOr<Json> json = parse_json(text);
  if (!json.ok()) return json.status();
  const At root{*json, ""};
  if (!json->is_object()) return invalid_argument("must be a JSON object");
  if (!root["version"].null() && root["version"].json != "1.0")
    return wrong(root["version"], "must be \"1.0\"");
  // "truncation" and "padding" are defaults of a batch interface: a server decides for itself, and
  // never cuts a prompt in silence.
  TokenizerParts parts;
  absl::StatusOr<Bpe> bpe = read_model(root["model"]);
  if (!bpe.ok()) return bpe.status();
  parts.bpe = *std::move(bpe);
  bool byte_level = false;
  if (root["pre_tokenizer"].null())
    return wrong(root["pre_tokenizer"], "must have a ByteLevel stage");
  absl::Status status = read_normalizer(root["normalizer"], parts.normalizer, 0);
  if (status.ok())
    status = read_pretokenizer(root["pre_tokenizer"], parts.pretokenizer, byte_level, 0);
  if (status.ok() && !byte_level)
    status = wrong(root["pre_tokenizer"], "must have a ByteLevel stage");
  if (status.ok()) status = check_decoder(root["decoder"], 0);
  AddedTokenReader reader(parts);
  if (status.ok()) status = read_added_tokens(root["added_tokens"], reader);
  if (status.ok()) status = read_postprocessor(root["post_processor"], parts, 0);
  if (!status.ok()) return status;
  return parts;
}

absl::Status add_config_tokens(const std::string& text, TokenizerParts& parts) {
  absl::StatusOr<Json> json = parse_json(text);
  if (!json.ok()) return json.status();
  if (!json->is_object()) return invalid_argument("must be a JSON object");
  AddedTokenReader reader(parts);
  return read_config_tokens(At{*json, ""}["added_tokens_decoder"], reader);
}

}  // namespace

absl::StatusOr<TokenizerParts> parse_tokenizer(const std::string& text, std::string_view file,
                                               const std::string& config,
                                               std::string_view config_file) {
  try {
    absl::StatusOr<TokenizerParts> parts = read_tokenizer(text);
    if (!parts.ok()) return annotate(parts.status(), file);
    if (!config.empty())
      if (absl::Status status = add_config_tokens(config, *parts); !status.ok())
        return annotate(status, config_file);
    if (absl::Status status = check_template_ids(*parts); !status.ok())
      return annotate(status, file);
    return parts;
  } catch (const std::exception& error) {
    // The JSON library and the allocator throw; nothing above this line does.
    return invalid_argument("{}: {}", file, error.what());
  }
}

}  // namespace sluice
