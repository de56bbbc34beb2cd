#include <algorithm>

#include "scheduler/scheduler_impl.h"

namespace sluice {

void Scheduler::Impl::commit(const StepResult& result, std::vector<TokenEvent>& events) {
  CHECK(in_flight() > 0 && result.id == committed_ + 1);
  committed_ = result.id;
  Flight& f = flight(committed_);
  CHECK(result.first.size() == f.rows.size() + 1);
  if (policy_.prefix_caching) prepare_publish(f);
  auto full = full_rows_.begin();
  for (size_t i = 0; i < f.rows.size(); ++i) {
    prefetch_flight(f, i);
    const bool fills = full != full_rows_.end() && *full == i;
    full += fills;
    if (f.rows[i].seq->ended) continue;
    if (fills) publish(sequence_of(f, i), f.rows[i].begin, f.rows[i].begin + f.rows[i].count);
    commit_row(*f.owners[i], f.rows[i], result, i, events);
  }
  pool_.release(f.freed);
  num_coming_ -= f.num_coming;
  f.num_coming = 0;
  sweep();
}

void Scheduler::Impl::prefetch_flight(const Flight& f, size_t i) const {
  if (i + 8 >= f.rows.size()) return;
  __builtin_prefetch(f.owners[i + 8]);
  __builtin_prefetch(&f.owners[i + 8]->request.sampling.max_tokens);
  const std::vector<TokenId>& tokens = f.rows[i + 8].seq->tokens;
  __builtin_prefetch(tokens.data() + tokens.size(), 1);
}

// The places of the hash index are far apart: hash first, fetch, and publish in the pass after.
void Scheduler::Impl::prepare_publish(const Flight& f) {
  full_rows_.clear();
  for (size_t i = 0; i < f.rows.size(); ++i) {
    if (i + 16 < f.rows.size()) __builtin_prefetch(f.rows[i + 16].seq);
    const StepRow& row = f.rows[i];
    const int end = row.begin + row.count, over = end % block_size_;
    if (over >= row.count || row.seq->ended) continue;
    full_rows_.push_back(i);
    Sequence& s = sequence_of(f, i);
    extend_hashes(s, end / block_size_);
    const int last = end / block_size_ - 1;
    pool_.prefetch(s.blocks[last], s.hashes[last]);
  }
}

void Scheduler::Impl::commit_row(Record& r, const StepRow& row, const StepResult& result, size_t i,
                                 std::vector<TokenEvent>& events) {
  Sequence& s = r.seqs[size_t(row.seq - r.seqs.data())];
  const int end = row.begin + row.count;
  s.num_computed = end;
  if (r.request.sampling.prompt_logprobs >= 0) {
    const int until = std::min(end, s.num_prompt - 1);
    if (r.num_reported < until) {
      const std::vector<TokenLogprob>& prompt = result.prompt[i];
      r.prompt_logprobs.insert(r.prompt_logprobs.end(), prompt.begin(), prompt.end());
      r.num_reported = until;
    }
  }
  const int first = result.first[i], num_draws = result.first[i + 1] - first;
  CHECK(num_draws == row.num_samples);
  if (num_draws == 0) return;
  if (r.forked) {
    accept(r, s, result, first, events);
    return;
  }
  fork(r);
  for (size_t k = 0; k < r.seqs.size(); ++k) {
    accept(r, r.seqs[k], result, first + r.seqs[k].sample, events);
  }
}

// The prompt is computed: every live sample gets a sequence of its own, on the same blocks.
void Scheduler::Impl::fork(Record& r) {
  r.forked = true;
  bool carrier = true;
  for (int i = 0; i < r.num_samples; ++i) {
    if (r.samples[i].done) {
      release_slot(r.samples[i]);
      continue;
    }
    if (!carrier) {
      r.seqs.push_back(r.seqs[0]);
      pool_.retain(r.seqs[0].blocks);
    }
    carrier = false;
    r.seqs.back().sample = uint16_t(i);
    r.seqs.back().seq_slot = r.samples[i].slot;
  }
}

void Scheduler::Impl::accept(Record& r, Sequence& s, const StepResult& result, int draw,
                             std::vector<TokenEvent>& events) {
  s.tokens.push_back(result.tokens[draw]);
  ++counters_.generated_tokens;
  TokenEvent& e = events.emplace_back();
  e.request = r.id;
  e.sample = s.sample;
  e.token = result.tokens[draw];
  e.logprob = result.logprobs[draw];
  e.finish = finish_reason(r, s);
  if (r.request.sampling.top_logprobs > 0 && !result.top.empty()) e.top = result.top[draw];
  if (!r.first_event_sent) {
    r.first_event_sent = true;
    e.num_cached = r.num_cached;
    e.prompt_logprobs = std::move(r.prompt_logprobs);
  }
  if (e.finish != FinishReason::none) end_sample(r, s.sample);
}

FinishReason Scheduler::Impl::finish_reason(const Record& r, const Sequence& s) const {
  const SamplingParams& sampling = r.request.sampling;
  const int num_output = s.num_tokens() - s.num_prompt;
  const TokenId token = s.tokens.back();
  if (num_output > sampling.min_tokens) {
    const auto has = [token](const std::vector<TokenId>& set) {
      return std::find(set.begin(), set.end(), token) != set.end();
    };
    if ((!sampling.ignore_eos && has(eos_)) || has(sampling.stop_tokens)) return FinishReason::stop;
  }
  return num_output >= sampling.max_tokens ? FinishReason::length : FinishReason::none;
}

// Blocks that became full in tokens [begin, end).
void Scheduler::Impl::publish(Sequence& s, int begin, int end) {
  const int full = end / block_size_;
  extend_hashes(s, full);
  for (int i = begin / block_size_; i < full; ++i) {
    pool_.publish(s.blocks[i], s.hashes[i],
                  std::span(s.tokens).subspan(size_t(i) * block_size_, size_t(block_size_)));
  }
}

void Scheduler::Impl::end_sample(Record& r, int sample) {
  r.samples[sample].done = true;
  --r.num_live;
  if (r.forked) {
    const auto s = std::find_if(r.seqs.begin(), r.seqs.end(),
                                [&](const Sequence& t) { return t.sample == sample; });
    s->ended = true;
    // The next one goes on with the prompt where this one stands, if it was computing it for all.
    const auto live = [](const Sequence& t) { return !t.ended; };
    const int shared = std::min(s->num_computed, r.shared_blocks * block_size_);
    const auto next = std::find_if(r.seqs.begin(), r.seqs.end(), live);
    if (next > s && next != r.seqs.end() && next->num_scheduled < shared) {
      next->num_scheduled = next->num_computed = shared;
    }
    release(r, s->blocks);
    release_slot(r.samples[sample]);
    trim_spare(r);
  } else if (r.num_live == 0) {
    r.seqs[0].ended = true;
    release(r, r.seqs[0].blocks);
    for (Record::Sample& other : r.samples) release_slot(other);
  } else {
    trim_spare(r);
  }
  if (r.num_live == 0) retire(r);
}

void Scheduler::Impl::retire(Record& r) {
  pool_.release(r.spare);
  if (r.state == SeqState::running) {
    --num_running_;
  } else {
    --num_waiting_;
    waiting_tokens_ -= r.seqs[0].num_prompt;
  }
  r.retired = true;
  swept_ = false;
  const auto it = live_.find(r.id);
  ended_.push_back(std::move(it->second));
  live_.erase(it);
}

// Rows in flight, and the lists until here, may name a request that has ended.
void Scheduler::Impl::sweep() {
  if (!swept_) {
    std::erase_if(running_, [](const Record* r) { return r->retired; });
    std::erase_if(waiting_, [](const Record* r) { return r->retired; });
    swept_ = true;
  }
  std::erase_if(ended_, [&](const auto& r) { return r->last_plan <= committed_; });
}

// What must hold between any two calls; linear in everything.
void Scheduler::Impl::check_invariants() const {
  pool_.check_invariants();
  std::vector<int> refs(size_t(pool_.num_blocks()));
  const auto count = [&](const std::vector<BlockId>& blocks) {
    for (BlockId b : blocks) ++refs[b];
  };
  std::vector<char> slots(size_t(policy_.max_seqs));
  int waiting = 0, running = 0;
  int64_t waiting_tokens = 0;
  for (const auto& [id, owned] : live_) {
    const Record& r = *owned;
    const bool in = r.state == SeqState::running;
    CHECK(r.id == id && !r.retired && r.num_live > 0);
    CHECK(r.num_preempted <= policy_.max_preemptions);
    CHECK(r.num_overtaken <= policy_.max_overtakes);
    CHECK(in || r.spare.empty());
    CHECK(!in || !reserved(r) || int(r.spare.size()) + num_coming_ >= remaining_need(r));
    count(r.spare);
    (in ? running : waiting) += 1;
    if (!in) waiting_tokens += r.seqs[0].num_prompt;
    for (const Record::Sample& sample : r.samples) {
      CHECK((sample.slot >= 0) == (in && (!r.forked || !sample.done)));
      if (sample.slot >= 0) CHECK(slots[sample.slot]++ == 0);
    }
    for (const Sequence& s : r.seqs) {
      count(s.blocks);
      CHECK(s.num_computed <= s.num_scheduled && s.num_computed <= s.num_tokens());
      if (s.ended) CHECK(s.blocks.empty());
      if (s.ended) continue;
      CHECK(in || (s.blocks.empty() && s.num_scheduled == 0));
      CHECK(int(s.blocks.size()) * block_size_ >= s.num_scheduled);
      CHECK(int(s.blocks.size()) <= std::max(r.final_blocks, blocks_for(s.num_tokens())));
      CHECK(s.seq_slot == r.samples[s.sample].slot);
    }
  }
  for (int slot : free_slots_) CHECK(slots[slot]++ == 0);
  CHECK(std::count(slots.begin(), slots.end(), 1) == policy_.max_seqs);
  CHECK(waiting == num_waiting_ && running == num_running_ && waiting_tokens == waiting_tokens_);
  int coming = 0;
  for (const Flight& f : flights_) {
    count(f.freed);
    coming += f.num_coming;
  }
  CHECK(coming == num_coming_);
  for (size_t b = 0; b < refs.size(); ++b) CHECK(refs[b] == pool_.refs(BlockId(b)));
  const auto sorted = [&](auto& list) {
    return std::is_sorted(list.begin(), list.end(),
                          [&](auto* a, auto* b) { return before(*a, *b); });
  };
  CHECK(sorted(running_) && sorted(waiting_));
}

}  // namespace sluice
