#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "base/types.h"

namespace sluice {

// Neighbouring tokens that may be merged, by rank and then by place. A pair that comes of a merge
// nearly always has a worse rank than that merge, since its tokens were learnt later: so there is a
// list for every rank, opened in turn, and a text takes time in proportion to its length. What does
// come too late for its list waits in a heap. One thread.
class PairQueue {
 public:
  struct Pair {
    uint32_t rank;
    int32_t at;
    TokenId merged;
    bool operator<(const Pair& o) const { return rank != o.rank ? rank < o.rank : at < o.at; }
  };

  // For ranks below this one. The queue is empty.
  void begin(size_t ranks) {
    CHECK(empty());
    if (lists_.size() < ranks) lists_.resize(ranks);
    next_rank_ = 0;
  }

  void push(const Pair& pair) {
    if (pair.rank < next_rank_) {
      late_.push_back(pair);
      std::push_heap(late_.begin(), late_.end(), after);
      return;
    }
    List& list = lists_[pair.rank];
    const auto node = static_cast<int32_t>(nodes_.size());
    nodes_.push_back({pair, kNone});
    if (list.first == kNone) {
      list.first = node;
      ranks_.push_back(pair.rank);
      std::push_heap(ranks_.begin(), ranks_.end(), std::greater<>());
    } else {
      nodes_[list.last].next = node;
    }
    list.last = node;
  }

  bool empty() const { return at_ == opened_.size() && late_.empty() && ranks_.empty(); }

  // The first of all; there is one. What is late goes before what is opened: its rank is no worse,
  // and it begins no further right than the merge that it came of.
  Pair pop() {
    if (late_.empty()) {
      if (at_ == opened_.size()) open();
      return opened_[at_++];
    }
    std::pop_heap(late_.begin(), late_.end(), after);
    const Pair pair = late_.back();
    late_.pop_back();
    return pair;
  }

 private:
  static constexpr int32_t kNone = -1;
  struct Node {
    Pair pair;
    int32_t next;
  };
  struct List {
    int32_t first = kNone, last = kNone;
  };

  static bool after(const Pair& a, const Pair& b) { return b < a; }

  // The list of the best rank; those of merges of one rank were pushed from left to right.
  void open() {
    std::pop_heap(ranks_.begin(), ranks_.end(), std::greater<>());
    const uint32_t rank = ranks_.back();
    ranks_.pop_back();
    opened_.clear();
    at_ = 0;
    for (int32_t node = lists_[rank].first; node != kNone; node = nodes_[node].next)
      opened_.push_back(nodes_[node].pair);
    lists_[rank] = {};
    if (ranks_.empty()) nodes_.clear();
    if (!std::is_sorted(opened_.begin(), opened_.end())) std::sort(opened_.begin(), opened_.end());
    next_rank_ = rank + 1;
  }

  std::vector<Node> nodes_;
  std::vector<List> lists_;      // [rank]
  std::vector<uint32_t> ranks_;  // of the lists with something in them; a heap
  uint32_t next_rank_ = 0;       // every list below it has been opened
  std::vector<Pair> opened_;
  size_t at_ = 0;           // in opened_
  std::vector<Pair> late_;  // a heap
};

}  // namespace sluice
