#include <algorithm>

#include "scheduler/scheduler_impl.h"

namespace sluice {
namespace {

// Lists of one or two, most of them: a plain loop is a third of std::find.
bool contains(const std::vector<TokenId>& set, TokenId token) {
  for (const TokenId t : set) {
    if (t == token) return true;
  }
  return false;
}

}  // namespace

void Scheduler::Impl::commit(const StepResult& result, Instant now,
                             std::vector<TokenEvent>& events) {
  CHECK(in_flight() > 0 && result.id == committed_ + 1);
  committed_ = result.id;
  now_ = std::max(now_, now);
  Flight& f = flight(committed_);
  CHECK(result.first.size() == f.rows.size() + 1);
  const Shares shares = learn(f, to_seconds(result.device_time));
  const bool charges = shares.scale > 0 && policy_.order == Policy::Order::mlfq;
  if (policy_.prefix_caching) prepare_publish(f);
  auto filling = f.filling.begin();
  for (size_t i = 0; i < f.rows.size(); ++i) {
    prefetch_flight(f, i);
    const bool fills = filling != f.filling.end() && *filling == i;
    filling += fills;
    if (charges) charge_row(f, i, shares);
    Sequence& s = sequence_of(f, i);
    if (s.ended) continue;
    if (fills && policy_.prefix_caching)
      publish(s, f.rows[i].begin, f.rows[i].begin + f.rows[i].count);
    commit_row(*f.owners[i], s, f.rows[i], result, i, events);
  }
  pool_.release(f.freed);
  num_coming_ -= f.num_coming;
  f.num_coming = 0;
  sweep();
}

// A step's time goes to the cost model, and to the requests in it by their own shares: a decode
// beside a long prefill does not pay for the prefill.
Scheduler::Impl::Shares Scheduler::Impl::learn(const Flight& f, double seconds) {
  if (f.rows.empty() || seconds <= 0) return {};
  const Shares shares{seconds / cost_.seconds(f.work),
                      cost_.cost().constant / double(f.rows.size())};
  cost_.observe(f.work, seconds);
  if (f.work.decode_rows > 0) rows_average_ += 0.05 * (double(f.rows.size()) - rows_average_);
  if (policy_.quantum <= 0) {
    const StepCost& c = cost_.cost();
    quantum_ = c.constant / rows_average_ + c.per_decode_row;
  }
  return shares;
}

void Scheduler::Impl::charge_row(const Flight& f, size_t i, const Shares& shares) {
  if (f.owners[i]->retired) return;
  StepWork own;
  own.add(f.rows[i].begin, f.rows[i].count, f.rows[i].is_decode());
  charge(*f.owners[i], shares.scale * (shares.constant + cost_.marginal(own)));
}

void Scheduler::Impl::prefetch_flight(const Flight& f, size_t i) const {
  if (i + 16 < f.rows.size()) {
    __builtin_prefetch(f.rows[i + 16].seq, 1);
    __builtin_prefetch(f.owners[i + 16], 1);
    __builtin_prefetch(&f.owners[i + 16]->service, 1);
  }
  if (i + 8 < f.rows.size()) {
    const std::vector<TokenId>& tokens = f.rows[i + 8].seq->tokens;
    __builtin_prefetch(tokens.data() + tokens.size(), 1);
  }
}

// The places of the hash index are far apart: hash first, fetch, and publish in the pass after.
void Scheduler::Impl::prepare_publish(const Flight& f) {
  for (size_t i : f.filling) {
    if (f.rows[i].seq->ended) continue;
    Sequence& s = sequence_of(f, i);
    const int full = (f.rows[i].begin + f.rows[i].count) / block_size_;
    extend_hashes(s, full);
    pool_.prefetch(s.tables[0].block(full - 1), s.hashes[full - 1]);
  }
}

void Scheduler::Impl::commit_row(Record& r, Sequence& s, const StepRow& row,
                                 const StepResult& result, size_t i,
                                 std::vector<TokenEvent>& events) {
  const int end = row.begin + row.count;
  s.num_computed = end;
  give_back_unseen(r, s);
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
      for (const BlockTable& t : tables(r.seqs[0])) pool_.retain(t.blocks);
    }
    carrier = false;
    r.seqs.back().sample = uint16_t(i);
    r.seqs.back().seq_slot = r.samples[i].slot;
  }
}

inline FinishReason Scheduler::Impl::finish_reason(const Record& r, const Sequence& s) const {
  const SamplingParams& sampling = r.request.sampling;
  const int num_output = s.num_tokens() - s.num_prompt;
  const TokenId token = s.tokens.back();
  if (num_output > sampling.min_tokens &&
      ((!sampling.ignore_eos && contains(eos_, token)) || contains(sampling.stop_tokens, token)))
    return FinishReason::stop;
  return num_output >= sampling.max_tokens ? FinishReason::length : FinishReason::none;
}

void Scheduler::Impl::accept(Record& r, Sequence& s, const StepResult& result, int draw,
                             std::vector<TokenEvent>& events) {
  s.tokens.push_back(result.tokens[draw]);
  ++counters_.generated_tokens;
  preempted_since_token_ = 0;
  ++r.tenant->tokens;
  TokenEvent& e = events.emplace_back();
  e.request = s.id;
  e.sample = s.sample;
  e.token = result.tokens[draw];
  e.logprob = result.logprobs[draw];
  e.finish = finish_reason(r, s);
  if (r.request.sampling.top_logprobs > 0 && !result.top.empty())
    e.add_details().top = result.top[draw];
  if (!r.first_event_sent) {
    r.first_event_sent = true;
    r.trace->first_token = now_;
    r.trace->note(now_, RequestTrace::Kind::first_token, 0);
    e.num_cached = r.num_cached;
    if (!r.prompt_logprobs.empty()) e.add_details().prompt_logprobs = std::move(r.prompt_logprobs);
  }
  if (e.finish == FinishReason::none) return;
  if (r.num_live == 1) e.add_details().trace = close_trace(r);
  keep_session(r, s);
  end_sample(r, s.sample);
}

int Scheduler::Impl::num_output(const Record& r) const {
  int tokens = 0;
  for (const Sequence& s : r.seqs) tokens += s.num_tokens() - s.num_prompt;
  return tokens;
}

std::shared_ptr<const RequestTrace> Scheduler::Impl::close_trace(Record& r) {
  r.trace->ended = now_;
  r.trace->output_tokens = num_output(r);
  r.trace->note(now_, RequestTrace::Kind::ended, r.trace->output_tokens);
  return r.trace;
}

// Blocks that became full in tokens [begin, end).
void Scheduler::Impl::publish(Sequence& s, int begin, int end) {
  const int full = end / block_size_;
  extend_hashes(s, full);
  const bool behind = host_ != nullptr && policy_.write_behind;
  for (int i = begin / block_size_; i < full; ++i) {
    const auto tokens = std::span(s.tokens).subspan(size_t(i) * block_size_, size_t(block_size_));
    int kind = 0;
    for (const BlockTable& t : tables(s)) {
      for (int k = 0; k < t.width; ++k, ++kind) {
        if (i < t.first) continue;
        const BlockId block = t.block(i, k);
        const bool known = !pool_.published(block).empty();
        pool_.publish(block, s.hashes[i].of_kind(kind), tokens);
        if (!behind || known) continue;
        pool_.retain(std::span(&block, 1));
        behind_.push_back(block);
      }
    }
  }
}

// The next turn goes on where this one ended: with its last, partial block, and its random state.
void Scheduler::Impl::keep_session(Record& r, Sequence& s) {
  if (r.request.session == 0 || r.num_samples > 1 || !use_cache(r)) return;
  const int end = s.num_computed, over = end % block_size_;
  if (over > 0) {
    extend_hashes(s, end / block_size_);
    const BlockHash hash = session_hash(r, s, end);
    const auto tokens = std::span(s.tokens).subspan(size_t(end - over), size_t(over));
    int kind = 0;
    for (const BlockTable& t : tables(s)) {
      for (int k = 0; k < t.width; ++k)
        pool_.publish(t.block(end / block_size_, k), hash.of_kind(kind++), tokens);
    }
  }
  if (sessions_.size() >= kMaxSessions) forget_sessions();
  sessions_[r.request.session] = {end, r.request.sampling.seed, arrivals_};
}

// The eighth that was used longest ago, at once: looking for one at a time would cost every turn.
void Scheduler::Impl::forget_sessions() {
  std::vector<uint64_t> used;
  for (const auto& [id, session] : sessions_) used.push_back(session.used);
  const auto cut = used.begin() + ptrdiff_t(used.size() / 8);
  std::nth_element(used.begin(), cut, used.end());
  absl::erase_if(sessions_, [&](const auto& s) { return s.second.used <= *cut; });
}

// Of the partial block that tokens [.., end) end in: no other session finds it.
BlockHash Scheduler::Impl::session_hash(const Record& r, const Sequence& s, int end) const {
  const int full = end / block_size_;
  BlockHash parent = full > 0 ? s.hashes[full - 1] : pool_.hasher().root(r.request.cache_salt);
  parent.hi ^= r.request.session;
  return pool_.hasher().chain(
      parent, std::span(s.tokens).subspan(size_t(full * block_size_), size_t(end % block_size_)));
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
    const int shared = std::min(s->num_computed, r.shared_stretches * block_size_);
    const auto next = std::find_if(r.seqs.begin(), r.seqs.end(), live);
    if (next > s && next != r.seqs.end() && next->num_scheduled < shared) {
      next->num_scheduled = next->num_computed = shared;
    }
    release_tables(r, *s);
    release_slot(r.samples[sample]);
    trim_spare(r);
  } else if (r.num_live == 0) {
    r.seqs[0].ended = true;
    release_tables(r, r.seqs[0]);
    for (Record::Sample& other : r.samples) release_slot(other);
  } else {
    trim_spare(r);
  }
  if (r.num_live == 0) retire(r);
}

void Scheduler::Impl::retire(Record& r) {
  pool_.release(r.spare);
  count_level(r, -1);
  if (r.resident()) {
    --num_running_;
    if (r.state == SeqState::arriving) std::erase(arriving_, &r);
    if (r.refiled) std::erase(refiled_, &r);
    std::erase(unfinished_, &r);
  } else {
    unfile(r);
    if (r.state == SeqState::swapped) {
      --num_swapped_;
    } else {
      --num_waiting_;
      waiting_tokens_ -= r.seqs[0].num_prompt;
    }
  }
  active_tenants_ -= --r.tenant->live == 0;
  num_paced_ -= r.request.token_interval.count() > 0;
  r.retired = true;
  swept_ = false;
  const auto it = live_.find(r.id);
  ended_.push_back(std::move(it->second));
  live_.erase(it);
}

// Rows in flight, and the lists until here, may name a request that has ended.
void Scheduler::Impl::sweep() {
  if (!swept_) {
    std::erase_if(running_, [](const Filed& f) { return f.record->retired; });
    swept_ = true;
  }
  std::erase_if(ended_, [&](const auto& r) { return r->last_plan <= committed_; });
}

}  // namespace sluice
