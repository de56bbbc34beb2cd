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

// Byte-level byte-pair encoding (Sennrich et al. 2016, over bytes as in GPT-2): a piece of text
// starts as one token a byte; then, while there is one, the adjacent pair with the best rank is
// merged, the leftmost first. Immutable after make; thread-safe.
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
    struct Candidate {
      uint32_t rank;
      int32_t at;
      TokenId merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  // Both as in the file, in the byte alphabet: {content, id}, and pairs in order of rank.
  using Vocabulary = std::vector<std::pair<std::string, TokenId>>;
  using Merges = std::vector<std::pair<std::string, std::string>>;
  // `ignore_merges`: a piece that is a vocabulary entry is that token, reachable by merges or not.
  // Ids are distinct and not negative (the caller has checked). Error messages begin with the key.
  static absl::StatusOr<Bpe> make(Vocabulary vocabulary, const Merges& merges, bool ignore_merges);

  // Appends the tokens of one piece of pre-tokenised text.
  void encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;

  std::optional<TokenId> find(std::string_view content) const;
  // The bytes of every entry, by content.
  size_t size() const { return vocabulary_.size(); }
  // Entries with their raw bytes: the alphabet undone where the content is written in it.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (size_t i = 0; i < vocabulary_.size(); ++i)
      visit(vocabulary_[i].first, vocabulary_[i].second, bytes_[i]);
  }

 private:
  struct Merge {
    uint32_t rank;
    TokenId merged;
  };
  struct Piece {
    TokenId id;
    bool whole;  // merging its own bytes gives exactly this token
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
  absl::Status index_merges(const Merges& merges);
  void merge_short(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;
  void merge_long(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;
  void merge(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const;

  Vocabulary vocabulary_;
  std::vector<std::string> bytes_;  // [entry]
  absl::flat_hash_map<std::string_view, TokenId, BytesHash> by_content_;
  absl::flat_hash_map<std::string_view, Piece, BytesHash> by_bytes_;
  absl::flat_hash_map<uint64_t, Merge, KeyHash> merges_;
  std::array<TokenId, 256> byte_tokens_{};  // -1 for bytes that no UTF-8 text holds
  size_t longest_piece_ = 0;
};

}  // namespace sluice
