#pragma once

#include <absl/container/flat_hash_map.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "text/bpe.h"

namespace sluice {

// Unigram language model segmentation (Kudo 2018): of all ways to write a piece of text as entries,
// the one with the highest sum of scores, found by Viterbi's algorithm over a trie. Linear in the
// text's length. Immutable after make; thread-safe.
class Unigram {
 public:
  Unigram() = default;
  Unigram(Unigram&&) = default;  // the index points into the entries, which stay where they are
  Unigram& operator=(Unigram&&) = default;

  // Buffers for encode, reused from piece to piece; one per thread.
  struct Scratch {
    struct Best {
      double score;
      int32_t begin;  // of the last token on the best way here; -1: no way yet
      TokenId id;
    };
    std::vector<Best> best;     // [position]
    std::vector<int32_t> ends;  // of the tokens, from the last to the first
  };

  struct Entry {
    std::string content;
    double score;
    bool in_text = true;  // text may become it
  };
  struct Options {
    TokenId unknown = 0;         // what a character without an entry becomes
    bool byte_fallback = false;  // its bytes' entries "<0x..>" instead, if all of them exist
    // Sums of scores are floats, as in SentencePiece itself: where two ways to write a text are
    // equal but for rounding, that decides.
    bool single_precision = false;
    std::optional<double> unknown_score;  // of such a character; none: 10 below the worst entry's
  };
  // The id of an entry is its place. Of entries with the same content the last one is found. Error
  // messages begin with the key.
  static absl::StatusOr<Unigram> make(std::vector<Entry> entries, Options options);

  // Appends the tokens of one piece of pre-tokenised text.
  void encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;

  std::optional<TokenId> find(std::string_view content) const;
  size_t size() const { return entries_.size(); }
  const std::vector<Entry>& entries() const { return entries_; }
  bool covers_all_bytes() const { return covers_all_bytes_; }

 private:
  // Children of a node lie together, in order of their labels.
  struct Node {
    uint32_t first_child = 0;
    uint32_t num_children = 0;
    TokenId id = -1;
  };
  void build_trie();
  uint32_t child(uint32_t node, char label) const;  // 0: none
  void walk(std::string_view piece, Scratch& scratch) const;
  void unknown_text(std::string_view text, std::vector<TokenId>& out) const;

  std::vector<Entry> entries_;
  Options options_;
  absl::flat_hash_map<std::string_view, TokenId, BytesHash> by_content_;
  std::vector<Node> nodes_;  // 0 is the root
  std::string labels_;       // [node] the byte that leads to it
  std::array<TokenId, 256> byte_tokens_{};
  double unknown_score_ = 0;
  bool covers_all_bytes_ = false;
};

}  // namespace sluice
