#include "text/unigram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "text/utf8.h"

namespace sluice {
namespace {

// How much worse than the worst entry an unknown character is; SentencePiece's constant.
constexpr double kUnknownPenalty = 10;

bool occurs_in_utf8(int byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

}  // namespace

absl::StatusOr<Unigram> Unigram::make(std::vector<Entry> entries, Options options) {
  Unigram model;
  model.entries_ = std::move(entries);
  model.options_ = options;
  double worst = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < model.entries_.size(); ++i) {
    const Entry& entry = model.entries_[i];
    if (!std::isfinite(entry.score))
      return invalid_argument("model.vocab[{}]: the score of '{}' must be finite", i,
                              entry.content.substr(0, 100));
    model.by_content_[entry.content] = static_cast<TokenId>(i);
    worst = std::min(worst, entry.score);
  }
  if (options.unknown < 0 || static_cast<size_t>(options.unknown) >= model.entries_.size())
    return invalid_argument("model.unk_id: {} is not the id of an entry", options.unknown);
  model.unknown_score_ = options.unknown_score.value_or(worst - kUnknownPenalty);
  model.covers_all_bytes_ = options.byte_fallback;
  for (int byte = 0; byte < 256; ++byte) {
    model.byte_tokens_[byte] = model.find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
    if (model.byte_tokens_[byte] < 0 && occurs_in_utf8(byte)) model.covers_all_bytes_ = false;
  }
  model.build_trie();
  return model;
}

// Level by level; the entries below a node are a range of the sorted list.
void Unigram::build_trie() {
  std::vector<std::pair<std::string_view, TokenId>> sorted;
  for (const auto& [content, id] : by_content_)
    if (!content.empty() && entries_[id].in_text) sorted.emplace_back(content, id);
  std::sort(sorted.begin(), sorted.end());
  struct Range {
    size_t begin, end;
  };
  std::vector<Range> level = {{0, sorted.size()}};  // [node], from the first of this level on
  nodes_.assign(1, {});
  labels_.assign(1, '\0');
  size_t first_node = 0;
  for (size_t depth = 0; !level.empty(); ++depth) {
    std::vector<Range> below;
    const size_t next_level = nodes_.size();
    for (size_t n = 0; n < level.size(); ++n) {
      auto [at, end] = level[n];
      nodes_[first_node + n].first_child = static_cast<uint32_t>(nodes_.size());
      // The shortest comes first: it ends here.
      if (at < end && sorted[at].first.size() == depth)
        nodes_[first_node + n].id = sorted[at++].second;
      while (at < end) {
        size_t stop = at;
        while (stop < end && sorted[stop].first[depth] == sorted[at].first[depth]) ++stop;
        labels_.push_back(sorted[at].first[depth]);
        nodes_.emplace_back();
        below.push_back({at, stop});
        at = stop;
      }
      nodes_[first_node + n].num_children =
          static_cast<uint32_t>(nodes_.size()) - nodes_[first_node + n].first_child;
    }
    level = std::move(below);
    first_node = next_level;
  }
}

uint32_t Unigram::child(uint32_t node, char label) const {
  const Node& parent = nodes_[node];
  const char* labels = labels_.data() + parent.first_child;
  const void* found = std::memchr(labels, label, parent.num_children);
  if (!found) return 0;
  return parent.first_child + static_cast<uint32_t>(static_cast<const char*>(found) - labels);
}

std::optional<TokenId> Unigram::find(std::string_view content) const {
  const auto found = by_content_.find(content);
  if (found == by_content_.end()) return std::nullopt;
  return found->second;
}

// Fills scratch.best: of each position, the best way there.
void Unigram::walk(std::string_view piece, Scratch& scratch) const {
  auto& best = scratch.best;
  best.assign(piece.size() + 1, {0, -1, 0});
  const auto offer = [&](size_t begin, size_t end, double score, TokenId id) {
    score += best[begin].score;
    if (options_.single_precision) score = static_cast<float>(score);
    // Of equal ways the first one found stays.
    if (best[end].begin < 0 || score > best[end].score)
      best[end] = {score, static_cast<int32_t>(begin), id};
  };
  for (size_t begin = 0; begin < piece.size();) {
    const size_t next = begin + utf8_step(piece, begin).length;
    bool one_character = false;
    uint32_t node = 0;
    for (size_t at = begin; at < piece.size();) {
      node = child(node, piece[at++]);
      if (node == 0) break;
      const TokenId id = nodes_[node].id;
      if (id < 0) continue;
      offer(begin, at, entries_[id].score, id);
      if (at == next) one_character = true;
    }
    if (!one_character) offer(begin, next, unknown_score_, options_.unknown);
    begin = next;
  }
}

void Unigram::encode(std::string_view piece, Scratch& scratch, std::vector<TokenId>& out) const {
  CHECK(piece.size() < static_cast<size_t>(std::numeric_limits<int32_t>::max()));
  walk(piece, scratch);
  auto& ends = scratch.ends;
  ends.clear();
  for (auto at = static_cast<int32_t>(piece.size()); at > 0; at = scratch.best[at].begin)
    ends.push_back(at);
  int32_t unknown_begin = -1;  // of the run of unknown characters that goes on here
  int32_t done = 0;
  const auto end_unknown = [&] {
    if (unknown_begin < 0) return;
    unknown_text(piece.substr(unknown_begin, done - unknown_begin), out);
    unknown_begin = -1;
  };
  for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
    const TokenId id = scratch.best[*end].id;
    if (id != options_.unknown) {
      end_unknown();
      out.push_back(id);
    } else if (unknown_begin < 0) {
      unknown_begin = done;
    }
    done = *end;
  }
  end_unknown();
}

// Neighbouring unknown characters are one token, or all their bytes.
void Unigram::unknown_text(std::string_view text, std::vector<TokenId>& out) const {
  const auto token = [&](char c) { return byte_tokens_[static_cast<uint8_t>(c)]; };
  const auto known = find(text);
  if (known && entries_[*known].in_text) {  // the unknown token's own content, written out
    out.push_back(*known);
  } else if (options_.byte_fallback &&
             std::all_of(text.begin(), text.end(), [&](char c) { return token(c) >= 0; })) {
    for (const char c : text) out.push_back(token(c));
  } else {
    out.push_back(options_.unknown);
  }
}

}  // namespace sluice
