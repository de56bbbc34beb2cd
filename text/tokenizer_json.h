#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/added_tokens.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_model.h"

namespace sluice {

// What a tokenizer.json, or a tokenizer.model, says, checked.
struct TokenizerParts {
  std::string file = "tokenizer.json";
  TextModel model;
  Normalizer normalizer;
  PreTokenizer pretokenizer;
  Decoder decoder;
  bool byte_level = false;              // entries are written in the byte alphabet
  std::vector<AddedToken> added;        // distinct ids and contents
  std::vector<AddedToken> symbols;      // entries, cut out of normalised text as they are written
  std::vector<TokenId> prefix, suffix;  // of the post-processor's template
};

// `config`: the text of tokenizer_config.json, whose added_tokens_decoder adds to and overrides the
// added tokens; empty when there is none. `file` and `config_file` are what errors call them.
// Whatever the texts hold, the answer is parts or one line that names the file and the key.
absl::StatusOr<TokenizerParts> parse_tokenizer(const std::string& text, std::string_view file,
                                               const std::string& config,
                                               std::string_view config_file);

// Adds what tokenizer_config.json's added_tokens_decoder holds. A token that is no entry has the
// next id behind all others, or any that is free. Errors name the key.
enum class IdsMay : uint8_t { be_next, be_any_free };
absl::Status add_config_tokens(const std::string& config, IdsMay ids, TokenizerParts& parts);

}  // namespace sluice
