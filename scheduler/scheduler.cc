#include "scheduler/scheduler.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "scheduler/scheduler_impl.h"

namespace sluice {

Scheduler::Scheduler(const Policy& policy, const CostModel& seed, BlockPool& device,
                     BlockPool* host, int depth, std::vector<TokenId> eos_tokens, int max_model_len,
                     std::vector<KvGroup> groups)
    : impl_(std::make_unique<Impl>(policy, seed, device, host, depth, std::move(eos_tokens),
                                   max_model_len, std::move(groups))) {}

Scheduler::~Scheduler() = default;

absl::Status Scheduler::add(RequestId id, GenerateRequest request, Instant now) {
  return impl_->add(id, std::move(request), now);
}
std::optional<Scheduler::Release> Scheduler::cancel(RequestId id, int sample) {
  return impl_->cancel(id, sample, FinishReason::cancelled);
}
bool Scheduler::released(const Release& r) const {
  return r.step <= impl_->committed_ && r.copies <= impl_->copies_done_;
}
StepPlan Scheduler::schedule(Instant now, const CopyProgress& copies,
                             std::vector<TokenEvent>& events) {
  return impl_->schedule(now, copies, events);
}
void Scheduler::commit(const StepResult& result, Instant now, std::vector<TokenEvent>& events) {
  impl_->commit(result, now, events);
}
bool Scheduler::idle() const {
  return impl_->live_.empty() && impl_->owed_.empty() && impl_->in_flight() == 0 &&
         impl_->copies_.empty() && impl_->behind_.empty();
}
Scheduler::Stats Scheduler::stats() const { return impl_->stats(); }
void Scheduler::check_invariants() const { impl_->check_invariants(); }
void Scheduler::set_queue_limits(int max_queue, int64_t max_queued_tokens) {
  impl_->policy_.max_queue = max_queue;
  impl_->policy_.max_queued_tokens = max_queued_tokens;
}

const CostModel& Scheduler::cost_model() const { return impl_->cost_; }

Scheduler::Impl::Impl(const Policy& policy, const CostModel& seed, BlockPool& device,
                      BlockPool* host, int depth, std::vector<TokenId> eos_tokens,
                      int max_model_len, std::vector<KvGroup> groups)
    : policy_(policy),
      cost_(seed),
      pool_(device),
      host_(host),
      block_size_(device.block_size()),
      block_mask_(std::has_single_bit(unsigned(block_size_)) ? block_size_ - 1 : -1),
      watermark_(int(std::ceil(policy.watermark * device.num_blocks()))),
      max_model_len_(max_model_len),
      num_groups_(int(groups.size())),
      width_{groups[0].width, num_groups_ > 1 ? groups[1].width : 0},
      stretch_blocks_(width_[0] + width_[1]),
      windowed_(num_groups_ - 1),
      kv_reach_(groups.back().reach),
      // What a token sees, and what steps in flight compute meanwhile.
      window_stretches_(window_stretches(kv_reach_, depth * policy.max_step_tokens, block_size_)),
      max_rows_(policy.max_rows > 0 ? std::min(policy.max_rows, policy.max_seqs) : policy.max_seqs),
      eos_(std::move(eos_tokens)),
      flights_(size_t(depth)) {
  CHECK(depth >= 1 && policy.max_seqs >= 1 && policy.max_step_tokens >= 1);
  CHECK(num_groups_ <= kMaxKvGroups && kv_reach_ >= 0 && width_[0] >= 1);
  CHECK(num_groups_ == 1 || (width_[1] >= 1 && groups[0].reach == 0 && kv_reach_ > 0));
  CHECK(!policy.tenant_weights.empty() && policy.min_chunk >= 1);
  CHECK(host == nullptr || host->block_size() == block_size_);
  for (double weight : policy.tenant_weights) {
    CHECK(weight > 0);
    tenants_.emplace_back().weight = weight;
  }
  for (int slot = policy.max_seqs; slot-- > 0;) free_slots_.push_back(slot);
  constexpr double kLongest = 60;  // growth ends here: nobody's answer stands still for longer
  const double first = to_seconds(policy.promote_after);
  for (int level = 0; level < kLevels; ++level) {
    const double seconds = first * std::pow(std::max(policy.promote_growth, 1.0), level);
    patience_[size_t(level)] = Nanos(int64_t(std::min(seconds, std::max(first, kLongest)) * 1e9));
  }
  quantum_ = policy.quantum > 0 ? policy.quantum : cost_.decode_step_seconds();
}

StepPlan Scheduler::Impl::schedule(Instant now, const CopyProgress& copies,
                                   std::vector<TokenEvent>& events) {
  StepPlan plan;
  now_ = std::max(now_, now);
  finish_copies(copies);
  expire();
  std::move(owed_.begin(), owed_.end(), std::back_inserter(events));
  owed_.clear();
  sweep();
  if (in_flight() == int(flights_.size())) return plan;

  begin_step(plan);
  displace(plan);
  victims_listed_ = false;  // those passed over there may be asked again
  if (policy_.step == Policy::Step::prefill_first) {
    fill_prefill_first(plan);
  } else {
    fill_mixed(plan);
  }
  swap_ahead(plan);
  requeue_preempted();
  write_behind(plan);
  finish_plan(plan);
  note_stall(plan);
  return plan;
}

void Scheduler::Impl::begin_step(StepPlan& plan) {
  rank_tenants();
  settle_order();
  plan_ = last_plan_ + 1;
  ++round_;
  budget_ = decode_budget_ = chunk_budget_ = policy_.max_step_tokens;
  chunk_seconds_ = kNoLimit;
  rows_left_ = max_rows_;
  rows_aside_ = soon_ = taken_ = 0;
  victims_listed_ = pushed_out_ = false;
  occupied_ = !running_.empty();
  chunked_.clear(), chunk_rows_.clear(), chunk_owners_.clear();
  building_ = &flight(plan_);
  building_->rows.clear(), building_->owners.clear(), building_->filling.clear();
  building_->work = {};
  plan.rows.reserve(size_t(policy_.max_seqs) - free_slots_.size() + size_t(policy_.max_passed));
}

// One pass in the policy's order: whoever comes later must not take memory before whoever comes
// earlier. Decodes have first call on the token budget, but the first in order always advances, be
// it a decode or a prefill. Prefills need no memory here: their blocks were there when they came
// in.
void Scheduler::Impl::fill_mixed(StepPlan& plan) {
  if (!running_.empty()) {
    const Record& first = *running_[0].record;
    const bool chunk = std::any_of(first.seqs.begin(), first.seqs.end(),
                                   [&](const Sequence& s) { return wants_chunk(first, s); });
    if (chunk && first.state == SeqState::running)
      decode_budget_ -= std::min(policy_.min_chunk, (decode_budget_ + 1) / 2);
  }
  for (size_t i = 0; i < running_.size(); ++i) {
    prefetch_running(i);
    if (!add_decodes(*running_[i].record, plan)) watch(*running_[i].record);
  }
  set_chunk_budget();
  for (Record* r : chunked_) add_chunks(*r, plan);
  admit_waiting(plan);
}

// Prompts have a step to themselves while there are any that fit, as in vLLM's first scheduler.
void Scheduler::Impl::fill_prefill_first(StepPlan& plan) {
  for (const Filed& f : running_) {
    if (f.record->state == SeqState::running) add_chunks(*f.record, plan);
  }
  admit_waiting(plan);
  if (!chunk_rows_.empty()) return;
  for (size_t i = 0; i < running_.size(); ++i) {
    prefetch_running(i);
    if (!add_decodes(*running_[i].record, plan)) watch(*running_[i].record);
  }
}

// What the step's prefills may take beside its decodes, which are known by now.
void Scheduler::Impl::set_chunk_budget() {
  if (whole_prompts()) return;  // they are not cut, so only the step's own limit binds
  if (policy_.budget == Policy::Budget::target && building_->work.decode_rows > 0) {
    chunk_seconds_ = std::max(token_interval() - cost_.seconds(building_->work), 0.0);
  } else if (policy_.budget == Policy::Budget::split_fuse) {
    int64_t left = waiting_tokens_;
    for (const Record* r : chunked_) {
      for (const Sequence& s : r->seqs) left += s.ended ? 0 : s.num_tokens() - s.num_scheduled;
    }
    const int64_t even = (left + policy_.max_prefill_steps - 1) / policy_.max_prefill_steps;
    chunk_budget_ = int(std::clamp<int64_t>(even, policy_.min_chunk, policy_.max_step_tokens));
  }
}

// Tokens of a prompt from `begin` on that fit what is left of the step's time: the longer its
// context, the fewer. The first chunk of a step gets min_chunk at least.
int Scheduler::Impl::affordable(int begin) const {
  if (chunk_seconds_ == kNoLimit) return policy_.max_step_tokens;
  const StepCost& c = cost_.cost();
  // seconds = n * (per token + per pair * (begin + n / 2)), solved for n.
  const double linear = c.per_prefill_token + c.per_prefill_pair * begin;
  const double root = std::sqrt(linear * linear + 2 * c.per_prefill_pair * chunk_seconds_);
  const double fit = linear + root > 0 ? 2 * chunk_seconds_ / (linear + root) + 1e-6 : 1e9;
  const int least = chunk_rows_.empty() ? policy_.min_chunk : 0;
  return std::max(int(std::min(fit, double(policy_.max_step_tokens))), least);
}

// Seconds that this step may take.
double Scheduler::Impl::token_interval() const {
  double interval = policy_.token_interval > 0
                        ? policy_.token_interval
                        : policy_.interval_factor * cost_.seconds(building_->work);
  if (num_paced_ == 0) return interval;
  for (const Record* r : building_->owners) {
    const double own = to_seconds(r->request.token_interval);
    if (own > 0) interval = std::min(interval, own);
  }
  return interval;
}

// With many sequences every one is a cache miss; fetching a few ahead halves the step.
void Scheduler::Impl::prefetch_running(size_t i) const {
  if (i + 16 < running_.size()) {
    __builtin_prefetch(running_[i + 16].record, 1);
    __builtin_prefetch(&running_[i + 16].record->service, 1);
  }
  if (i + 8 < running_.size()) __builtin_prefetch(running_[i + 8].record->seqs.data(), 1);
}

// Everything known but the last token of the output is still to be computed: a prompt, or what a
// preempted request had.
bool Scheduler::Impl::wants_chunk(const Record& r, const Sequence& s) const {
  if (s.ended || s.num_scheduled >= s.num_tokens()) return false;
  if (s.num_scheduled >= s.num_prompt && s.num_scheduled + 1 == s.num_tokens()) return false;
  // Recomputed siblings share the prompt again, and the first of them computes it for all.
  if (!r.forked || s.num_scheduled >= r.shared_stretches * block_size_) return true;
  for (const Sequence& t : r.seqs) {
    if (!t.ended) return &t == &s || t.num_computed >= r.shared_stretches * block_size_;
  }
  return false;
}

// Most rows of most steps: what add_row() does for any, as little of it as that takes.
inline void Scheduler::Impl::add_decode(Record& r, Sequence& s, StepPlan& plan) {
  --budget_, --decode_budget_, --rows_left_, ++plan.num_tokens;
  const int begin = s.num_scheduled++;
  if (in_block(begin) + 1 == block_size_) building_->filling.push_back(plan.rows.size());
  building_->work.add(begin, 1, true);
  plan.rows.push_back({&s, begin, 1, 1, 1});
  building_->owners.push_back(&r);
  pay_for(r, 1);
  ran(r);
}

// False when some of it wanted a row and got none.
bool Scheduler::Impl::add_decodes(Record& r, StepPlan& plan) {
  if (r.state != SeqState::running || r.held_back == round_) return true;
  bool chunks = false, served = true;
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    if (s.num_scheduled < s.num_prompt || s.num_scheduled + 1 < s.num_tokens()) {
      chunks |= s.num_scheduled < s.num_tokens();
      continue;
    }
    // Beyond the known tokens there is at most one more, on the device: the last one drawn.
    if (s.num_scheduled >= r.max_scheduled()) continue;
    if (decode_budget_ == 0 || budget_ == 0 || rows_left_ == 0 || !grow(r, s, plan)) {
      served = false;
      continue;
    }
    add_decode(r, s, plan);
  }
  if (chunks && follows(r) && !extend_window(r, r.seqs[0], plan)) return false;
  if (chunks) {
    // A row is set aside in its turn, though it is filled after all decodes.
    if (rows_left_ == 0) return false;
    --rows_left_;
    ++rows_aside_;
    chunked_.push_back(&r);
  }
  return served;
}

void Scheduler::Impl::add_chunks(Record& r, StepPlan& plan) {
  rows_left_ += std::exchange(rows_aside_, 0);
  for (Sequence& s : r.seqs) {
    if (budget_ == 0 || chunk_budget_ == 0 || rows_left_ == 0) return;
    if (!wants_chunk(r, s)) continue;
    if (r.forked && s.num_scheduled < r.shared_stretches * block_size_) {
      for (const Sequence& t : r.seqs) {
        if (t.ended) continue;
        if (&t != &s) s.num_scheduled = s.num_computed = r.shared_stretches * block_size_;
        break;
      }
    }
    const int left = s.num_tokens() - s.num_scheduled;
    const int room = s.tables[size_t(num_groups_ - 1)].end() * block_size_ - s.num_scheduled;
    int count = std::min({budget_, chunk_budget_, left, room, affordable(s.num_scheduled)});
    if (count < left) count = tiled(count, plan);
    if (count == 0 || (whole_prompts() && count < left)) return;
    chunk_budget_ -= count;
    spend(s.num_scheduled, count);
    --rows_left_;
    add_row(r, s, count, plan, chunk_rows_, chunk_owners_);
    r.trace->chunks += 1;
    r.trace->note(now_, RequestTrace::Kind::chunk, count);
  }
}

// A cut chunk, such that the step ends with a tile. A step's first chunk is never cut to nothing.
int Scheduler::Impl::tiled(int count, const StepPlan& plan) const {
  const int over = (plan.num_tokens + count) % policy_.tile_tokens;
  if (over < count) return count - over;
  const bool full = plan.num_tokens % policy_.tile_tokens == 0;  // its last tile
  return full && !chunk_rows_.empty() ? 0 : count;
}

void Scheduler::Impl::spend(int begin, int count) {
  if (chunk_seconds_ == kNoLimit) return;
  StepWork work;
  work.add(begin, count, false);
  chunk_seconds_ = std::max(chunk_seconds_ - cost_.marginal(work), 0.0);
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
  building_->work.add(row.begin, count, row.is_decode());
  s.num_scheduled = end;
  pay_for(r, count);
  ran(r);
  budget_ -= count;
  plan.num_tokens += count;
  rows.push_back(row);
  owners.push_back(&r);
}

void Scheduler::Impl::finish_plan(StepPlan& plan) {
  Flight& f = *building_;
  for (size_t i = 0; i < chunk_rows_.size(); ++i) {
    if (fills_block(chunk_rows_[i])) f.filling.push_back(plan.rows.size() + i);
  }
  plan.rows.insert(plan.rows.end(), chunk_rows_.begin(), chunk_rows_.end());
  f.owners.insert(f.owners.end(), chunk_owners_.begin(), chunk_owners_.end());
  note_unfinished();
  settle_tenants();
  if (plan.empty()) return;
  f.rows.assign(plan.rows.begin(), plan.rows.end());
  f.id = plan.id = last_plan_ = plan_;
  if (!plan.rows.empty()) ++steps_since_admission_;
  arrival_blocks_ += 0.1 * (taken_ - arrival_blocks_);
}

// Whose prompts newcomers may go before.
void Scheduler::Impl::note_unfinished() {
  unfinished_.clear();
  const auto note = [&](Record* r) {
    const bool left = std::any_of(r->seqs.begin(), r->seqs.end(),
                                  [&](const Sequence& s) { return wants_chunk(*r, s); });
    if (left && r->state == SeqState::running) unfinished_.push_back(r);
  };
  for (Record* r : chunked_) note(r);
  for (Record* r : chunk_owners_) note(r);
}

// Neither rows nor copies, and nothing under way that could change that: a fault in the policy, or
// requests that take each other's memory in turn. Counted, so that it shows.
void Scheduler::Impl::note_stall(const StepPlan& plan) {
  const bool stalled = plan.empty() && !live_.empty() && in_flight() == 0 && copies_.empty();
  stalled_rounds_ = stalled ? stalled_rounds_ + 1 : 0;
  const bool thrashing = preempted_since_token_ > 4 * int64_t(live_.size()) + 64;
  if (stalled_rounds_ != 2 && !thrashing) return;
  ++counters_.livelocks;
  preempted_since_token_ = 0;
}

std::optional<Scheduler::Release> Scheduler::Impl::cancel(RequestId id, int sample,
                                                          FinishReason why) {
  const auto it = live_.find(id);
  if (it == live_.end()) return {};
  Record& r = *it->second;
  for (int i = 0; i < r.num_samples; ++i) {
    if ((sample != kAllSamples && sample != i) || r.samples[i].done) continue;
    (why == FinishReason::deadline ? counters_.wasted_deadline : counters_.wasted_cancel) +=
        computed_tokens(r, i);
    TokenEvent& e = owed_.emplace_back();
    e.request = id;
    e.sample = uint16_t(i);
    e.finish = why;
    if (r.num_live == 1) e.add_details().trace = close_trace(r);
    end_sample(r, i);
  }
  if (!r.retired) return {};
  return Release{r.last_plan, r.copy_plan};
}

// Work that ends with sample `i`: its own tokens, and the prompt with the last of them.
int Scheduler::Impl::computed_tokens(const Record& r, int i) const {
  int tokens = 0;
  for (const Sequence& s : r.seqs) {
    if (s.ended || (r.forked && s.sample != i) || (!r.forked && r.num_live > 1)) continue;
    const int shared = r.num_live > 1 ? s.num_prompt : s.num_cached;
    tokens += std::max(s.num_computed - shared, 0);
  }
  return tokens;
}

// What falls due: deadlines, and bounds on waiting. An id may have ended meanwhile, and may even
// have been used again.
void Scheduler::Impl::expire() {
  while (!due_.empty() && due_.top().when <= now_) {
    const Due due = due_.top();
    due_.pop();
    const auto it = live_.find(due.id);
    if (it == live_.end()) continue;
    Record& r = *it->second;
    switch (due.kind) {
      case Due::Kind::deadline:
        if (r.request.deadline == due.when) cancel(due.id, kAllSamples, FinishReason::deadline);
        break;
      case Due::Kind::patience:
        if (r.watched) patience_over(r);
        break;
      case Due::Kind::first_token:
        if (policy_.order == Policy::Order::mlfq && !r.first_event_sent && !r.starving &&
            r.state != SeqState::arriving && r.last_plan <= committed_) {
          promote(r);
        }
        break;
    }
  }
}

}  // namespace sluice
