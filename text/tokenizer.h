#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "text/decoder.h"

namespace sluice {

// Strings to token ids and back, as a model's tokenizer.json says, or its tokenizer.model where
// there is no tokenizer.json. Immutable after load; every method is const and thread-safe.
class Tokenizer {
 public:
  // Reads the file (and what it needs of those beside it) from a model directory.
  // Refuses, naming the file and the key, what it cannot reproduce exactly.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> load(const std::filesystem::path& model_dir);
  virtual ~Tokenizer() = default;

  // `add_special`: apply the post-processor's template (begin-of-text and the like). Special tokens
  // written out in `text` are recognised either way. Never fails: invalid UTF-8 is replaced by
  // U+FFFD.
  virtual std::vector<TokenId> encode(std::string_view text, bool add_special) const = 0;
  // The token's raw bytes in the middle of a text, maybe half a character; empty for ids that no
  // token has.
  virtual std::string_view piece(TokenId) const = 0;
  // What the file calls it ("\u2581the", "<0x0A>"); empty for ids that no token has.
  virtual std::string_view content(TokenId id) const { return piece(id); }
  // One that stands for its piece's one byte, in a vocabulary whose other tokens are characters.
  virtual bool is_byte(TokenId) const { return false; }
  // How tokens make text. Unless it says otherwise, their pieces put together do.
  virtual const Decoder& decoder() const;
  virtual bool is_special(TokenId) const = 0;
  // Exact content of a vocabulary entry or added token ("<|eot_id|>").
  virtual std::optional<TokenId> find(std::string_view content) const = 0;
  virtual int vocab_size() const = 0;  // highest id + 1
  // What it was read from.
  virtual std::string_view file() const { return "tokenizer.json"; }
  // What makes tokens of text ("BPE of bytes"), for people.
  virtual std::string_view kind() const { return "made up"; }
  // Every text has tokens, and they hold all of it (up to NFC).
  virtual bool lossless() const { return false; }
};

}  // namespace sluice
