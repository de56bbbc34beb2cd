#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace sluice {

// Strings to token ids and back, as a model's tokenizer.json says.
// Immutable after load; every method is const and thread-safe.
class Tokenizer {
 public:
  // Reads tokenizer.json (and what it needs of tokenizer_config.json) from a model directory.
  // Refuses, naming the file and the key, what it cannot reproduce exactly.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> load(const std::filesystem::path& model_dir);
  virtual ~Tokenizer() = default;

  // `add_special`: apply the post-processor's template (begin-of-text and the like). Special tokens
  // written out in `text` are recognised either way. Never fails: invalid UTF-8 is replaced by
  // U+FFFD.
  virtual std::vector<TokenId> encode(std::string_view text, bool add_special) const = 0;
  // The token's raw bytes, maybe half a character; empty for ids that no token has.
  virtual std::string_view piece(TokenId) const = 0;
  virtual bool is_special(TokenId) const = 0;
  // Exact content of a vocabulary entry or added token ("<|eot_id|>").
  virtual std::optional<TokenId> find(std::string_view content) const = 0;
  virtual int vocab_size() const = 0;  // highest id + 1
};

}  // namespace sluice
