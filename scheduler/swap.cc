// The host tier: requests that go out and come back by copy, and the prefixes that the device
// evicted.
//
// A copy needs no ordering against compute: its source is no longer, or its target not yet, touched
// by any step until it is done, and it holds a reference on both of its ends until then. So a step
// never waits for a copy; a request on its way in is `arriving` and gets its first row after its
// copies are done.
#include <algorithm>
#include <cmath>

#include "scheduler/scheduler_impl.h"

namespace sluice {

void Scheduler::Impl::start_copy(StepPlan& plan, BlockId device, BlockId host, bool out) {
  pool_.retain(std::span(&device, 1));
  host_->retain(std::span(&host, 1));
  copies_.push_back({plan_, device, host, out, false});
  if (out) {
    plan.swap_out.push_back({device, host});
  } else {
    plan.swap_in.push_back({host, device});
  }
}

void Scheduler::Impl::finish_copies(const CopyProgress& progress) {
  if (progress.blocks > copied_blocks_) {
    cost_.observe_copies(progress.blocks - copied_blocks_,
                         to_seconds(progress.time - copied_time_));
    copied_blocks_ = progress.blocks;
    copied_time_ = progress.time;
  }
  copies_done_ = progress.done;
  size_t n = 0;
  for (; n < copies_.size() && copies_[n].plan <= copies_done_; ++n) {
    const Copy& c = copies_[n];
    const auto tokens = pool_.published(c.device);
    if (c.out && int(tokens.size()) == block_size_)
      host_->publish(c.host, pool_.hash(c.device), tokens);
    num_leaving_ -= c.leaving;
    scratch_.assign(1, c.device);
    pool_.release(scratch_);
    scratch_.assign(1, c.host);
    host_->release(scratch_);
  }
  copies_.erase(copies_.begin(), copies_.begin() + ptrdiff_t(n));
  std::erase_if(arriving_, [&](Record* r) {
    if (r->copy_plan > copies_done_) return false;
    arrive(*r);
    return true;
  });
}

// Its blocks are on the device: what came by copy is published there too.
void Scheduler::Impl::arrive(Record& r) {
  r.state = SeqState::running;
  const bool copied = r.copy_plan > 0, was_out = r.out_since != Instant{};
  int left = 0;
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    left += s.num_tokens() - s.num_computed;
    if (copied && use_cache(r)) publish(s, s.tables[0].first * block_size_, s.num_computed);
  }
  if (was_out) r.trace->swapped_time += now_ - r.out_since;
  r.trace->copy_time += now_ - r.in_since;
  r.out_since = {};
  if (copied || was_out) r.trace->note(now_, RequestTrace::Kind::resumed, left);
}

// --- what it costs ---

double Scheduler::Impl::recompute_seconds(const Record& r) const {
  StepWork work;
  for (const Sequence& s : r.seqs) {
    if (s.ended || s.num_computed == 0) continue;
    const int shared =
        work.prefill_tokens > 0 ? std::min(s.num_computed, r.shared_stretches * block_size_) : 0;
    if (s.num_computed > shared) work.add(shared, s.num_computed - shared, false);
  }
  const double steps = std::ceil(work.prefill_tokens / policy_.max_step_tokens);
  return cost_.marginal(work) + steps * cost_.cost().constant;
}

// Both ways. What was written behind need not go out.
double Scheduler::Impl::swap_seconds(const Record& r) const {
  int in = 0, out = 0;
  for (const Sequence& s : r.seqs) {
    if (s.ended) continue;
    const bool shares = in > 0;
    for (int g = 0; g < num_groups_; ++g) {
      const BlockTable& t = s.tables[size_t(g)];
      const int stretches = stretches_for(s.num_computed) - t.first;
      const int shared =
          shares ? std::clamp(r.shared_stretches - t.first, 0, t.end() - t.first) : 0;
      in += std::max(stretches - shared, 0) * t.width;
      const int known = probe_table(*host_, g, known_blocks(r, s, t)).blocks;
      out += std::max(stretches - std::max(shared, known), 0) * t.width;
    }
  }
  return (in + out) * cost_.cost().per_block_copy;
}

bool Scheduler::Impl::prefers_swap(const Record& r) const {
  if (host_ == nullptr) return false;
  int blocks = 0;
  for (const Sequence& s : r.seqs) {
    if (s.ended) continue;
    for (const BlockTable& t : tables(s)) blocks += num_computed(s, t);
  }
  if (blocks > host_->num_available()) return false;
  // Samples that compute their prompt again have it in common: only what is whole goes out.
  const bool computed = std::all_of(r.seqs.begin(), r.seqs.end(), [&](const Sequence& s) {
    const int shared = r.forked ? r.shared_stretches * block_size_ : 0;
    return s.ended || (s.num_computed > 0 && s.num_computed >= shared);
  });
  switch (policy_.pressure) {
    case Policy::Pressure::recompute:
      return false;
    case Policy::Pressure::swap:
      return computed;
    case Policy::Pressure::swap_groups:
      return computed && r.forked && r.num_live > 1;
    case Policy::Pressure::cheapest:
      return computed && swap_seconds(r) < recompute_seconds(r);
  }
  return false;
}

// --- which block goes where ---

// Blocks of a table that have been computed, the last of them in part.
int Scheduler::Impl::num_computed(const Sequence& s, const BlockTable& t) const {
  return (stretches_for(s.num_computed) - t.first) * t.width;
}

// Of the stretches it goes on with, the full ones that a cache may have.
Scheduler::Impl::Known Scheduler::Impl::known_blocks(const Record& r, const Sequence& s,
                                                     const BlockTable& t) const {
  const int full = std::min(s.num_computed / block_size_, int(s.hashes.size()));
  if (!use_cache(r) || full <= t.first) return {};
  return part_of({s.hashes, s.tokens}, t.first, full);
}

bool Scheduler::Impl::by_source(const BlockCopy& a, const BlockCopy& b) { return a.src < b.src; }

void Scheduler::Impl::unique_sources() {
  std::sort(mapping_.begin(), mapping_.end(), by_source);
  const auto same = [](const BlockCopy& a, const BlockCopy& b) { return a.src == b.src; };
  mapping_.erase(std::unique(mapping_.begin(), mapping_.end(), same), mapping_.end());
}

BlockId Scheduler::Impl::mapped(BlockId source) const {
  return std::lower_bound(mapping_.begin(), mapping_.end(), BlockCopy{source, 0}, by_source)->dst;
}

// --- out ---

// All computed blocks of all samples; blocks that samples share go out once. What the host's cache
// has is taken from there. False, and nothing changed, when the host is full.
bool Scheduler::Impl::swap_out(Record& r, StepPlan& plan) {
  mapping_.clear();
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    if (use_cache(r)) extend_hashes(s, s.num_computed / block_size_);
    for (int g = 0; g < num_groups_; ++g) {
      BlockTable& t = s.tables[size_t(g)];
      match_table(*host_, g, known_blocks(r, s, t), t.host_blocks);
      for (int i = int(t.host_blocks.size()); i < num_computed(s, t); ++i)
        mapping_.push_back({t.blocks[size_t(i)], -1});
    }
  }
  unique_sources();
  scratch_.clear();
  if (!host_->allocate(int(mapping_.size()), scratch_)) {
    for (Sequence& s : r.seqs) {
      for (BlockTable& t : tables(s)) host_->release(t.host_blocks);
    }
    return false;
  }
  for (size_t i = 0; i < mapping_.size(); ++i) {
    mapping_[i].dst = scratch_[i];
    start_copy(plan, mapping_[i].src, mapping_[i].dst, true);
    copies_.back().leaving = true;
    ++num_leaving_;
  }
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    for (BlockTable& t : tables(s)) {
      for (int i = int(t.host_blocks.size()); i < num_computed(s, t); ++i) {
        const BlockId host = mapped(t.blocks[size_t(i)]);
        host_->retain(std::span(&host, 1));
        t.host_blocks.push_back(host);
      }
    }
  }
  host_->release(scratch_);  // the samples hold them now
  r.copy_plan = mapping_.empty() ? 0 : plan_;
  counters_.blocks_out += int64_t(mapping_.size());
  ++counters_.swaps;
  ++r.trace->swaps;
  r.trace->swapped_blocks += int64_t(mapping_.size());
  r.trace->note(now_, RequestTrace::Kind::swapped_out, int(mapping_.size()));
  return true;
}

// Ahead of need (FastServe's proactive swap): residents that get no row make room for requests that
// will come, the one that would run last first.
void Scheduler::Impl::swap_ahead(StepPlan& plan) {
  if (!policy_.proactive || host_ == nullptr) return;
  const int reserve = arrival_reserve();
  const auto short_of = [&] {
    return pool_.num_available() + num_leaving_ + num_coming_ + soon_ < reserve;
  };
  if (!short_of()) return;
  if (!victims_listed_) list_victims();
  while (short_of() && !victims_.empty()) {
    Record& v = *next_victim().record;
    const bool idle = v.state == SeqState::running && v.last_plan <= committed_;
    if (idle && settled(v) && prefers_swap(v)) preempt(v, plan, true);
  }
}

// Blocks that stay free for newcomers and for growth: a few steps' worth of either.
int Scheduler::Impl::arrival_reserve() const {
  constexpr double kSteps = 8;
  const double growth = double(std::min(num_running_, max_rows_)) / block_size_ * stretch_blocks_;
  return int(std::min(kSteps * (arrival_blocks_ + growth), pool_.num_blocks() / 8.0));
}

// --- in ---

// What the device's cache still has is shared; the rest is copied.
bool Scheduler::Impl::admit_swapped(Record& r, StepPlan& plan) {
  if (pushed_out_ || r.copy_plan > copies_done_) return false;  // one way in a step: no ping-pong
  if (int(free_slots_.size()) < (r.forked ? r.num_live : r.num_samples)) return false;
  mapping_.clear();
  int more = 0;  // blocks of tokens that are known and not computed
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    for (int g = 0; g < num_groups_; ++g) {
      BlockTable& t = s.tables[size_t(g)];
      more += (table_end(r, g, t.first, s.num_tokens()) - stretches_for(s.num_computed)) * t.width;
      match_table(pool_, g, known_blocks(r, s, t), t.blocks);
      for (size_t i = t.blocks.size(); i < t.host_blocks.size(); ++i)
        mapping_.push_back({t.host_blocks[i], -1});
    }
  }
  unique_sources();
  const int fresh = int(mapping_.size());
  const int rest = reserved(r) ? need_beyond_known(r) : 0;
  // Its next step may need one more block a sample.
  const int spare = num_running_ > 0 ? std::max(watermark_, r.num_live * stretch_blocks_) : 0;
  if (pool_.num_available() < fresh + more + rest + spare) {
    for (Sequence& s : r.seqs) {
      for (BlockTable& t : tables(s)) pool_.release(t.blocks);
    }
    return false;
  }
  copy_in(r, plan);
  if (reserved(r)) CHECK(pool_.allocate(std::max(remaining_need(r), 0), r.spare));
  counters_.blocks_in += fresh;
  r.trace->swapped_blocks += fresh;
  r.trace->note(now_, RequestTrace::Kind::swap_in, fresh);
  enter(r, fresh > 0 ? plan_ : 0);
  return true;
}

// What its samples may take once all that is known has its blocks. Those fresh from the fork share
// the block that they write next, and all but one copy it.
int Scheduler::Impl::need_beyond_known(const Record& r) const {
  if (!r.forked) {
    return (r.final_stretches - stretches_for(r.seqs[0].num_tokens()) +
            (r.num_live - 1) * (r.final_stretches - r.shared_stretches)) *
           stretch_blocks_;
  }
  int need = 0, sharing = 0;
  for (const Sequence& s : r.seqs) {
    if (s.ended) continue;
    need += std::max(r.final_stretches - stretches_for(s.num_tokens()), 0);
    sharing += s.num_computed == s.num_prompt && s.num_prompt % block_size_ != 0;
  }
  return (need + std::max(sharing - 1, 0)) * stretch_blocks_;
}

// Blocks for everything that is known, and copies of what `mapping_` names; siblings share what
// they shared before.
void Scheduler::Impl::copy_in(Record& r, StepPlan& plan) {
  scratch_.clear();
  CHECK(pool_.allocate(int(mapping_.size()), scratch_));
  for (size_t i = 0; i < mapping_.size(); ++i) {
    mapping_[i].dst = scratch_[i];
    start_copy(plan, mapping_[i].dst, mapping_[i].src, false);
  }
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    for (int g = 0; g < num_groups_; ++g) {
      BlockTable& t = s.tables[size_t(g)];
      for (size_t i = t.blocks.size(); i < t.host_blocks.size(); ++i) {
        const BlockId block = mapped(t.host_blocks[i]);
        pool_.retain(std::span(&block, 1));
        t.blocks.push_back(block);
      }
      host_->release(t.host_blocks);  // the copies hold them
      const int end = table_end(r, g, t.first, s.num_tokens());
      CHECK(pool_.allocate((end - t.end()) * t.width, t.blocks));
    }
  }
  pool_.release(scratch_);  // the samples hold them now
}

// --- the second tier of the prefix cache ---

// Full blocks go to the host soon after they are published, so that the device may forget them.
// Dropped, not queued, when memory is short: that must never hold up somebody who could run.
void Scheduler::Impl::write_behind(StepPlan& plan) {
  for (BlockId b : behind_) {
    const auto tokens = pool_.published(b);
    const bool full = int(tokens.size()) == block_size_;
    if (full && pool_.num_available() > 0 &&
        host_->probe(std::span(&pool_.hash(b), 1), tokens).blocks == 0) {
      scratch_.clear();
      if (host_->allocate(1, scratch_)) {
        start_copy(plan, b, scratch_[0], true);
        host_->release(scratch_);
        ++counters_.written_behind;
      }
    }
    scratch_.assign(1, b);
    pool_.release(scratch_);
  }
  behind_.clear();
}

}  // namespace sluice
