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
  const bool inside = s.num_scheduled < s.end_block() * block_size_;
  if (inside && r.num_samples == 1) return true;
  if (!inside) return take_block(r, s.blocks, plan);
  const int at = s.num_scheduled / block_size_;
  // Samples share the prompt's last, partial block after a fork: all but the last one copy it.
  if (at != r.shared_blocks || !shares_partial_block(r, s)) return true;
  std::vector<BlockId> fresh;
  if (!take_block(r, fresh, plan)) return false;
  plan.fork_copies.push_back({s.block(at), fresh[0]});
  s.blocks[size_t(at - s.first_block)] = fresh[0];
  scratch_.assign(1, plan.fork_copies.back().src);
  pool_.release(scratch_);  // a sibling holds it still, so nobody else can get it in this step
  return true;
}

// With a sibling that lives. One that ended holds its blocks until the steps in flight have landed,
// but wrote to none that it shares. Were such a block copied by the last who has it, it could go to
// somebody else before the step that copies it has run.
bool Scheduler::Impl::shares_partial_block(const Record& r, const Sequence& s) const {
  const int at = r.shared_blocks;
  const auto has = [at](const Sequence& t) { return t.first_block <= at && at < t.end_block(); };
  if (!has(s) || pool_.refs(s.block(at)) == 1) return false;
  return std::any_of(r.seqs.begin(), r.seqs.end(), [&](const Sequence& t) {
    return &t != &s && !t.ended && has(t) && t.block(at) == s.block(at);
  });
}

// What no token behind the computed ones sees.
void Scheduler::Impl::give_back_blocks(Record& r, Sequence& s) {
  const int first = (s.num_computed - kv_reach_ + 1) / block_size_;
  const auto end = s.blocks.begin() + ptrdiff_t(first - s.first_block);
  scratch_.assign(s.blocks.begin(), end);
  s.blocks.erase(s.blocks.begin(), end);
  s.first_block = first;
  release(r, scratch_);
}

bool Scheduler::Impl::take_block(Record& r, std::vector<BlockId>& out, StepPlan& plan) {
  if (!r.spare.empty()) {
    out.push_back(r.spare.back());
    r.spare.pop_back();
    return true;
  }
  return make_room(r, plan) && pool_.allocate(1, out);
}

// Takes from the policy's tail until a block is free. A victim in flight is kept out of this step
// and taken when it has landed; one that goes to the host frees its blocks when they are copied.
// Meanwhile the caller stalls, and so does whoever comes later and needs memory, for there is none.
// Each victim is asked once in a step, so the whole of it is linear.
bool Scheduler::Impl::make_room(const Record& r, StepPlan& plan) {
  while (pool_.num_available() == 0) {
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
    for (BlockId b : s.blocks) soon_ += pool_.refs(b) == 1;
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
  r.at_bound = r.num_preempted >= policy_.max_preemptions ||
               r.num_pushed_out >= kPushesPerPreemption * policy_.max_preemptions;
  counters_.proactive_swaps += swapped && proactive;
  if (!swapped) {
    ++preempted_since_token_;
    give_up(r);
  }
  for (Sequence& s : r.seqs) {
    pool_.release(s.blocks);
    if (!swapped) s.num_computed = s.num_cached = s.first_block = 0;
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
    const int shared = tokens > 0 ? std::min(s.num_computed, r.shared_blocks * block_size_) : 0;
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

void Scheduler::Impl::release_slot(Record::Sample& sample) {
  if (sample.slot < 0) return;
  free_slots_.push_back(sample.slot);
  sample.slot = -1;
}

// Blocks the live samples may still have to take, at most.
int Scheduler::Impl::remaining_need(const Record& r) const {
  if (!r.forked) {
    return r.final_blocks - r.seqs[0].end_block() +
           (r.num_live - 1) * (r.final_blocks - r.shared_blocks);
  }
  int need = 0, sharing = 0;
  for (const Sequence& s : r.seqs) {
    if (s.ended) continue;
    need += r.final_blocks - s.end_block();
    // Fresh from the fork: the next token goes to the partial block that samples share.
    const bool fresh = s.num_scheduled == s.num_prompt && s.num_prompt % block_size_ != 0;
    sharing += fresh && shares_partial_block(r, s);
  }
  return need + std::max(sharing - 1, 0);
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
