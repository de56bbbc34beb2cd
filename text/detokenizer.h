#pragma once

#include <string>

#include "text/tokenizer.h"

namespace sluice {

// Tokens in, valid UTF-8 out: holds back bytes until a character is complete. Bytes that can never
// become one are replaced by U+FFFD. The pieces of text, put together, are the same whatever the
// borders of the tokens. One per stream, on that stream's thread.
class Detokenizer {
 public:
  Detokenizer(const Tokenizer& tokenizer, bool skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  // The text that became certain with this token; often the token's own, sometimes nothing.
  std::string push(TokenId);
  // What is left at the end, as U+FFFD where it is not a whole character.
  std::string flush();

 private:
  const Tokenizer& tokenizer_;
  std::string held_;  // at most 3 bytes: the beginning of a character
  bool skip_special_;
};

}  // namespace sluice
