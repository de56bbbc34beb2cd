#include <algorithm>

#include "scheduler/scheduler_impl.h"

namespace sluice {

// What could never run is refused here, so that whatever waits comes in once enough others ended.
absl::Status Scheduler::Impl::check(RequestId id, const GenerateRequest& request) const {
  const SamplingParams& sampling = request.sampling;
  const int64_t num_prompt = int64_t(request.prompt.size());
  if (live_.count(id) > 0) return invalid_argument("request id {} is in use", id);
  if (num_prompt == 0) return invalid_argument("the prompt is empty");
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
  const int64_t total = num_prompt + sampling.max_tokens;
  if (total > max_model_len_) {
    return invalid_argument("prompt ({} tokens) + max_tokens ({}) is more than the context of {}",
                            num_prompt, sampling.max_tokens, max_model_len_);
  }
  const int64_t shared = num_prompt / block_size_, each = blocks_for(int(total) - 1) - shared;
  const int64_t blocks = shared + request.num_samples * each;
  if (blocks > pool_.num_blocks()) {
    return invalid_argument(
        "prompt ({} tokens) + max_tokens ({}) with n = {} needs {} cache blocks of {} tokens; "
        "the cache has {}",
        num_prompt, sampling.max_tokens, request.num_samples, blocks, block_size_,
        pool_.num_blocks());
  }
  if (num_waiting_ >= policy_.max_queue) {
    return resource_exhausted("the queue is full: {} requests wait (max_queue)", num_waiting_);
  }
  // A prompt longer than the limit may wait alone: it would be turned away for ever otherwise.
  if (policy_.max_queued_tokens > 0 && num_waiting_ > 0 &&
      waiting_tokens_ + num_prompt > policy_.max_queued_tokens) {
    return resource_exhausted("the queue is full: {} prompt tokens wait (max_queued_tokens {})",
                              waiting_tokens_, policy_.max_queued_tokens);
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Impl::add(RequestId id, GenerateRequest request, Instant) {
  if (absl::Status status = check(id, request); !status.ok()) return status;
  auto owned = std::make_unique<Record>();
  Record& r = *owned;
  r.request = std::move(request);
  r.id = id;
  r.ticket = ++tickets_;
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
  r.shared_blocks = s.num_prompt / block_size_;
  r.final_blocks = blocks_for(s.num_prompt + r.request.sampling.max_tokens - 1);
  if (r.request.deadline != kNever) due_.push({r.request.deadline, id});
  ++num_waiting_;
  waiting_tokens_ += s.num_prompt;
  waiting_.push_back(&r);
  live_[id] = std::move(owned);
  return absl::OkStatus();
}

void Scheduler::Impl::admit_waiting(StepPlan& plan) {
  passed_.clear();
  size_t i = 0;
  bool any = false, starving = false;
  // Whoever comes in computes at least one token, into a block of its own.
  const auto room = [&] {
    return budget_ > 0 && !free_slots_.empty() && pool_.num_available() > 0;
  };
  for (; i < waiting_.size() && room() && !starving; ++i) {
    Record& r = *waiting_[i];
    if (admit(r)) {
      any = true;
      for (Record* p : passed_) starving |= ++p->num_overtaken >= policy_.max_overtakes;
      add_chunks(r, plan);
    } else {
      passed_.push_back(&r);
      starving =
          r.num_overtaken >= policy_.max_overtakes || int(passed_.size()) >= policy_.max_passed;
    }
  }
  if (!any) return;
  const auto end = waiting_.begin() + ptrdiff_t(i);
  waiting_.erase(std::remove_if(waiting_.begin(), end,
                                [](const Record* r) { return r->state == SeqState::running; }),
                 end);
}

// In with all the blocks of its known tokens, or not at all: a prefill never stalls half-way.
bool Scheduler::Impl::admit(Record& r) {
  const int num_slots = r.forked ? r.num_live : r.num_samples;
  if (int(free_slots_.size()) < num_slots) return false;
  Sequence* carrier = nullptr;
  int need = 0;
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    need += blocks_for(s.num_tokens()) - (carrier ? r.shared_blocks : 0);
    if (!carrier) carrier = &s;
  }
  // At least one token is computed, or there are no logits to draw from.
  const int limit = use_cache(r) ? (carrier->num_tokens() - 1) / block_size_ : 0;
  extend_hashes(*carrier, limit);
  const auto hashes = std::span(carrier->hashes).first(size_t(limit));
  const BlockPool::Match cached = pool_.probe(hashes, carrier->tokens);
  const int all = reserved(r) ? total_need(r) : need;
  const int taken = all - cached.held;  // from what is available, cached blocks included
  if (pool_.num_available() - taken < (num_running_ > 0 ? watermark_ : 0)) return false;

  CHECK(pool_.match(hashes, carrier->tokens, carrier->blocks) == cached.blocks);
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    if (&s != carrier) {
      const auto shared = std::span(carrier->blocks).first(size_t(r.shared_blocks));
      pool_.retain(shared);
      s.blocks.assign(shared.begin(), shared.end());
    }
    CHECK(pool_.allocate(blocks_for(s.num_tokens()) - int(s.blocks.size()), s.blocks));
  }
  CHECK(pool_.allocate(all - need, r.spare));
  enter(r, cached.blocks);
  return true;
}

void Scheduler::Impl::enter(Record& r, int num_cached_blocks) {
  bool carrier = true;
  for (Sequence& s : r.seqs) {
    if (s.ended) continue;
    s.num_scheduled = s.num_computed = s.num_cached = carrier ? num_cached_blocks * block_size_ : 0;
    carrier = false;
  }
  for (Record::Sample& sample : r.samples) {
    if (r.forked && sample.done) continue;
    sample.slot = free_slots_.back();
    free_slots_.pop_back();
  }
  for (Sequence& s : r.seqs) {
    if (!s.ended) s.seq_slot = r.samples[s.sample].slot;
  }
  if (!r.admitted_once && use_cache(r)) {
    counters_.prompt_tokens += r.seqs[0].num_prompt;
    counters_.cached_tokens += r.seqs[0].num_cached;
    r.num_cached = r.seqs[0].num_cached;
  }
  r.admitted_once = true;
  r.state = SeqState::running;
  r.num_overtaken = 0;
  --num_waiting_;
  ++num_running_;
  waiting_tokens_ -= r.seqs[0].num_prompt;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &r,
                                   [&](auto* a, auto* b) { return before(*a, *b); }),
                  &r);
}

}  // namespace sluice
