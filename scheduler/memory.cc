#include <algorithm>

#include "scheduler/scheduler_impl.h"

namespace sluice {

void Scheduler::Impl::extend_hashes(Sequence& s, int num_blocks) const {
  const BlockHasher& hasher = pool_.hasher();
  for (int i = int(s.hashes.size()); i < num_blocks; ++i) {
    const BlockHash parent = i > 0 ? s.hashes.back() : hasher.root(s.request->cache_salt);
    s.hashes.push_back(hasher.chain(
        parent, std::span(s.tokens).subspan(size_t(i) * block_size_, size_t(block_size_))));
  }
}

bool Scheduler::Impl::extend_table(Record& r, Sequence& s, StepPlan& plan) {
  int lacking = 0;
  for (const BlockTable& t : tables(s))
    lacking += s.num_scheduled < t.end() * block_size_ ? 0 : t.width;
  if (lacking == 0 && r.num_samples == 1) return true;
  if (lacking > 0) {
    if (num_groups_ == 1) return take_blocks(r, lacking, s.tables[0].blocks, plan);
    fresh_.clear();
    if (!take_blocks(r, lacking, fresh_, plan)) return false;
    auto from = fresh_.begin();
    for (BlockTable& t : tables(s)) {
      if (s.num_scheduled < t.end() * block_size_) continue;
      t.blocks.insert(t.blocks.end(), from, from + t.width);
      from += t.width;
    }
    return true;
  }
  const int at = s.num_scheduled / block_size_;
  // Samples share the prompt's last, partial block after a fork: all but the last one copy it.
  if (at != r.shared_stretches || !shares_partial_block(r, s)) return true;
  fresh_.clear();
  if (!take_blocks(r, stretch_blocks_, fresh_, plan)) return false;
  scratch_.clear();
  auto from = fresh_.begin();
  for (BlockTable& t : tables(s)) {
    for (int i = 0; i < t.width; ++i, ++from) {
      BlockId& block = t.blocks[t.at(at) + size_t(i)];
      plan.fork_copies.push_back({block, *from});
      scratch_.push_back(std::exchange(block, *from));
    }
  }
  pool_.release(scratch_);  // a sibling holds them still, so nobody else can get them in this step
  return true;
}

// With a sibling that lives. One that ended holds its blocks until the steps in flight have landed,
// but wrote to none that it shares. Were such a block copied by the last who has it, it could go to
// somebody else before the step that copies it has run.
bool Scheduler::Impl::shares_partial_block(const Record& r, const Sequence& s) const {
  const int at = r.shared_stretches;
  // What is true of one table is true of all: a stretch's blocks are copied together.
  const BlockTable& own = s.tables[0];
  const auto has = [at](const BlockTable& t) { return t.first <= at && at < t.end(); };
  if (!has(own) || pool_.refs(own.block(at)) == 1) return false;
  return std::any_of(r.seqs.begin(), r.seqs.end(), [&](const Sequence& t) {
    const BlockTable& other = t.tables[0];
    return &t != &s && !t.ended && has(other) && other.block(at) == own.block(at);
  });
}

// What no token behind the computed ones sees.
void Scheduler::Impl::give_back_blocks(Record& r, Sequence& s) {
  const int first = (s.num_computed - kv_reach_ + 1) / block_size_;
  BlockTable& t = s.tables[size_t(windowed_)];
  const auto end = t.blocks.begin() + ptrdiff_t(t.at(first));
  scratch_.assign(t.blocks.begin(), end);
  t.blocks.erase(t.blocks.begin(), end);
  t.first = first;
  release(r, scratch_);
}

// Where a group's table ends at most that begins at `first`, of a sequence that knows `known`
// tokens: a windowed one that follows comes to no more than it needs to compute the next of them.
int Scheduler::Impl::table_end(const Record& r, int group, int first, int known) const {
  const int all = stretches_for(known);
  return group > 0 && follows(r) ? std::min(all, first + window_stretches_) : all;
}

// Blocks for what it knows, if it comes in with a windowed table that begins there.
int Scheduler::Impl::known_need(const Record& r, const Sequence& s, int first) const {
  int blocks = 0;
  for (int g = 0; g < num_groups_; ++g) {
    const int begin = g > 0 ? first : 0;
    blocks += (table_end(r, g, begin, s.num_tokens()) - begin) * width_[size_t(g)];
  }
  return blocks;
}

// Before a chunk, in its turn: the windowed table goes on as far as it may. For one token room is
// made, for more of them there is room or not. False: not even for one.
bool Scheduler::Impl::extend_window(Record& r, Sequence& s, StepPlan& plan) {
  BlockTable& t = s.tables[1];
  for (const int end = table_end(r, 1, t.first, s.num_tokens()); t.end() < end;) {
    const bool some = s.num_scheduled < t.end() * block_size_;
    if (some && pool_.num_available() < watermark_ + t.width) return true;
    if (!take_blocks(r, t.width, t.blocks, plan)) return some;
  }
  return true;
}

bool Scheduler::Impl::take_blocks(Record& r, int n, std::vector<BlockId>& out, StepPlan& plan) {
  if (!r.spare.empty()) {
    CHECK(int(r.spare.size()) >= n);
    const auto from = r.spare.end() - n;
    out.insert(out.end(), from, r.spare.end());
    r.spare.erase(from, r.spare.end());
    return true;
  }
  return make_room(r, n, plan) && pool_.allocate(n, out);
}

// Takes from the policy's tail until so many blocks are free. A victim in flight is kept out of
// this step and taken when it has landed; one that goes to the host frees its blocks when they are
// copied. Meanwhile the caller stalls, and so does whoever comes later and needs memory, for there
// is none. Each victim is asked once in a step, so the whole of it is linear.
bool Scheduler::Impl::make_room(const Record& r, int blocks, StepPlan& plan) {
  while (pool_.num_available() < blocks) {
    if (num_coming_ + num_leaving_ + soon_ > 0) return false;
    if (!victims_listed_) list_victims();
    if (victims_.empty()) return false;
    const Victim next = next_victim();
    Record& victim = *next.record;
    // Whoever comes first keeps what it has; those before the caller have their rows already.
    if (next.key <= r.key || victim.state != SeqState::running || victim.last_plan == plan_)
      continue;
    if (victim.last_plan <= committed_) {
      preempt(victim, plan, false);
    } else {
      hold_back(victim);
    }
  }
  return true;
}

// Out of this step, so that it has landed when the next one is made.
void Scheduler::Impl::hold_back(Record& victim) {
  victim.held_back = round_;
  for (const Sequence& s : victim.seqs) {
    for (const BlockTable& t : tables(s)) {
      for (BlockId b : t.blocks) soon_ += pool_.refs(b) == 1;
    }
  }
}

void Scheduler::Impl::preempt(Record& r, StepPlan& plan, bool proactive) {
  CHECK(!reserved(r) && r.state == SeqState::running && r.last_plan <= committed_);
  ++counters_.preemptions;
  counters_.proactive += proactive;
  pushed_out_ = true;
  count_level(r, -1);
  const bool swapped = prefers_swap(r) && swap_out(r, plan);
  ++(swapped && proactive ? r.num_pushed_out : r.num_preempted);
  r.at_bound =
      can_set_aside(r) && (r.num_preempted >= policy_.max_preemptions ||
                           r.num_pushed_out >= kPushesPerPreemption * policy_.max_preemptions);
  counters_.proactive_swaps += swapped && proactive;
  if (!swapped) {
    ++preempted_since_token_;
    give_up(r);
  }
  for (Sequence& s : r.seqs) {
    for (BlockTable& t : tables(s)) {
      pool_.release(t.blocks);
      if (!swapped) t.first = 0;
    }
    if (!swapped) s.num_computed = s.num_cached = 0;
    s.num_scheduled = s.num_computed;
    s.seq_slot = -1;
  }
  for (Record::Sample& sample : r.samples) release_slot(sample);
  r.state = swapped ? SeqState::swapped : SeqState::waiting;
  if (swapped) r.out_since = now_;
  count_level(r, 1);
  --num_running_;
  ++(swapped ? num_swapped_ : num_waiting_);
  if (!swapped) waiting_tokens_ += r.seqs[0].num_prompt;
  preempted_.push_back(&r);
}

// Its keys and values are lost but for what stays cached: it will compute them again.
void Scheduler::Impl::give_up(Record& r) {
  int tokens = 0;
  for (const Sequence& s : r.seqs) {
    if (s.ended) continue;
    const int shared = tokens > 0 ? std::min(s.num_computed, r.shared_stretches * block_size_) : 0;
    tokens += s.num_computed - shared;
  }
  counters_.wasted_recompute += tokens;
  ++r.trace->recomputes;
  r.trace->recomputed_tokens += tokens;
  r.trace->note(now_, RequestTrace::Kind::recompute, tokens);
}

void Scheduler::Impl::requeue_preempted() {
  if (preempted_.empty()) return;
  for (Record* r : preempted_) {
    if (r->refiled) std::erase(refiled_, r);
    r->refiled = false;
  }
  std::erase_if(running_, [](const Filed& f) { return !f.record->resident(); });
  for (Record* r : preempted_) {
    file(*r);
    watch(*r);
  }
  preempted_.clear();
}

// Blocks return when the last launched plan that touches any sample of their request commits: a
// step in flight may still write them, or copy a shared one for a sibling.
void Scheduler::Impl::release(Record& r, std::vector<BlockId>& blocks) {
  if (r.last_plan <= committed_) {
    pool_.release(blocks);
    return;
  }
  Flight& f = flight(r.last_plan);
  for (BlockId b : blocks) {
    const bool coming = pool_.refs(b) == 1;
    f.num_coming += coming;
    num_coming_ += coming;
  }
  f.freed.insert(f.freed.end(), blocks.begin(), blocks.end());
  blocks.clear();
}

void Scheduler::Impl::release_tables(Record& r, Sequence& s) {
  for (BlockTable& t : tables(s)) {
    release(r, t.blocks);
    if (host_ != nullptr) host_->release(t.host_blocks);
  }
}

void Scheduler::Impl::release_slot(Record::Sample& sample) {
  if (sample.slot < 0) return;
  free_slots_.push_back(sample.slot);
  sample.slot = -1;
}

// Blocks the live samples may still have to take, at most.
int Scheduler::Impl::remaining_need(const Record& r) const {
  if (!r.forked) {
    return (r.final_stretches - r.seqs[0].end_block() +
            (r.num_live - 1) * (r.final_stretches - r.shared_stretches)) *
           stretch_blocks_;
  }
  int need = 0, sharing = 0;
  for (const Sequence& s : r.seqs) {
    if (s.ended) continue;
    need += r.final_stretches - s.end_block();
    // Fresh from the fork: the next token goes to the partial block that samples share.
    const bool fresh = s.num_scheduled == s.num_prompt && s.num_prompt % block_size_ != 0;
    sharing += fresh && shares_partial_block(r, s);
  }
  return (need + std::max(sharing - 1, 0)) * stretch_blocks_;
}

void Scheduler::Impl::trim_spare(Record& r) {
  if (r.spare.empty()) return;
  const size_t need = size_t(std::max(0, remaining_need(r)));
  if (r.spare.size() <= need) return;
  scratch_.assign(r.spare.begin() + ptrdiff_t(need), r.spare.end());
  r.spare.resize(need);
  pool_.release(scratch_);  // never written, so no step in flight knows them
}

}  // namespace sluice
