#include "text/tokenizer_json.h"

#include <absl/container/flat_hash_set.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>

#include "text/json_reader.h"
#include "text/tokenizer_stages.h"

namespace sluice {
namespace {

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
  AddedTokenReader(TokenizerParts& parts, IdsMay ids)
      : parts_(parts), ids_(ids), next_(static_cast<TokenId>(num_entries(parts.model))) {
    for_each_entry(parts.model, [&](const std::string&, TokenId id) { taken_.insert(id); });
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
      if (same->id != id) return wrong(id_at, "is another id than in " + parts_.file);
      *same = *std::move(token);
      return absl::OkStatus();
    }
    const std::optional<TokenId> known = find_token(parts_.model, token->content);
    const TokenId expected = known ? *known : next_;
    if (id != expected && (known || ids_ == IdsMay::be_next))
      return wrong(id_at, fmt::format("'{}' must have id {}", token->content, expected));
    if (!known && !taken_.insert(id).second) return wrong(id_at, "is the id of another token");
    if (!known) next_ = std::max(next_, id + 1);
    parts_.added.push_back(*std::move(token));
    return absl::OkStatus();
  }

 private:
  TokenizerParts& parts_;
  IdsMay ids_;
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
        std::stoi(key) > kMaxTokenId)
      return invalid_argument("{}: '{}' must be a token id from 0 to {}", table.path,
                              key.substr(0, 80), kMaxTokenId);
    order.emplace_back(std::stoi(key), key);
  }
  std::sort(order.begin(), order.end());
  for (const auto& [id, key] : order)
    if (absl::Status status = reader.add(table[key], table[key], id, true); !status.ok())
      return status;
  return absl::OkStatus();
}

absl::Status check_template_ids(const TokenizerParts& parts) {
  absl::flat_hash_set<TokenId> known;
  for (const AddedToken& token : parts.added) known.insert(token.id);
  for_each_entry(parts.model, [&](const std::string&, TokenId id) { known.insert(id); });
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
  absl::Status status = read_normalizer(root["normalizer"], parts.normalizer);
  if (status.ok())
    status = read_pretokenizer(root["pre_tokenizer"], parts.pretokenizer, parts.byte_level);
  if (!status.ok()) return status;
  absl::StatusOr<TextModel> model = read_text_model(root["model"], parts.byte_level);
  if (!model.ok()) return model.status();
  parts.model = *std::move(model);
  AddedTokenReader reader(parts, IdsMay::be_next);
  status = read_added_tokens(root["added_tokens"], reader);
  if (status.ok()) status = read_postprocessor(root["post_processor"], parts);
  if (status.ok()) status = read_decoder(root["decoder"], parts.byte_level, parts.decoder);
  if (!status.ok()) return status;
  return parts;
}

}  // namespace

absl::Status add_config_tokens(const std::string& config, IdsMay ids, TokenizerParts& parts) {
  absl::StatusOr<Json> json = parse_json(config);
  if (!json.ok()) return json.status();
  if (!json->is_object()) return invalid_argument("must be a JSON object");
  AddedTokenReader reader(parts, ids);
  return read_config_tokens(At{*json, ""}["added_tokens_decoder"], reader);
}

absl::StatusOr<TokenizerParts> parse_tokenizer(const std::string& text, std::string_view file,
                                               const std::string& config,
                                               std::string_view config_file) {
  try {
    absl::StatusOr<TokenizerParts> parts = read_tokenizer(text);
    if (!parts.ok()) return annotate(parts.status(), file);
    if (!config.empty())
      if (absl::Status status = add_config_tokens(config, IdsMay::be_next, *parts); !status.ok())
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
