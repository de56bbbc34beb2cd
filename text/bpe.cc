#include "text/bpe.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace sluice {
namespace {

// Up to here a linear search for the best pair is quicker than a queue.
constexpr size_t kShort = 48;
// Characters below this are found in a table: it holds SentencePiece's U+2581.
constexpr char32_t kNear = 0x2600;

constexpr std::string_view kMark = "\u2581";  // SentencePiece's letter for a space

bool occurs_in_utf8(int byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

}  // namespace

absl::StatusOr<Bpe> Bpe::make(Vocabulary vocabulary, const Merges& merges, Options options) {
  Bpe bpe;
  bpe.vocabulary_ = std::move(vocabulary);
  bpe.options_ = std::move(options);
  if (absl::Status status = bpe.index_vocabulary(); !status.ok()) return status;
  if (absl::Status status = bpe.index_merges(merges); !status.ok()) return status;
  bpe.index_pieces();
  return bpe;
}

absl::StatusOr<Bpe> Bpe::make_ranked(Vocabulary vocabulary, const std::vector<uint32_t>& ranks,
                                     Options options) {
  Bpe bpe;
  bpe.vocabulary_ = std::move(vocabulary);
  bpe.options_ = std::move(options);
  if (absl::Status status = bpe.index_vocabulary(); !status.ok()) return status;
  if (absl::Status status = bpe.index_ranks(ranks); !status.ok()) return status;
  bpe.index_pieces();
  return bpe;
}

// Most words of real text are one token. Knowing which entries merging would give for their own
// letters, encode answers those by one look-up and no merging, whatever the merges are.
void Bpe::index_pieces() {
  find_cut();
  Scratch scratch;
  std::vector<TokenId> tokens;
  for (size_t i = 0; i < vocabulary_.size(); ++i) {
    const auto found = by_text_.find(bytes_[i]);
    if (found == by_text_.end() || found->second.id != vocabulary_[i].second) continue;
    if (options_.ignore_merges && (options_.byte_level || affixes())) continue;
    if (options_.byte_level && std::any_of(bytes_[i].begin(), bytes_[i].end(), [&](char c) {
          return byte_tokens_[static_cast<uint8_t>(c)] < 0;
        }))
      continue;
    tokens.clear();
    merge(bytes_[i], scratch, tokens);
    found->second.whole = tokens.size() == 1 && tokens[0] == found->second.id;
  }
}

// SentencePiece has no words: a whole prompt is one piece. Where no entry goes on over the
// beginning of a word, what is merged before that place has no part in what is merged behind it.
void Bpe::find_cut() {
  if (options_.byte_level || affixes() || !find(kMark)) return;
  cut_at_mark_ = std::none_of(vocabulary_.begin(), vocabulary_.end(), [](const auto& entry) {
    const std::string& content = entry.first;
    size_t at = 0;
    while (std::string_view(content).substr(at).starts_with(kMark)) at += kMark.size();
    return content.find(kMark, at) != content.npos;
  });
}

absl::Status Bpe::index_vocabulary() {
  bytes_.resize(vocabulary_.size());
  by_content_.reserve(vocabulary_.size());
  by_text_.reserve(vocabulary_.size());
  byte_tokens_.fill(-1);
  for (size_t i = 0; i < vocabulary_.size(); ++i) {
    const auto& [content, id] = vocabulary_[i];
    if (content.empty()) return invalid_argument("model.vocab: entry {} is empty", id);
    if (!by_content_.emplace(content, id).second)
      return invalid_argument("model.vocab: '{}' is there twice", content);
    if (!options_.byte_level) {
      bytes_[i] = content;
    } else if (!undo_byte_alphabet(content, bytes_[i])) {
      bytes_[i] = content;  // no text can become this one by merging
      continue;
    }
    by_text_.emplace(bytes_[i], Piece{id, false});
    longest_piece_ = std::max(longest_piece_, bytes_[i].size());
    if (options_.byte_level && bytes_[i].size() == 1)
      byte_tokens_[static_cast<uint8_t>(bytes_[i][0])] = id;
  }
  if (options_.byte_level) return check_bytes();
  return index_characters();
}

absl::Status Bpe::check_bytes() const {
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

absl::Status Bpe::index_characters() {
  near_.assign(kNear, -1);
  for (const auto& [content, id] : vocabulary_) {
    const Utf8Step step = utf8_step(content, 0);
    if (step.length != content.size() || step.kind != Utf8Kind::character) continue;
    if (step.code < kNear)
      near_[step.code] = id;
    else
      far_[step.code] = id;
  }
  if (!options_.unknown.empty()) {
    const auto unknown = find(options_.unknown);
    if (!unknown)
      return invalid_argument("model.unk_token: '{}' is not in the vocabulary", options_.unknown);
    unknown_ = *unknown;
  }
  covers_all_bytes_ = options_.byte_fallback;
  if (!options_.byte_fallback) return absl::OkStatus();
  for (int byte = 0; byte < 256; ++byte) {
    byte_tokens_[byte] = find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
    covers_all_bytes_ = covers_all_bytes_ && (byte_tokens_[byte] >= 0 || !occurs_in_utf8(byte));
  }
  return absl::OkStatus();
}

absl::Status Bpe::index_merges(const Merges& merges) {
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    if (!right.starts_with(options_.inner_prefix))
      return invalid_argument("model.merges[{}]: '{}' must begin with '{}'", rank,
                              right.substr(0, 100), options_.inner_prefix);
    const std::string both = left + right.substr(options_.inner_prefix.size());
    const auto left_id = find(left), right_id = find(right), merged = find(both);
    for (const auto& [text, id] :
         {std::pair(left, left_id), std::pair(right, right_id), std::pair(both, merged)})
      if (!id)
        return invalid_argument("model.merges[{}]: token '{}' is not in the vocabulary", rank,
                                text.substr(0, 100));
    merges_[key(*left_id, *right_id)] = {static_cast<uint32_t>(rank), *merged};
  }
  ranks_ = merges.size();
  return absl::OkStatus();
}

absl::Status Bpe::index_ranks(const std::vector<uint32_t>& ranks) {
  // What a token can be while letters are merged: a letter, or the result of a merge.
  const auto half = [&](std::string_view text) {
    const std::optional<TokenId> id = find(text);
    const bool occurs = id && (ranks[*id] != kNoRank || utf8_step(text, 0).length == text.size());
    return occurs ? id : std::nullopt;
  };
  for (const auto& [content, id] : vocabulary_) {
    if (ranks[id] == kNoRank) continue;
    ranks_ = std::max<size_t>(ranks_, ranks[id] + size_t{1});
    const std::string_view text = content;
    for (size_t at = 0; at < text.size();) {
      const size_t length = utf8_step(text, at).length;
      if (!find(text.substr(at, length)))
        return invalid_argument("'{}' has the character '{}', which has no entry", text,
                                text.substr(at, length));
      at += length;
      if (at == text.size()) break;
      const auto left = half(text.substr(0, at)), right = half(text.substr(at));
      if (left && right) merges_[key(*left, *right)] = {ranks[id], id};
    }
  }
  return absl::OkStatus();
}

std::optional<TokenId> Bpe::find(std::string_view content) const {
  const auto found = by_content_.find(content);
  if (found == by_content_.end()) return std::nullopt;
  return found->second;
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const {
  if (options_.ignore_merges && piece.size() <= longest_piece_) {
    const auto found = by_text_.find(piece);
    if (found != by_text_.end()) return out.push_back(found->second.id);
  }
  if (!cut_at_mark_) return encode_part(piece, scratch, out);
  for (size_t begin = 0; begin < piece.size();) {
    // Over the marks, over the word, to the next mark.
    size_t end = begin;
    while (piece.substr(end).starts_with(kMark)) end += kMark.size();
    end = std::min(piece.find(kMark, end), piece.size());
    encode_part(piece.substr(begin, end - begin), scratch, out);
    begin = end;
  }
}

void Bpe::encode_part(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const {
  if (piece.size() <= longest_piece_) {
    const auto found = by_text_.find(piece);
    if (found != by_text_.end() && found->second.whole) return out.push_back(found->second.id);
  }
  merge(piece, scratch, out);
}

void Bpe::spell(std::string_view piece, Scratch& scratch) const {
  scratch.symbols.clear();
  if (!options_.byte_level) return spell_characters(piece, scratch);
  for (const char c : piece)
    scratch.symbols.push_back({byte_tokens_[static_cast<uint8_t>(c)], kNoRank, 0, 0});
}

TokenId Bpe::find_character(std::string_view character, char32_t code, bool first,
                            bool last) const {
  const bool prefixed = !first && !options_.inner_prefix.empty();
  const bool suffixed = last && !options_.end_suffix.empty();
  if (prefixed || suffixed)
    return find(std::string(prefixed ? options_.inner_prefix : "") + std::string(character) +
                (suffixed ? options_.end_suffix : ""))
        .value_or(-1);
  if (code < kNear) return near_[code];
  const auto found = far_.find(code);
  return found == far_.end() ? -1 : found->second;
}

// False when the character's bytes do not all have an entry.
bool Bpe::spell_bytes(std::string_view character, bool first, bool last, Scratch& scratch) const {
  if (!options_.byte_fallback) return false;
  std::string bytes(first ? "" : options_.inner_prefix);
  bytes += character;
  if (last) bytes += options_.end_suffix;
  const auto token = [&](char c) { return byte_tokens_[static_cast<uint8_t>(c)]; };
  if (std::any_of(bytes.begin(), bytes.end(), [&](char c) { return token(c) < 0; })) return false;
  for (const char c : bytes) scratch.symbols.push_back({token(c), kNoRank, 0, 0});
  return true;
}

void Bpe::spell_characters(std::string_view piece, Scratch& scratch) const {
  // The reference adds an unknown token when it meets the next known character or the end, not
  // when it meets bytes.
  int unknown = 0;
  const auto add_unknown = [&] {
    for (; unknown > 0; --unknown) scratch.symbols.push_back({unknown_, kNoRank, 0, 0});
  };
  for (size_t at = 0; at < piece.size();) {
    const Utf8Step step = utf8_step(piece, at);
    const std::string_view character = piece.substr(at, step.length);
    const bool first = at == 0;
    at += step.length;
    const bool last = at == piece.size();
    const TokenId id = find_character(character, step.code, first, last);
    if (id >= 0) {
      add_unknown();
      scratch.symbols.push_back({id, kNoRank, 0, 0});
    } else if (!spell_bytes(character, first, last, scratch) && unknown_ >= 0) {
      if (!options_.fuse_unknown) add_unknown();
      unknown = 1;
    }
  }
  add_unknown();
}

void Bpe::merge(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const {
  CHECK(piece.size() < static_cast<size_t>(std::numeric_limits<int32_t>::max()));
  spell(piece, scratch);
  if (scratch.symbols.size() <= kShort)
    merge_short(scratch, out);
  else
    merge_long(scratch, out);
}

void Bpe::merge_short(Scratch& scratch, std::vector<TokenId>& out) const {
  auto& symbols = scratch.symbols;
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

// The same by a linked list and a queue of pairs, for lines without a space.
void Bpe::merge_long(Scratch& scratch, std::vector<TokenId>& out) const {
  auto& symbols = scratch.symbols;
  auto& queue = scratch.queue;
  queue.begin(ranks_);
  const auto count = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols[i].previous = i - 1;
    symbols[i].next = i + 1 < count ? i + 1 : -1;
  }
  const auto offer = [&](int32_t at) {
    const Merge* merge = find_merge(symbols[at].id, symbols[symbols[at].next].id);
    if (merge) queue.push({merge->rank, at, merge->merged});
  };
  for (int32_t i = 0; i + 1 < count; ++i) offer(i);
  while (!queue.empty()) {
    const PairQueue::Pair best = queue.pop();
    auto& symbol = symbols[best.at];
    if (symbol.id < 0 || symbol.next < 0) continue;  // merged away, or the last one
    auto& right = symbols[symbol.next];
    const Merge* merge = find_merge(symbol.id, right.id);
    if (!merge || merge->merged != best.merged) continue;  // the pair has changed since
    symbol.id = best.merged;
    right.id = -1;
    symbol.next = right.next;
    if (symbol.previous >= 0) offer(symbol.previous);
    if (symbol.next < 0) continue;
    symbols[symbol.next].previous = best.at;
    offer(best.at);
  }
  for (int32_t at = 0; at >= 0; at = symbols[at].next) out.push_back(symbols[at].id);
}

}  // namespace sluice
