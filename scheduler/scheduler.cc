#include "scheduler/scheduler.h"

#include <algorithm>
#include <cmath>

#include "scheduler/scheduler_impl.h"

namespace sluice {

Scheduler::Scheduler(const Policy& policy, const CostModel& seed, BlockPool& device,
                     BlockPool* host, int depth, std::vector<TokenId> eos_tokens, int max_model_len)
    : impl_(std::make_unique<Impl>(policy, seed, device, host, depth, std::move(eos_tokens),
                                   max_model_len)) {}

Scheduler::~Scheduler() = default;

absl::Status Scheduler::add(RequestId id, GenerateRequest request, Instant now) {
  return impl_->add(id, std::move(request), now);
}
void Scheduler::cancel(RequestId id, int sample) {
  impl_->cancel(id, sample, FinishReason::cancelled);
}
StepPlan Scheduler::schedule(Instant now, const CopyProgress&, std::vector<TokenEvent>& events) {
  return impl_->schedule(now, events);
}
void Scheduler::commit(const StepResult& result, Instant, std::vector<TokenEvent>& events) {
  impl_->commit(result, events);
}
bool Scheduler::idle() const {
  return impl_->live_.empty() && impl_->owed_.empty() && impl_->in_flight() == 0;
}
Scheduler::Stats Scheduler::stats() const { return impl_->stats(); }
void Scheduler::check_invariants() const { impl_->check_invariants(); }

const CostModel& Scheduler::cost_model() const { return impl_->cost_; }
std::vector<RequestInfo> Scheduler::list(Instant) const { return {}; }
bool Scheduler::find(RequestId, Instant, RequestInfo&) const { return false; }
double Scheduler::tenant_served(uint32_t) const { return 0; }

Scheduler::Impl::Impl(const Policy& policy, const CostModel& seed, BlockPool& pool, BlockPool*,
                      int depth, std::vector<TokenId> eos_tokens, int max_model_len)
    : policy_(policy),
      cost_(seed),
      pool_(pool),
      block_size_(pool.block_size()),
      watermark_(int(std::ceil(policy.watermark * pool.num_blocks()))),
      max_model_len_(max_model_len),
      eos_(std::move(eos_tokens)),
      flights_(size_t(depth)) {
  CHECK(depth >= 1 && policy.max_seqs >= 1 && policy.max_step_tokens >= 1);
  for (int slot = policy.max_seqs; slot-- > 0;) free_slots_.push_back(slot);
}

// One pass in the policy's order: whoever comes later must not take memory before whoever comes
// earlier. Decodes have first call on the token budget, but the first in order always advances, be
// it a decode or a prefill. Prefills need no memory here: their blocks were there when they came
// in.
StepPlan Scheduler::Impl::schedule(Instant now, std::vector<TokenEvent>& events) {
  StepPlan plan;
  expire(now);
  std::move(owed_.begin(), owed_.end(), std::back_inserter(events));
  owed_.clear();
  sweep();
  if (in_flight() == int(flights_.size())) return plan;

  plan_ = last_plan_ + 1;
  ++round_;
  budget_ = decode_budget_ = policy_.max_step_tokens;
  soon_ = 0;
  victims_end_ = running_.size();
  chunked_.clear(), chunk_rows_.clear(), chunk_owners_.clear();
  building_ = &flight(plan_);
  building_->rows.clear(), building_->owners.clear();
  if (!running_.empty()) {
    const Record& first = *running_[0];
    decode_budget_ -= std::any_of(first.seqs.begin(), first.seqs.end(),
                                  [&](const Sequence& s) { return wants_chunk(first, s); });
  }
  plan.rows.reserve(size_t(policy_.max_seqs) - free_slots_.size() + size_t(policy_.max_passed));
  for (size_t i = 0; i < running_.size(); ++i) {
    prefetch_running(i);
    add_decodes(i, plan);
  }
  for (Record* r : chunked_) add_chunks(*r, plan);
  // What a victim left over is for those who grow next, or the next one in is a victim too.
  if (preempted_.empty()) admit_waiting(plan);
  requeue_preempted();
  finish_plan(plan);
  return plan;
}

// With many sequences every one is a cache miss; fetching a few ahead halves the step.
void Scheduler::Impl::prefetch_running(size_t i) const {
  if (i + 16 < running_.size()) {
    __builtin_prefetch(running_[i + 16]);
    __builtin_prefetch(&running_[i + 16]->request.sampling.max_tokens);
  }
  if (i + 8 < running_.size()) {
    __builtin_prefetch(running_[i + 8]->seqs.data());
    __builtin_prefetch(&running_[i + 8]->seqs.data()->blocks);
  }
}

// Everything known but the last token of the output is still to be computed: a prompt, or what a
// preempted request had.
bool Scheduler::Impl::wants_chunk(const Record& r, const Sequence& s) const {
  if (s.ended || s.num_scheduled >= s.num_tokens()) return false;
  if (s.num_scheduled >= s.num_prompt && s.num_scheduled + 1 == s.num_tokens()) return false;
  // Recomputed siblings share the prompt again, and the first of them computes it for all.
  if (!r.forked || s.num_scheduled >= r.shared_blocks * block_size_) return true;
  for (const Sequence& t : r.seqs) {
    if (!t.ended) return &t == &s || t.num_computed >= r.shared_blocks * block_size_;
  }
  return false;
}

void Scheduler::Impl::add_decodes(size_t index, StepPlan& plan) {
  Record& r = *running_[index];
  if (r.state != SeqState::running || r.held_back == round_) return;
  bool chunks = false;
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    if (s.num_scheduled < s.num_prompt || s.num_scheduled + 1 < s.num_tokens()) {
      chunks |= s.num_scheduled < s.num_tokens();
      continue;
    }
    // Beyond the known tokens there is at most one more, on the device: the last one drawn.
    if (s.num_scheduled >= r.max_scheduled() || decode_budget_ == 0) continue;
    if (!grow(r, s, index, plan)) continue;
    --decode_budget_;
    add_row(r, s, 1, plan, plan.rows, building_->owners);
  }
  if (chunks) chunked_.push_back(&r);
}

void Scheduler::Impl::add_chunks(Record& r, StepPlan& plan) {
  for (Sequence& s : r.seqs) {
    if (budget_ == 0) return;
    if (!wants_chunk(r, s)) continue;
    if (r.forked && s.num_scheduled < r.shared_blocks * block_size_) {
      for (const Sequence& t : r.seqs) {
        if (t.ended) continue;
        if (&t != &s) s.num_scheduled = s.num_computed = r.shared_blocks * block_size_;
        break;
      }
    }
    const int count = std::min(budget_, s.num_tokens() - s.num_scheduled);
    add_row(r, s, count, plan, chunk_rows_, chunk_owners_);
  }
}

void Scheduler::Impl::add_row(Record& r, Sequence& s, int count, StepPlan& plan,
                              std::vector<StepRow>& rows, std::vector<Record*>& owners) {
  StepRow row{&s, s.num_scheduled, count, 0, 0};
  const int end = row.begin + count;
  if (end >= s.num_tokens()) {
    row.num_logits = 1;
    row.num_samples = r.forked ? 1 : r.num_samples;
  }
  if (r.request.sampling.prompt_logprobs >= 0) {
    // What was reported before a preemption is not reported again.
    const int from = std::max(row.begin, r.num_reported);
    if (from < std::min(end, s.num_prompt - 1)) row.num_logits = end - from;
  }
  s.num_scheduled = end;
  r.last_plan = plan_;
  budget_ -= count;
  plan.num_tokens += count;
  rows.push_back(row);
  owners.push_back(&r);
}

void Scheduler::Impl::finish_plan(StepPlan& plan) {
  Flight& f = *building_;
  plan.rows.insert(plan.rows.end(), chunk_rows_.begin(), chunk_rows_.end());
  f.owners.insert(f.owners.end(), chunk_owners_.begin(), chunk_owners_.end());
  if (plan.rows.empty()) return;
  f.rows.assign(plan.rows.begin(), plan.rows.end());
  f.id = plan.id = last_plan_ = plan_;
}

void Scheduler::Impl::cancel(RequestId id, int sample, FinishReason why) {
  const auto it = live_.find(id);
  if (it == live_.end()) return;
  Record& r = *it->second;
  for (int i = 0; i < r.num_samples; ++i) {
    if ((sample != kAllSamples && sample != i) || r.samples[i].done) continue;
    TokenEvent& e = owed_.emplace_back();
    e.request = id;
    e.sample = uint16_t(i);
    e.finish = why;
    end_sample(r, i);
  }
}

void Scheduler::Impl::expire(Instant now) {
  while (!due_.empty() && due_.top().deadline <= now) {
    const Due due = due_.top();
    due_.pop();
    const auto it = live_.find(due.id);  // an id may have ended, and may even have been used again
    if (it == live_.end() || it->second->request.deadline != due.deadline) continue;
    cancel(due.id, kAllSamples, FinishReason::deadline);
  }
}

Scheduler::Stats Scheduler::Impl::stats() const {
  Stats s = counters_;
  s.waiting = num_waiting_;
  s.running = num_running_;
  s.waiting_tokens = waiting_tokens_;
  s.total_blocks = pool_.num_blocks();
  s.used_blocks = pool_.num_blocks() - pool_.num_available();
  return s;
}

}  // namespace sluice
