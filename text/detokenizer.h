#pragma once

#include <span>
#include <string>

#include "text/tokenizer.h"

namespace sluice {

// What decoded text is: a text of its own, or what follows after a prompt. It matters to
// vocabularies whose texts begin with a space that is not there.
enum class Beginning : uint8_t { of_text, continues };

// Tokens in, valid UTF-8 out: holds back bytes until a character is complete. Bytes that can never
// become one are replaced by U+FFFD. The pieces of text, put together, are the same whatever the
// borders of the tokens. One per stream, on that stream's thread.
//
// Where single tokens stand for bytes, the reference makes every byte of a run of them U+FFFD if
// the run is not UTF-8 as a whole. A stream does not wait for the run's end: it has shown the
// characters that were complete, and each byte that belongs to none becomes U+FFFD.
class Detokenizer {
 public:
  Detokenizer(const Tokenizer& tokenizer, bool skip_special,
              Beginning beginning = Beginning::of_text);
  // The text that became certain with this token; often the token's own, sometimes nothing.
  std::string push(TokenId);
  // What is left at the end, as U+FFFD where it is not a whole character.
  std::string flush();

 private:
  friend std::string decode(const Tokenizer&, std::span<const TokenId>, bool);
  void add(const std::string& text, std::string& out);
  void add_token(TokenId token, bool last, std::string& out);
  void show_bytes(bool ended, std::string& out);
  void end_run(std::string& out);

  const Tokenizer& tokenizer_;
  const Decoder& decoder_;
  bool skip_special_;
  bool whole_runs_ = false;  // as the reference: a run of bytes is looked at when it has ended
  bool first_;               // no token has come, and the text begins here
  bool any_;                 // something stands before the next token
  bool in_run_ = false;      // of tokens that are bytes
  std::string held_;         // bytes that are not a whole character yet
  std::string end_;          // characters that may have to be stripped from the text's end
  size_t to_strip_;          // characters that may still be stripped from its beginning
  TokenId waiting_ = -1;     // a token that differs if it is the last one
};

// The text of tokens that are all there, to the letter as the reference decodes them.
std::string decode(const Tokenizer& tokenizer, std::span<const TokenId> ids, bool skip_special);

}  // namespace sluice
