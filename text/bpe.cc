#include "text/bpe.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace sluice {
namespace {

constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
// Up to here a linear search for the best pair is quicker than a heap.
constexpr size_t kShort = 48;

bool occurs_in_utf8(int byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

bool worse(const Bpe::Scratch::Candidate& a, const Bpe::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
}

}  // namespace

absl::StatusOr<Bpe> Bpe::make(Vocabulary vocabulary, const Merges& merges, bool ignore_merges) {
  Bpe bpe;
  bpe.vocabulary_ = std::move(vocabulary);
  if (absl::Status status = bpe.index_vocabulary(); !status.ok()) return status;
  if (absl::Status status = bpe.index_merges(merges); !status.ok()) return status;
  // Most words of real text are one token. Knowing which entries merging would give for their own
  // bytes, encode answers those by one look-up and no merging, whatever the merges are.
  Scratch scratch;
  std::vector<TokenId> tokens;
  for (auto& [bytes, piece] : bpe.by_bytes_) {
    piece.whole = ignore_merges;
    if (ignore_merges) continue;
    if (std::any_of(bytes.begin(), bytes.end(),
                    [&](char c) { return bpe.byte_tokens_[static_cast<uint8_t>(c)] < 0; }))
      continue;
    tokens.clear();
    bpe.merge(bytes, scratch, tokens);
    piece.whole = tokens.size() == 1 && tokens[0] == piece.id;
  }
  return bpe;
}

absl::Status Bpe::index_vocabulary() {
  bytes_.resize(vocabulary_.size());
  by_content_.reserve(vocabulary_.size());
  by_bytes_.reserve(vocabulary_.size());
  byte_tokens_.fill(-1);
  for (size_t i = 0; i < vocabulary_.size(); ++i) {
    const auto& [content, id] = vocabulary_[i];
    if (content.empty()) return invalid_argument("model.vocab: entry {} is empty", id);
    if (!by_content_.emplace(content, id).second)
      return invalid_argument("model.vocab: '{}' is there twice", content);
    if (!undo_byte_alphabet(content, bytes_[i])) {
      bytes_[i] = content;  // no text can become this one by merging
      continue;
    }
    by_bytes_.emplace(bytes_[i], Piece{id, false});
    longest_piece_ = std::max(longest_piece_, bytes_[i].size());
    if (bytes_[i].size() == 1) byte_tokens_[static_cast<uint8_t>(bytes_[i][0])] = id;
  }
  for (int byte = 0; byte < 256; ++byte)
    if (byte_tokens_[byte] < 0 && occurs_in_utf8(byte)) {
      std::string letter;
      append_utf8(letter, byte_alphabet()[byte]);
      return invalid_argument(
          "model.vocab: not byte-level: no entry for byte 0x{:02X} ('{}'), text with it would be "
          "lost",
          byte, letter);
    }
  return absl::OkStatus();
}

absl::Status Bpe::index_merges(const Merges& merges) {
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const auto left_id = find(left), right_id = find(right), merged = find(left + right);
    for (const auto& [text, id] :
         {std::pair(left, left_id), std::pair(right, right_id), std::pair(left + right, merged)})
      if (!id)
        return invalid_argument("model.merges[{}]: token '{}' is not in the vocabulary", rank,
                                text.substr(0, 100));
    merges_[key(*left_id, *right_id)] = {static_cast<uint32_t>(rank), *merged};
  }
  return absl::OkStatus();
}

std::optional<TokenId> Bpe::find(std::string_view content) const {
  const auto found = by_content_.find(content);
  if (found == by_content_.end()) return std::nullopt;
  return found->second;
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const {
  if (piece.size() <= longest_piece_) {
    const auto found = by_bytes_.find(piece);
    if (found != by_bytes_.end() && found->second.whole) {
      out.push_back(found->second.id);
      return;
    }
  }
  merge(piece, scratch, out);
}

void Bpe::merge(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const {
  CHECK(piece.size() < static_cast<size_t>(std::numeric_limits<int32_t>::max()));
  if (piece.size() <= kShort)
    merge_short(piece, scratch, out);
  else
    merge_long(piece, scratch, out);
}

void Bpe::merge_short(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const {
  auto& symbols = scratch.symbols;
  symbols.clear();
  for (const char c : piece)
    symbols.push_back({byte_tokens_[static_cast<uint8_t>(c)], kNoRank, 0, 0});
  const auto rank = [&](size_t i) {
    const Merge* merge = find_merge(symbols[i].id, symbols[i + 1].id);
    symbols[i].rank = merge ? merge->rank : kNoRank;
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) rank(i);
  while (symbols.size() > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < symbols.size(); ++i)
      if (symbols[i].rank < symbols[best].rank) best = i;
    if (symbols[best].rank == kNoRank) break;
    symbols[best].id = find_merge(symbols[best].id, symbols[best + 1].id)->merged;
    symbols.erase(symbols.begin() + best + 1);
    symbols[best].rank = kNoRank;
    if (best + 1 < symbols.size()) rank(best);
    if (best > 0) rank(best - 1);
  }
  for (const auto& symbol : symbols) out.push_back(symbol.id);
}

// The same by a linked list and a heap of candidates: n log n, for lines without a space.
void Bpe::merge_long(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  symbols.clear();
  heap.clear();
  const auto count = static_cast<int32_t>(piece.size());
  for (int32_t i = 0; i < count; ++i)
    symbols.push_back(
        {byte_tokens_[static_cast<uint8_t>(piece[i])], kNoRank, i - 1, i + 1 < count ? i + 1 : -1});
  const auto candidate = [&](int32_t at) {
    const Merge* merge = find_merge(symbols[at].id, symbols[symbols[at].next].id);
    if (merge) heap.push_back({merge->rank, at, merge->merged});
    return merge != nullptr;
  };
  for (int32_t i = 0; i + 1 < count; ++i) candidate(i);
  std::make_heap(heap.begin(), heap.end(), worse);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), worse);
    const auto top = heap.back();
    heap.pop_back();
    auto& symbol = symbols[top.at];
    if (symbol.id < 0 || symbol.next < 0) continue;  // merged away, or the last one
    const Merge* merge = find_merge(symbol.id, symbols[symbol.next].id);
    if (!merge || merge->merged != top.merged) continue;  // the pair has changed since
    auto& right = symbols[symbol.next];
    symbol.id = top.merged;
    right.id = -1;
    symbol.next = right.next;
    if (symbol.next >= 0) {
      symbols[symbol.next].previous = top.at;
      if (candidate(top.at)) std::push_heap(heap.begin(), heap.end(), worse);
    }
    if (symbol.previous >= 0 && candidate(symbol.previous))
      std::push_heap(heap.begin(), heap.end(), worse);
  }
  for (int32_t at = 0; at >= 0; at = symbols[at].next) out.push_back(symbols[at].id);
}

}  // namespace sluice
