#pragma once

#include <absl/container/flat_hash_map.h>
#include <absl/functional/function_ref.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/types.h"
#include "text/regex.h"

namespace sluice {

// A token that is found in the text itself, before pre-tokenisation.
struct AddedToken {
  std::string content;
  TokenId id = -1;
  bool special = false;      // left out of decoded text on request
  bool normalized = false;   // looked for in normalised text
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool single_word = false;  // not beside a letter, digit or the like
};

// Finds added tokens in a text: the leftmost, of those the longest. Immutable, thread-safe.
class AddedTokenMatcher {
 public:
  // `pattern`: the content as it is looked for (maybe normalised), not empty. False when another
  // token has the same.
  bool add(std::string_view pattern, const AddedToken& token);

  // The length of the longest pattern that `text` begins with, whatever its flags; 0: there is
  // none.
  size_t prefix(std::string_view text) const;
  // Some pattern begins with it.
  bool has_beginning(char byte) const { return begins_[static_cast<uint8_t>(byte)]; }

  using EmitText = absl::FunctionRef<void(std::string_view)>;
  using EmitToken = absl::FunctionRef<void(TokenId)>;
  // `text` is valid UTF-8. Its parts in order; texts are never empty.
  void split(std::string_view text, Regex::Scratch& scratch, EmitText emit_text,
             EmitToken emit_token) const;

 private:
  struct Node {
    int32_t token = -1;  // index in tokens_
  };
  struct EdgeHash {
    size_t operator()(uint64_t edge) const { return mix64(edge); }
  };
  struct Found {
    size_t begin, end;
    const AddedToken* token;
  };
  // The longest pattern that `text` begins with, and its length; null: there is none.
  const AddedToken* match(std::string_view text, size_t& length) const;
  bool find(std::string_view text, size_t from, Found& found) const;
  bool stands_alone(std::string_view text, const Found& found, Regex::Scratch& scratch) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_ = std::vector<Node>(1);          // a trie; 0 is the root
  absl::flat_hash_map<uint64_t, int32_t, EdgeHash> edges_;  // node << 8 | byte -> node
  std::array<bool, 256> begins_{};                          // bytes that a pattern begins with
  std::optional<Regex> word_;                               // when a token asks for it
};

}  // namespace sluice
