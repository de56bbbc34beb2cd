// What the caches of the pools have of a sequence's tokens. A stretch of tokens has one hash and
// one block for each of its places in the tables, each published under the hash and its own kind.
#include <algorithm>

#include "scheduler/scheduler_impl.h"

namespace sluice {

// Stretches [begin, end).
Scheduler::Impl::Known Scheduler::Impl::part_of(const Known& all, int begin, int end) const {
  return {all.hashes.subspan(size_t(begin), size_t(end - begin)),
          all.tokens.subspan(size_t(begin) * size_t(block_size_))};
}

// The leading stretches that `pool` has all blocks of, for one group; how many of these blocks are
// held by somebody.
BlockPool::Match Scheduler::Impl::probe_table(const BlockPool& pool, int group,
                                              const Known& known) const {
  const int first = group > 0 ? width_[0] : 0, width = width_[size_t(group)];
  BlockPool::Match m = pool.probe(known.hashes, known.tokens, first);
  if (width == 1) return m;
  std::span<const BlockHash> hashes = known.hashes;
  const auto shorten = [&](int blocks) { hashes = hashes.first(size_t(blocks)); };
  shorten(m.blocks);
  for (int k = 1; k < width; ++k) shorten(pool.probe(hashes, known.tokens, first + k).blocks);
  m = {int(hashes.size()), 0};
  for (int k = 0; k < width; ++k) m.held += pool.probe(hashes, known.tokens, first + k).held;
  return m;
}

// Takes what probe_table() finds; the number of stretches.
int Scheduler::Impl::match_table(BlockPool& pool, int group, const Known& known,
                                 std::vector<BlockId>& out) const {
  const int first = group > 0 ? width_[0] : 0, width = width_[size_t(group)];
  if (width == 1) return pool.match(known.hashes, known.tokens, out, first);
  const int n = probe_table(pool, group, known).blocks;
  for (int i = 0; i < n; ++i) {
    const Known one = part_of(known, i, i + 1);
    for (int k = 0; k < width; ++k) CHECK(pool.match(one.hashes, one.tokens, out, first + k) == 1);
  }
  return n;
}

// Where a group's table begins if the first `stretches` come from a cache: its windowed layers need
// not what the next token sees no more.
int Scheduler::Impl::first_seen(int group, int stretches) const {
  if (group == 0) return 0;
  return std::max(stretches * block_size_ - kv_reach_ + 1, 0) / block_size_;
}

// The end of the longest prefix that `pool` has, whose first `from` stretches are there already. Of
// layers with a window it need have only what the token behind it sees: where some of that is
// missing, a shorter one may do. What is held counts for a model of one group.
BlockPool::Match Scheduler::Impl::find_prefix(const BlockPool& pool, const Known& known,
                                              int from) const {
  const int all = int(known.hashes.size());
  const BlockPool::Match first_group = probe_table(pool, 0, part_of(known, from, all));
  int n = from + first_group.blocks;
  while (num_groups_ > 1 && n > from) {
    const int first = std::max(from, first_seen(1, n));
    const int end = first + probe_table(pool, 1, part_of(known, first, n)).blocks;
    if (end == n) break;
    n = end;
  }
  return {n, first_group.held};
}

// Of the blocks of such a prefix on the device, those that somebody holds already. Where the host
// may go on with it, the table of a window that follows moves on and keeps none of them for sure.
int Scheduler::Impl::held_of_prefix(const Record& r, const Known& known,
                                    const BlockPool::Match& found) const {
  if (num_groups_ == 1) return found.held;
  const int n = found.blocks;
  const int groups = host_ != nullptr && follows(r) ? 1 : num_groups_;
  int held = 0;
  for (int g = 0; g < groups; ++g)
    held += probe_table(pool_, g, part_of(known, first_seen(g, n), n)).held;
  return held;
}

// The device's first `n` stretches, which are there.
void Scheduler::Impl::take_prefix(Sequence& s, const Known& known, int n) {
  for (int g = 0; g < num_groups_; ++g) {
    BlockTable& t = s.tables[size_t(g)];
    t.first = first_seen(g, n);
    CHECK(match_table(pool_, g, part_of(known, t.first, n), t.blocks) == n - t.first);
  }
}

// Goes on where take_prefix() ended with what the host has, by copies; the number of stretches.
int Scheduler::Impl::copy_prefix(Sequence& s, const Known& known, StepPlan& plan) {
  const int from = s.end_block(), n = find_prefix(*host_, known, from).blocks;
  if (n == from) return 0;
  for (int g = 0; g < num_groups_; ++g) {
    BlockTable& t = s.tables[size_t(g)];
    const int first = first_seen(g, n);
    // Of what the device had some may be behind the window now.
    const auto kept = t.blocks.begin() + ptrdiff_t(t.at(std::min(first, from)));
    scratch_.assign(t.blocks.begin(), kept);
    t.blocks.erase(t.blocks.begin(), kept);
    pool_.release(scratch_);
    t.first = first;
    match_table(*host_, g, part_of(known, std::max(from, first), n), scratch_);
    const size_t had = t.blocks.size();
    CHECK(pool_.allocate(int(scratch_.size()), t.blocks));
    for (size_t i = 0; i < scratch_.size(); ++i)
      start_copy(plan, t.blocks[had + i], scratch_[i], false);
    host_->release(scratch_);  // the copies hold them
  }
  return n - from;
}

}  // namespace sluice
