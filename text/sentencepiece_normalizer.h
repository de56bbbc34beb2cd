#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "text/added_tokens.h"
#include "text/charsmap.h"

namespace sluice {

// What SentencePiece does to a text before it looks for tokens, as the NormalizerSpec of its model
// says. Immutable, thread-safe.
class SentencePieceNormalizer {
 public:
  // What the text begins with, if it is not empty, gets a mark in front.
  enum class Prefix : uint8_t { never, at_beginning, always };
  struct Rules {
    std::optional<Charsmap> map;  // the longest entry first
    Prefix prefix = Prefix::at_beginning;
    bool squeeze = true;  // spaces at both ends go, and of several in a row one stays
    bool mark = true;     // spaces are written U+2581
  };
  // `symbols`: stay as they are, but for their spaces.
  SentencePieceNormalizer(Rules rules, AddedTokenMatcher symbols);

  // `beginning`: a whole text begins with this one.
  void apply(std::string_view text, bool beginning, std::string& out) const;
  bool keeps_text() const { return !rules_.map && !rules_.squeeze; }

 private:
  // What the beginning of `text` becomes; `length` of it.
  std::string_view next(std::string_view text, size_t& length) const;

  Rules rules_;
  AddedTokenMatcher symbols_;
  std::array<bool, 256> plain_{};  // ASCII that stays, whatever is beside it
};

}  // namespace sluice
