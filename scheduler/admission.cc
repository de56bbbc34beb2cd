#include <algorithm>
#include <limits>

#include "scheduler/scheduler_impl.h"

namespace sluice {

// What could never run is refused here, so that whatever waits comes in once enough others ended.
absl::Status Scheduler::Impl::check(RequestId id, const GenerateRequest& request) const {
  const SamplingParams& sampling = request.sampling;
  if (live_.count(id) > 0) return invalid_argument("request id {} is in use", id);
  if (request.prompt.empty()) return invalid_argument("the prompt is empty");
  if (sampling.max_tokens < 1) {
    return invalid_argument("max_tokens is {}; it must be at least 1", sampling.max_tokens);
  }
  if (sampling.min_tokens < 0 || sampling.min_tokens > sampling.max_tokens) {
    return invalid_argument("min_tokens is {}; it must be between 0 and max_tokens ({})",
                            sampling.min_tokens, sampling.max_tokens);
  }
  if (request.num_samples < 1 || request.num_samples > policy_.max_seqs) {
    return invalid_argument("n is {}; it must be between 1 and max_seqs ({})", request.num_samples,
                            policy_.max_seqs);
  }
  if (request.priority < kMinPriority || request.priority > kMaxPriority) {
    return invalid_argument("priority is {}; it must be between {} and {}", request.priority,
                            kMinPriority, kMaxPriority);
  }
  if (request.tenant >= tenants_.size()) {
    return invalid_argument("tenant {} is not one of {}", request.tenant, tenants_.size());
  }
  if (absl::Status status = check_size(request); !status.ok()) return status;
  if (num_waiting_ >= policy_.max_queue) {
    return resource_exhausted("the queue is full: {} requests wait (max_queue)", num_waiting_);
  }
  // A prompt longer than the limit may wait alone: it would be turned away for ever otherwise.
  const int64_t num_prompt = int64_t(request.prompt.size());
  if (policy_.max_queued_tokens > 0 && num_waiting_ > 0 &&
      waiting_tokens_ + num_prompt > policy_.max_queued_tokens) {
    return resource_exhausted("the queue is full: {} prompt tokens wait (max_queued_tokens {})",
                              waiting_tokens_, policy_.max_queued_tokens);
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Impl::check_size(const GenerateRequest& request) const {
  const int64_t num_prompt = int64_t(request.prompt.size());
  const int max_tokens = request.sampling.max_tokens;
  const int64_t total = num_prompt + max_tokens;
  if (total > max_model_len_) {
    return invalid_argument("prompt ({} tokens) + max_tokens ({}) is more than the context of {}",
                            num_prompt, max_tokens, max_model_len_);
  }
  const int64_t shared = num_prompt / block_size_, each = stretches_for(int(total) - 1) - shared;
  int64_t blocks = (shared + request.num_samples * each) * stretch_blocks_;
  if (num_groups_ > 1 && request.num_samples == 1 && !policy_.sets_all_aside())
    blocks = (shared + each) * width_[0] +
             std::min<int64_t>(shared + each, window_stretches_) * width_[1];
  if (blocks > pool_.num_blocks()) {
    return invalid_argument(
        "prompt ({} tokens) + max_tokens ({}) with n = {} needs {} cache blocks of {} tokens; "
        "the cache has {}",
        num_prompt, max_tokens, request.num_samples, blocks, block_size_, pool_.num_blocks());
  }
  // Where prompts are not cut, a step must hold one, and what it was recomputed with.
  const bool recomputes = policy_.reservation != Policy::Reservation::full;
  const int64_t longest = recomputes ? total - 1 : num_prompt;
  if (whole_prompts() && longest > policy_.max_step_tokens) {
    return invalid_argument(
        "prompt ({} tokens){} is more than a step's {} tokens (scheduler.max_step_tokens), and "
        "scheduler.step does not cut prompts",
        num_prompt, recomputes ? fmt::format(" + max_tokens ({})", max_tokens) : "",
        policy_.max_step_tokens);
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Impl::add(RequestId id, GenerateRequest request, Instant now) {
  if (absl::Status status = check(id, request); !status.ok()) return status;
  now_ = std::max(now_, now);
  auto owned = std::make_unique<Record>();
  Record& r = *owned;
  r.request = std::move(request);
  r.id = id;
  r.tenant = &tenants_[r.request.tenant];
  r.at_bound = policy_.max_preemptions == 0;
  r.arrival = ++arrivals_;
  r.ticket = ++tickets_;
  r.last_run = now;
  r.num_samples = r.num_live = r.request.num_samples;
  r.samples.resize(size_t(r.num_samples));
  r.forked = r.num_live == 1;
  r.seqs.reserve(size_t(r.num_live));
  Sequence& s = r.seqs.emplace_back();
  s.id = id;
  s.request = &r.request;
  s.tokens = std::move(r.request.prompt);
  r.request.prompt.clear();
  s.num_prompt = s.num_tokens();
  r.shared_stretches = s.num_prompt / block_size_;
  r.final_stretches = stretches_for(s.num_prompt + r.request.sampling.max_tokens - 1);
  for (int g = 0; g < num_groups_; ++g) s.tables[size_t(g)].width = width_[size_t(g)];
  if (use_cache(r)) extend_hashes(s, (s.num_prompt - 1) / block_size_);
  r.level = uint8_t(join_level(r));
  r.trace = std::make_shared<RequestTrace>();
  r.trace->arrived = now;
  r.trace->prompt_tokens = s.num_prompt;
  r.trace->level = r.level;
  continue_session(r);
  enlist(r);
  live_[id] = std::move(owned);
  return absl::OkStatus();
}

// A session without a seed of its own goes on with the one it had: its draws are those of one long
// answer.
void Scheduler::Impl::continue_session(Record& r) {
  if (r.request.session == 0) return;
  const auto it = sessions_.find(r.request.session);
  if (it == sessions_.end()) return;
  it->second.used = arrivals_;
  if (!r.request.sampling.seed_given) r.request.sampling.seed = it->second.seed;
}

void Scheduler::Impl::enlist(Record& r) {
  active_tenants_ += r.tenant->live++ == 0;
  num_paced_ += r.request.token_interval.count() > 0;
  if (r.request.deadline != kNever) due_.push({r.request.deadline, r.id, Due::Kind::deadline});
  if (r.request.first_token_by != kNever) {
    const double prefill = cost_.prefill_seconds(0, r.seqs[0].num_prompt);
    due_.push(
        {r.request.first_token_by - Nanos(int64_t(prefill * 1e9)), r.id, Due::Kind::first_token});
  }
  ++num_waiting_;
  waiting_tokens_ += r.seqs[0].num_prompt;
  count_level(r, 1);
  file(r);
  watch(r);
}

// --- one pass over the waiting, in the policy's order ---

void Scheduler::Impl::start_waiting_pass() {
  passed_.clear();
  admitted_.clear();
  cursors_.clear();
  for (Tenant& t : tenants_) cursors_.push_back(t.waiting.begin());
}

// Of the best priority there is, the one whose tenant was served least.
Record* Scheduler::Impl::next_waiting() {
  size_t best = tenants_.size();
  for (size_t t = 0; t < tenants_.size(); ++t) {
    if (cursors_[t] == tenants_[t].waiting.end()) continue;
    if (best < tenants_.size()) {
      const int a = cursors_[t]->record->request.priority;
      const int b = cursors_[best]->record->request.priority;
      if (a > b || (a == b && tenants_[t].counter >= tenants_[best].counter)) continue;
    }
    best = t;
  }
  if (best == tenants_.size()) return nullptr;
  return (cursors_[best]++)->record;
}

void Scheduler::Impl::end_waiting_pass() {
  for (const Filed& f : admitted_) f.record->tenant->waiting.erase(f);
  admitted_.clear();
}

bool Scheduler::Impl::open_to_newcomers() const {
  if (!preempted_.empty()) return false;  // what a victim left over is for those who grow next
  switch (policy_.step) {
    case Policy::Step::batch:
      return !batch_closed();
    case Policy::Step::ratio:
      return num_running_ == 0 || steps_since_admission_ >= policy_.max_waiting_steps ||
             num_waiting_ >= policy_.waiting_ratio * num_running_;
    default:
      return true;
  }
}

void Scheduler::Impl::admit_waiting(StepPlan& plan) {
  if (!open_to_newcomers()) return;
  start_waiting_pass();
  bool starving = false;
  // Whoever comes in computes at least one token, into a block of its own.
  while (!starving && budget_ > 0 && chunk_budget_ > 0 && affordable(0) > 0 && rows_left_ > 0 &&
         !free_slots_.empty() && pool_.num_available() > 0) {
    Record* r = next_waiting();
    if (r == nullptr) break;
    if (admit_one(*r, plan)) {
      for (Record* p : passed_) starving |= ++p->num_overtaken >= policy_.max_overtakes;
      if (r->state != SeqState::running) continue;
      // One that comes back without a copy may have nothing left to compute but its next token.
      if (policy_.step != Policy::Step::prefill_first) add_decodes(*r, plan);
      add_chunks(*r, plan);
    } else {
      passed_.push_back(r);
      starving = policy_.order == Policy::Order::fcfs_strict || r->starving ||
                 r->num_overtaken >= policy_.max_overtakes ||
                 int(passed_.size()) >= policy_.max_passed;
    }
  }
  end_waiting_pass();
}

// Before the rows are dealt out: a waiting request that outranks a resident whose prompt is half
// computed comes in to be computed before it, so that a long prompt does not block short ones; and,
// proactive, one that outranks somebody who would run takes its place, be it a row, a slot or
// blocks.
void Scheduler::Impl::displace(StepPlan& plan) {
  if (policy_.order != Policy::Order::mlfq && !policy_.proactive) return;
  if (running_.empty() || num_waiting_ + num_swapped_ == 0 || !open_to_newcomers()) return;
  start_waiting_pass();
  int tokens = 0;  // of prompts that came in here
  while (Record* r = next_waiting()) {
    const bool before_chunks = tokens < policy_.max_step_tokens && outranks_unfinished(*r);
    const bool room = int(running_.size()) < max_rows_ && !free_slots_.empty() &&
                      pool_.num_available() - watermark_ > blocks_for(r->seqs[0].num_tokens());
    const bool takes = policy_.proactive && !room && outranks(*r, *running_.back().record);
    if (!before_chunks && !takes) break;
    if (!admit_one(*r, plan)) {
      if (!takes || (r->state == SeqState::swapped && r->copy_plan > copies_done_)) break;
      if (!push_out_for(*r, plan) || !admit_one(*r, plan)) break;
    }
    tokens += r->seqs[0].num_tokens() - r->seqs[0].num_scheduled;
  }
  end_waiting_pass();
}

bool Scheduler::Impl::outranks_unfinished(const Record& r) const {
  return std::any_of(unfinished_.begin(), unfinished_.end(),
                     [&](const Record* u) { return outranks(r, *u); });
}

// Victims that `r` outranks give way until it fits, the last to run again first. Their blocks may
// be on their way to the host still: then it comes in when they have left.
bool Scheduler::Impl::push_out_for(const Record& r, StepPlan& plan) {
  constexpr int kMostAsked = 64;  // in vain: the others would run again sooner still
  const int slots = r.forked ? r.num_live : r.num_samples;
  int blocks = watermark_ + r.num_live * stretch_blocks_;
  for (const Sequence& s : r.seqs) blocks += s.ended ? 0 : known_need(r, s, s.tables[1].first);
  if (reserved(r)) blocks = std::max(blocks, total_need(r) + watermark_);
  const auto fits = [&](int more) {
    return int(free_slots_.size()) >= slots && pool_.num_available() + more >= blocks;
  };
  if (!victims_listed_) list_victims();
  for (int asked = 0; asked < kMostAsked; ++asked) {
    if (victims_.empty() || fits(num_leaving_ + num_coming_ + soon_)) break;
    Record& v = *next_victim().record;
    if (v.state != SeqState::running || !settled(v) || !outranks(r, v)) continue;
    // Computing it all again must not cost more than what it was given.
    if (!prefers_swap(v) && recompute_seconds(v) > 0.5 * v.work) continue;
    if (v.last_plan <= committed_) {
      preempt(v, plan, true);
    } else {
      hold_back(v);
    }
  }
  return fits(0);
}

// --- one request ---

bool Scheduler::Impl::admit_one(Record& r, StepPlan& plan) {
  const Filed filed{r.key, &r};
  if (!(r.state == SeqState::swapped ? admit_swapped(r, plan) : admit(r, plan))) return false;
  admitted_.push_back(filed);
  return true;
}

// In with all the blocks of its known tokens, or not at all: a prefill never stalls half-way, but
// where it waits for others to leave room for its next chunk in a table that follows.
bool Scheduler::Impl::admit(Record& r, StepPlan& plan) {
  const int num_slots = r.forked ? r.num_live : r.num_samples;
  if (int(free_slots_.size()) < num_slots) return false;
  Sequence* carrier = nullptr;
  int need = 0;
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    if (carrier) need += blocks_for(s.num_tokens()) - r.shared_stretches * stretch_blocks_;
    if (!carrier) carrier = &s;
  }
  // At least one token is computed, or there are no logits to draw from.
  int limit = use_cache(r) ? (carrier->num_tokens() - 1) / block_size_ : 0;
  // Siblings go on from the end of the prompt: what they see there must be in the tables.
  if (num_groups_ > 1 && r.num_samples > 1) limit = std::min(limit, r.shared_stretches);
  extend_hashes(*carrier, limit);
  const Known known{std::span(carrier->hashes).first(size_t(limit)), carrier->tokens};
  const BlockPool::Match on_device = find_prefix(pool_, known, 0);
  const int cached = on_device.blocks;
  const int uncached = carrier->num_tokens() - cached * block_size_;
  if (whole_prompts() && uncached > std::min(budget_, chunk_budget_)) return false;
  const int first = first_seen(num_groups_ - 1, cached);
  need += known_need(r, *carrier, first);
  const int all = reserved(r) ? total_need(r) - first * width_[size_t(num_groups_ - 1)] : need;
  // From what is available, cached blocks included.
  const int taken = all - held_of_prefix(r, known, on_device);
  if (pool_.num_available() - taken < (num_running_ > 0 ? watermark_ : 0)) return false;

  take_prefix(*carrier, known, cached);
  int found = cached * block_size_, from_host = 0;
  if (const int tail = match_session(r, *carrier); tail > 0) {
    found += tail;
  } else if (host_ != nullptr) {
    from_host = copy_prefix(*carrier, known, plan);
    found += from_host * block_size_;
  }
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    for (int g = 0; g < num_groups_; ++g) {
      BlockTable& t = s.tables[size_t(g)];
      if (&s != carrier) {
        const BlockTable& from = carrier->tables[size_t(g)];
        const auto shared = std::span(from.blocks).first(from.at(r.shared_stretches));
        pool_.retain(shared);
        t.blocks.assign(shared.begin(), shared.end());
        t.first = from.first;
      }
      const int end = table_end(r, g, t.first, s.num_tokens());
      CHECK(pool_.allocate((end - t.end()) * t.width, t.blocks));
    }
    s.num_scheduled = s.num_computed = s.num_cached = &s == carrier ? found : 0;
  }
  CHECK(pool_.allocate(all - need, r.spare));
  taken_ += taken;
  note_admission(r, found, from_host * block_size_);
  enter(r, from_host > 0 ? plan_ : 0);
  return true;
}

// The partial block that a session's last turn ended in, taken if nobody else holds it. Returns the
// tokens in it.
int Scheduler::Impl::match_session(Record& r, Sequence& s) {
  if (r.request.session == 0 || !use_cache(r)) return 0;
  const auto it = sessions_.find(r.request.session);
  if (it == sessions_.end()) return 0;
  const int end = it->second.num_tokens, full = s.end_block();
  if (end / block_size_ != full || end % block_size_ == 0 || end >= s.num_tokens()) return 0;
  const BlockHash hash = session_hash(r, s, end);
  const auto tokens = std::span<const TokenId>(s.tokens).subspan(size_t(full) * block_size_);
  for (int kind = 0; kind < stretch_blocks_; ++kind) {
    const BlockPool::Match found = pool_.probe(std::span(&hash, 1), tokens, kind);
    if (found.blocks == 0 || found.held > 0) return 0;
  }
  int kind = 0;
  for (BlockTable& t : tables(s)) {
    for (int k = 0; k < t.width; ++k)
      CHECK(pool_.match(std::span(&hash, 1), tokens, t.blocks, kind++) == 1);
  }
  return end % block_size_;
}

void Scheduler::Impl::note_admission(Record& r, int found, int on_host) {
  const Sequence& s = r.seqs[0];
  if (!r.admitted_once && use_cache(r)) {
    counters_.prompt_tokens += s.num_prompt;
    counters_.cached_tokens += found;
    counters_.host_cached_tokens += on_host;
    r.num_cached = found;
    r.trace->cached_tokens = found - on_host;
    r.trace->host_cached_tokens = on_host;
  }
  if (!r.admitted_once) {
    r.trace->admitted = now_;
    r.tenant->tokens += s.num_prompt - found;
  }
  r.admitted_once = true;
  r.trace->note(now_, RequestTrace::Kind::admitted, found);
}

void Scheduler::Impl::enter(Record& r, uint64_t copy_plan) {
  for (Record::Sample& sample : r.samples) {
    if (r.forked && sample.done) continue;
    sample.slot = free_slots_.back();
    free_slots_.pop_back();
  }
  for (Sequence& s : r.seqs) {
    if (!s.ended) s.seq_slot = r.samples[s.sample].slot;
  }
  count_level(r, -1);
  if (r.state == SeqState::swapped) {
    --num_swapped_;
  } else {
    --num_waiting_;
    waiting_tokens_ -= r.seqs[0].num_prompt;
  }
  ++num_running_;
  const bool copies = copy_plan > copies_done_;
  r.copy_plan = copy_plan;
  r.state = SeqState::arriving;
  r.in_since = now_;
  count_level(r, 1);
  r.num_overtaken = 0;
  r.residency = 0;
  r.work = 0;
  if (copies) {
    arriving_.push_back(&r);
  } else {
    arrive(r);
  }
  steps_since_admission_ = 0;
  r.key = key_of(r);
  running_.insert(std::upper_bound(running_.begin(), running_.end(), Filed{r.key, &r}),
                  Filed{r.key, &r});
}

}  // namespace sluice
