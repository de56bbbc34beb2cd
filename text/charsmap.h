#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sluice {

// SentencePiece's precompiled character map: a double-array trie (Yata et al. 2007, in the layout
// of darts-clone) from byte strings to their replacements. Immutable, thread-safe.
class Charsmap {
 public:
  // `blob`: u32 size of the trie in bytes, the trie, zero-terminated replacements.
  static absl::StatusOr<Charsmap> parse(std::string_view blob);

  // As the reference's tokenizer.json machinery does: grapheme by grapheme; a short one that has an
  // entry as its beginning becomes that entry's replacement as a whole, else each of its
  // characters is looked up alone.
  void rewrite_graphemes(std::string_view text, std::string& out) const;

  struct Entry {
    size_t length;  // of what it replaces
    std::string_view replacement;
  };
  // The longest entry that `text` begins with: how SentencePiece itself reads a map.
  std::optional<Entry> longest(std::string_view text) const { return find(text, true); }
  // Some entry begins with it.
  bool has_beginning(char byte) const;

 private:
  // The shortest entry that `text` begins with, or the longest.
  std::optional<Entry> find(std::string_view text, bool longest) const;
  void rewrite_grapheme(std::string_view grapheme, std::string& out) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
  std::array<bool, 128> plain_{};  // characters that stay as they are
};

}  // namespace sluice
