#pragma once

#include <absl/container/flat_hash_map.h>

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "base/types.h"
#include "text/pair_queue.h"

namespace sluice {

struct BytesHash {
  size_t operator()(std::string_view bytes) const {
    uint64_t hash = bytes.size();
    while (bytes.size() >= 8) {
      uint64_t word;
      std::memcpy(&word, bytes.data(), 8);
      hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
      hash ^= hash >> 32;
      bytes.remove_prefix(8);
    }
    uint64_t word = 0;
    std::memcpy(&word, bytes.data(), bytes.size());
    return mix64(hash ^ word);
  }
};

// Byte-pair encoding (Sennrich et al. 2016): a piece of text starts as one token a letter; then,
// while there is one, the adjacent pair with the best rank is merged, the leftmost first. Letters
// are bytes (as in GPT-2) or characters (as in SentencePiece). Immutable after make; thread-safe.
class Bpe {
 public:
  Bpe() = default;
  Bpe(Bpe&&) = default;  // the indexes point into the entries, which stay where they are
  Bpe& operator=(Bpe&&) = default;

  // Buffers for encode, reused from piece to piece; one per thread.
  struct Scratch {
    struct Symbol {
      TokenId id;
      uint32_t rank;  // of the pair with the next symbol
      int32_t previous, next;
    };
    std::vector<Symbol> symbols;
    PairQueue queue;
  };

  // As in the file: {content, id}, and pairs in order of rank. In a byte-level vocabulary both are
  // written in the byte alphabet.
  using Vocabulary = std::vector<std::pair<std::string, TokenId>>;
  using Merges = std::vector<std::pair<std::string, std::string>>;
  struct Options {
    bool byte_level = true;      // letters are bytes, and every byte has an entry
    bool ignore_merges = false;  // a piece that is an entry is that token, reachable or not
    // Of characters only. One without an entry becomes its bytes' entries "<0x..>" if
    // byte_fallback is set and all of them exist; else `unknown`; else it is lost.
    bool byte_fallback = false;
    std::string unknown;
    bool fuse_unknown = false;             // neighbouring unknown characters are one token
    std::string inner_prefix, end_suffix;  // of letters behind a piece's first, of its last one
  };
  // Ids are distinct and not negative (the caller has checked). Error messages begin with the key.
  static absl::StatusOr<Bpe> make(Vocabulary vocabulary, const Merges& merges, Options options);
  // As in SentencePiece, where pairs are not listed: two neighbours whose text is that of an entry
  // with a rank may become that one. The id of an entry is its place, ranks[id] its rank.
  static absl::StatusOr<Bpe> make_ranked(Vocabulary vocabulary, const std::vector<uint32_t>& ranks,
                                         Options options);
  static constexpr uint32_t kNoRank = UINT32_MAX;

  // Appends the tokens of one piece of pre-tokenised text.
  void encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;

  std::optional<TokenId> find(std::string_view content) const;
  size_t size() const { return vocabulary_.size(); }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  // Every text has tokens, and they hold all of it.
  bool covers_all_bytes() const { return options_.byte_level || covers_all_bytes_; }

 private:
  struct Merge {
    uint32_t rank;
    TokenId merged;
  };
  struct Piece {
    TokenId id;
    bool whole;  // merging its own letters gives exactly this token
  };
  static uint64_t key(TokenId left, TokenId right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  struct KeyHash {
    size_t operator()(uint64_t key) const { return mix64(key); }
  };
  const Merge* find_merge(TokenId left, TokenId right) const {
    const auto found = merges_.find(key(left, right));
    return found == merges_.end() ? nullptr : &found->second;
  }
  absl::Status index_vocabulary();
  absl::Status check_bytes() const;
  void index_bytes();
  absl::Status index_characters();
  absl::Status index_merges(const Merges& merges);
  absl::Status index_ranks(const std::vector<uint32_t>& ranks);
  void index_pieces();
  void find_cut();
  bool affixes() const { return !options_.inner_prefix.empty() || !options_.end_suffix.empty(); }
  void encode_part(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;
  void spell(std::string_view piece, Scratch& scratch) const;
  void spell_characters(std::string_view piece, Scratch& scratch) const;
  TokenId find_character(std::string_view character, char32_t code, bool first, bool last) const;
  bool spell_bytes(std::string_view character, bool first, bool last, Scratch& scratch) const;
  void merge_short(Scratch& scratch, std::vector<TokenId>& out) const;
  void merge_long(Scratch& scratch, std::vector<TokenId>& out) const;
  void merge(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;

  Vocabulary vocabulary_;
  Options options_;
  std::vector<std::string> bytes_;  // [entry] its text: the byte alphabet undone
  absl::flat_hash_map<std::string_view, TokenId, BytesHash> by_content_;
  absl::flat_hash_map<std::string_view, Piece, BytesHash> by_text_;
  absl::flat_hash_map<uint64_t, Merge, KeyHash> merges_;
  size_t ranks_ = 0;  // one more than the greatest
  // Byte-level: the entry of each byte, -1 for bytes that no UTF-8 text holds. Otherwise "<0x..>".
  std::array<TokenId, 256> byte_tokens_{};
  std::vector<TokenId> near_;                            // of characters below its size
  absl::flat_hash_map<uint64_t, TokenId, KeyHash> far_;  // and of the others
  TokenId unknown_ = -1;
  bool covers_all_bytes_ = false;
  bool cut_at_mark_ = false;  // no entry holds U+2581 behind another character
  size_t longest_piece_ = 0;
};

}  // namespace sluice
