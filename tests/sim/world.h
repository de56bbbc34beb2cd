#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "scheduler/scheduler.h"
#include "tests/sim/ledger.h"
#include "tests/sim/world_draws.h"

// Random worlds against the ledger. A world draws a policy, a pool, a runner and traffic from its
// seed; every finished output must equal the request run alone, whatever the schedule was, and what
// the scheduler promises of memory, order and waiting must hold at every step.
namespace sluice {

// What the worlds of one test went through: a property that never came up was not tested.
struct Coverage {
  int64_t requests = 0, refused = 0, overloaded = 0, steps = 0, tokens = 0, preemptions = 0;
  int64_t cached_tokens = 0, forks = 0, copies = 0, mid_prefill_cancels = 0, sample_cancels = 0;
  int64_t deadlines = 0, overtakes = 0, restarts_at_bound = 0, prompt_logprobs = 0, discarded = 0;
  int64_t swaps = 0, blocks_in = 0, proactive = 0, demotions = 0, promotions = 0;
  int64_t written_behind = 0, host_cached = 0, session_tails = 0, oldest = 0, orca = 0;
  int64_t storms = 0, starved = 0, given_back = 0, windowed_given_back = 0, windowed_cached = 0;
  int64_t following = 0, giants = 0;
};

struct Sent {
  GenerateRequest r;
  std::vector<std::vector<TokenId>> out;
  std::vector<FinishReason> finish;
  std::vector<int> computed, restarts;  // by sample: end of its last row, times it began anew
  bool first_event = false, entered = false, cancelled = false;
  int overtaken = 0;
  int iterations = 0;
};

class World : WorldDraws {
 public:
  World(uint64_t seed, int depth, Coverage& coverage, const std::optional<Policy>& choices = {})
      : WorldDraws(seed * 31 + uint64_t(depth), choices), depth_(depth), c_(coverage) {
    pool_.emplace(draw_groups(seed), block_size_);
    if (rnd(0, 2) > 0) host_.emplace(rnd(1, 3 * pool_->num_blocks()), block_size_, pool_->hasher());
    scheduler_.emplace(policy_, CostModel(draw_cost()), *pool_, host_ ? &*host_ : nullptr, depth,
                       std::vector<TokenId>{kWorldEos}, max_len_, groups_);
    LedgerOptions o;
    o.num_host_blocks = host_ ? host_->num_blocks() : 0;
    o.copy_delay = rnd(0, 1) ? rnd(0, 6) : 0;
    o.block_size = block_size_;
    o.num_blocks = pool_->num_blocks();
    o.num_slots = policy_.max_seqs;
    o.depth = depth;
    o.groups = groups_;
    o.vocab = kVocab;
    o.eos_tokens = {kWorldEos};
    o.seed = seed;
    runner_.emplace(o);
  }

  void run() {
    int left = 40, stuck = 0;
    const int rate = rnd(0, 6);
    cancels_ = rnd(0, 2) ? rnd(5, 60) : 0;
    storms_ = rnd(0, 2) ? 0 : rnd(20, 80);
    while (left > 0 || !scheduler_->idle()) {
      while (left > 0 && rnd(0, rate) == 0) {
        --left;
        submit();
      }
      while (runner_->in_flight() < depth_) {
        if (cancels_ && last_id_ && rnd(0, cancels_) == 0) cancel();
        StepPlan plan = scheduler_->schedule(now_, runner_->copies(), events_);
        scheduler_->check_invariants();
        take_events();
        ASSERT_EQ(scheduler_->stats().livelocks, 0) << describe();
        if (plan.empty()) break;
        check_plan(plan);
        runner_->launch(plan);
        ++c_.steps;
        stuck = 0;
        if (rnd(0, 3) == 0) break;
      }
      stuck = runner_->copies_under_way() > 0 ? 0 : stuck + 1;
      ASSERT_LT(stuck, 200) << "no rows, and not idle: " << describe();
      now_ += std::chrono::microseconds(rnd(1, 2000));
      if (runner_->in_flight() > 0) commit();
      if (storms_ && rnd(0, storms_) == 0) storm();
      if (::testing::Test::HasFailure()) return;
    }
    finish();
  }

 private:
  std::string describe() const {
    std::string out = fmt::format(
        "order {} step {} reservation {} budget {} pressure {} proactive {} seqs {} rows {} tokens "
        "{} blocks {} of {} host {} copies under way {};",
        int(policy_.order), int(policy_.step), int(policy_.reservation), int(policy_.budget),
        int(policy_.pressure), policy_.proactive, policy_.max_seqs, policy_.max_rows,
        policy_.max_step_tokens, pool_->num_blocks(), block_size_, host_ ? host_->num_blocks() : 0,
        runner_->copies_under_way());
    for (const RequestInfo& i : scheduler_->list(now_)) {
      out += fmt::format(" request {} state {} n {} prompt {} output {} level {} priority {};",
                         i.id, int(i.state), i.num_samples, i.trace.prompt_tokens,
                         i.trace.output_tokens, i.trace.level, i.priority);
    }
    return out + fmt::format(" free {}", pool_->num_available());
  }
  // Blocks for what draw_blocks() counts in all layers; or, where windowed layers are counted on to
  // give back, for no more than one request holds.
  int draw_groups(uint64_t seed) {
    const int blocks = draw_blocks(), reach = 2 + int(seed / 3 % 40);
    if (seed % 3 == 0) groups_ = {{1, reach}};
    if (seed % 3 != 1) return blocks;
    const bool small = seed % 2 == 0 && !whole_;
    groups_ = {{1 + int(seed / 3 % 2), 0}, {1 + int(seed / 5 % 3), small ? 2 + reach % 9 : reach}};
    if (small) policy_.max_step_tokens = 1 + int(seed / 6 % 8);
    const int full = groups_[0].width, windowed = groups_[1].width;
    tables_ = full + windowed;
    if (!small || most_samples_ > 1 || policy_.sets_all_aside()) return blocks * tables_;
    const int held =
        window_stretches(groups_[1].reach, depth_ * policy_.max_step_tokens, block_size_);
    return blocks * full + std::min(blocks, held) * windowed;
  }
  bool fits_set_aside(const GenerateRequest& q) const {
    const int tokens = int(q.prompt.size()) + q.sampling.max_tokens - 1;
    return (tokens + block_size_ - 1) / block_size_ * tables_ <= pool_->num_blocks();
  }
  void submit() {
    GenerateRequest q = draw_request(now_);
    const RequestId id = ++last_id_;
    const int flaw = rnd(0, 40);
    if (flaw == 0) q.sampling.max_tokens = max_len_ - int(q.prompt.size()) + 1;
    if (flaw == 1) q.num_samples = policy_.max_seqs + 1;
    if (flaw == 2) q.prompt.clear();
    const auto before = scheduler_->stats();
    const absl::Status status = scheduler_->add(id, q, now_);
    scheduler_->check_invariants();
    if (flaw <= 2) {
      ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      ++c_.refused;
      return;
    }
    const bool full =
        before.waiting >= policy_.max_queue ||
        (policy_.max_queued_tokens && before.waiting &&
         before.waiting_tokens + int64_t(q.prompt.size()) > policy_.max_queued_tokens);
    ASSERT_EQ(status.code(), full ? absl::StatusCode::kResourceExhausted : absl::StatusCode::kOk);
    if (full) {
      ++c_.overloaded;
      return;
    }
    ++c_.requests;
    Sent& x = sent_[id];
    const size_t n = size_t(q.num_samples);
    x.out.resize(n), x.finish.resize(n, FinishReason::none), x.computed.resize(n);
    x.restarts.resize(n);
    c_.giants += !fits_set_aside(q) && q.num_samples == 1;
    x.r = std::move(q);
    live_.insert(id);
  }

  void cancel() {
    const RequestId id = RequestId(rnd(1, int(last_id_)));
    const int sample = rnd(0, 1) ? kAllSamples : rnd(0, 3);
    if (live_.count(id) > 0) {
      const Sent& x = sent_[id];
      const bool begun = x.computed[0] > 0, drawn = x.first_event;
      c_.mid_prefill_cancels += sample == kAllSamples && begun && !drawn;
      c_.sample_cancels += sample != kAllSamples && x.out.size() > 1;
    }
    scheduler_->cancel(id, sample);
    scheduler_->check_invariants();
  }

  void take_events() {
    for (const TokenEvent& e : events_) {
      Sent& x = sent_.at(e.request);
      ASSERT_LT(e.sample, x.out.size());
      ASSERT_EQ(x.finish[e.sample], FinishReason::none) << "after the final event";
      x.finish[e.sample] = e.finish;
      ASSERT_TRUE(e.token >= 0 || e.finish == FinishReason::cancelled ||
                  e.finish == FinishReason::deadline);
      c_.deadlines += e.finish == FinishReason::deadline;
      ASSERT_TRUE(e.finish != FinishReason::deadline || x.r.deadline <= now_);
      if (e.token >= 0) {
        take_token(x, e);
      } else {
        x.cancelled = true;
      }
      if (std::count(x.finish.begin(), x.finish.end(), FinishReason::none) == 0) {
        ASSERT_TRUE(e.known().trace != nullptr);
        ASSERT_EQ(e.known().trace->output_tokens, total_tokens(x));
        if (x.r.session != 0 && x.out.size() == 1) {
          talks_[x.r.session] = x.r.prompt;
          talks_[x.r.session].insert(talks_[x.r.session].end(), x.out[0].begin(), x.out[0].end());
        }
        live_.erase(e.request);
      }
    }
    events_.clear();
  }

  void commit() {
    scheduler_->commit(runner_->collect(), now_, events_);
    scheduler_->check_invariants();
    take_events();
  }

  // Everybody goes at once, wherever they are: once the steps in flight have landed nothing is left
  // to compute and nothing is held, but by copies under way until those are done.
  void storm() {
    c_.storms += !live_.empty();
    for (const RequestId id : std::set<RequestId>(live_)) scheduler_->cancel(id);
    while (runner_->in_flight() > 0) commit();
    bool copies = true;
    while (copies) {
      const StepPlan plan = scheduler_->schedule(now_, runner_->copies(), events_);
      copies = !plan.empty() || runner_->copies_under_way() > 0;
      take_events();
      ASSERT_TRUE(plan.rows.empty() && live_.empty() && (host_ || plan.empty()));
      if (!plan.empty()) runner_->launch(plan), commit();
    }
    const auto stats = scheduler_->stats();
    ASSERT_EQ(stats.waiting + stats.running + stats.swapped, 0);
    ASSERT_EQ(stats.used_blocks + stats.used_host_blocks, 0);
  }

  static int total_tokens(const Sent& x) {
    int n = 0;
    for (const auto& out : x.out) n += int(out.size());
    return n;
  }

  void take_token(Sent& x, const TokenEvent& e) {
    x.out[e.sample].push_back(e.token);
    ++c_.tokens;
    ASSERT_EQ(int(e.known().top.size()), x.r.sampling.top_logprobs);
    const bool caches = policy_.prefix_caching && x.r.sampling.prompt_logprobs < 0;
    ASSERT_LT(e.num_cached, int(x.r.prompt.size()));
    ASSERT_TRUE(e.num_cached % block_size_ == 0 || x.r.session != 0);
    c_.session_tails += e.num_cached % block_size_ != 0;
    ASSERT_TRUE(e.num_cached == 0 || (caches && !x.first_event));
    c_.cached_tokens += e.num_cached;
    if (x.r.sampling.prompt_logprobs < 0 || x.first_event) {
      ASSERT_TRUE(e.known().prompt_logprobs.empty());
    } else {
      check_prompt_logprobs(x, e);
    }
    x.first_event = true;
  }

  void check_prompt_logprobs(const Sent& x, const TokenEvent& e) {
    const int k = x.r.sampling.prompt_logprobs;
    ASSERT_EQ(e.known().prompt_logprobs.size(), (x.r.prompt.size() - 1) * size_t(1 + k));
    uint64_t h = 0;
    for (size_t i = 0; i + 1 < x.r.prompt.size(); ++i) {
      h = ledger_extend(h, x.r.prompt[i]);
      const TokenLogprob& own = e.known().prompt_logprobs[i * size_t(1 + k)];
      ASSERT_EQ(own.token, x.r.prompt[i + 1]);
      ASSERT_EQ(own.logprob, ledger_logprob(h, own.token));
    }
    ++c_.prompt_logprobs;
  }

  void check_plan(const StepPlan& plan) {
    int tokens = 0;
    bool chunk_seen = false;
    std::set<const Sequence*> once;
    std::set<RequestId> in;
    for (const StepRow& row : plan.rows) {
      const Sequence& s = *row.seq;
      Sent& x = sent_.at(s.id);
      if (x.out.size() == 1) check_reach(s);
      tokens += row.count;
      const bool goes_on = row.begin >= s.num_prompt && row.begin + 1 >= s.num_tokens() &&
                           row.begin == x.computed[s.sample];
      ASSERT_FALSE(goes_on && chunk_seen) << "a decode after a chunk";
      chunk_seen |= row.begin < s.num_prompt;
      ASSERT_TRUE(!whole_ || row.begin + row.count >= s.num_tokens()) << "a prompt was cut";
      ASSERT_TRUE(once.insert(&s).second);
      ASSERT_EQ(live_.count(s.id), 1u) << "launched for what has ended";
      if (x.computed.size() == 1 || row.num_samples <= 1) {
        ASSERT_TRUE(x.first_event == false || x.finish[s.sample] == FinishReason::none);
      }
      c_.forks += row.num_samples > 1;
      note_restart(x, row);
      x.iterations += in.insert(s.id).second;
    }
    c_.copies += int64_t(plan.fork_copies.size());
    ASSERT_EQ(tokens, plan.num_tokens);
    ASSERT_LE(tokens, policy_.max_step_tokens);
    ASSERT_LE(int(plan.rows.size()), policy_.max_rows > 0 ? policy_.max_rows : policy_.max_seqs);
    ASSERT_TRUE(host_ || plan.swap_in.size() + plan.swap_out.size() == 0);
    if (fcfs_) check_waiting(in);
    check_starving(in);
    check_oldest(in);
    if (policy_.order == Policy::Order::fcfs_strict && policy_.step == Policy::Step::whole &&
        policy_.reservation == Policy::Reservation::full && fcfs_) {
      check_orca();
    }
  }

  // Once a step has landed since it came in it holds no block that nobody will read.
  void check_reach(const Sequence& s) {
    for (size_t g = 0; g < groups_.size(); ++g) {
      const int reach = groups_[g].reach, first = s.tables[g].first;
      const int unseen = reach > 0 ? std::max(s.num_computed - reach + 1, 0) : 0;
      ASSERT_LE(first, unseen / block_size_);
      if (s.num_computed > s.num_cached) {
        ASSERT_EQ(first, unseen / block_size_);
      }
      (g > 0 ? c_.windowed_given_back : c_.given_back) += first;
      c_.following += g > 0 && s.tables[g].end() < s.end_block();
      c_.windowed_cached += g > 0 && first > 0 && s.num_computed == s.num_cached;
    }
  }

  void note_restart(Sent& x, const StepRow& row) {
    int& computed = x.computed[row.seq->sample];
    if (row.begin < computed) {
      const int restarts = ++x.restarts[row.seq->sample];
      ASSERT_TRUE(restarts <= policy_.max_preemptions || !fits_set_aside(x.r));
      c_.restarts_at_bound += restarts == policy_.max_preemptions;
    }
    computed = row.begin + row.count;
  }

  // Nobody is overtaken more than max_overtakes times before it first comes in.
  void check_waiting(const std::set<RequestId>& in) {
    for (RequestId id : in) {
      Sent& x = sent_.at(id);
      if (x.entered) continue;
      x.entered = true;
      for (RequestId o : live_) {
        if (o >= id) break;
        if (sent_[o].entered || in.count(o) > 0) continue;
        RequestInfo info;  // one that came in once, and may be on its way still, is not overtaken
        if (scheduler_->find(o, now_, info) && info.trace.admitted != kNever) continue;
        ++c_.overtakes;
        ASSERT_LE(++sent_[o].overtaken, policy_.max_overtakes) << o << " by " << id << describe();
      }
    }
  }

  // MLFQ bounds waiting by time: before whoever waited past its bound nobody comes in who has not.
  void check_starving(const std::set<RequestId>& in) {
    if (policy_.order != Policy::Order::mlfq || priorities_ || policy_.tenant_weights.size() > 1)
      return;
    std::vector<Instant> starving;  // since when
    RequestInfo info;
    for (RequestId id : live_) {
      if (sent_[id].entered || in.count(id) > 0 || !scheduler_->find(id, now_, info)) continue;
      if (info.trace.admitted == kNever && info.trace.promotions > 0)
        starving.push_back(promoted(info.trace));
    }
    c_.starved += int64_t(starving.size());
    for (RequestId id : in) {
      if (std::exchange(sent_.at(id).entered, true) || !scheduler_->find(id, now_, info)) continue;
      for (Instant since : starving) {
        ASSERT_TRUE(info.trace.promotions > 0 || info.trace.admitted < since) << id << describe();
      }
    }
  }
  static Instant promoted(const RequestTrace& trace) {
    for (const RequestTrace::Event& e : trace.events) {
      if (e.kind == RequestTrace::Kind::promoted) return e.when;
    }
    return kNever;
  }

  // Orca's invariant: an earlier arrival never has fewer iterations than a later one. But one that
  // waits for a landing step has (where samples fork), or for its prefix to come from the host.
  void check_orca() {
    if (depth_ > 1 || most_samples_ > 1 || host_) return;
    int least = std::numeric_limits<int>::max();
    for (RequestId id : live_) {
      ASSERT_LE(sent_[id].iterations, least) << "request " << id;
      least = std::min(least, sent_[id].iterations);
      ++c_.orca;
    }
  }

  // Who is first in order advances in every step: nobody may take its memory or its budget. With
  // steps in flight it may wait until a victim has landed, and until the blocks of one that ended
  // meanwhile come back; behind a reservation it may wait for that request's end.
  void check_oldest(const std::set<RequestId>& in) {
    if (policy_.max_preemptions < 1000 || live_.empty() || !fcfs_ || host_) return;
    if (policy_.step != Policy::Step::chunked || policy_.reservation == Policy::Reservation::full)
      return;
    ++c_.oldest;
    const RequestId oldest = *live_.begin();
    if (in.count(oldest) > 0) {
      advancing_ = oldest;
      missed_ = 0;
    } else if (oldest == advancing_) {
      ASSERT_LE(++missed_, 2 * (depth_ - 1)) << "request " << oldest;
    }
  }

  static bool stops(const SamplingParams& p, const std::vector<TokenId>& out) {
    return int(out.size()) > p.min_tokens &&
           ((out.back() == kWorldEos && !p.ignore_eos) ||
            std::count(p.stop_tokens.begin(), p.stop_tokens.end(), out.back()) > 0);
  }

  void finish() {
    take_events();
    ASSERT_TRUE(live_.empty());
    for (const auto& [id, x] : sent_) {
      for (size_t i = 0; i < x.out.size(); ++i) {
        const auto want =
            ledger_alone(x.r.prompt, x.r.sampling, int(i), std::vector<TokenId>{kWorldEos}, kVocab);
        const auto& got = x.out[i];
        ASSERT_NE(x.finish[i], FinishReason::none) << "no final event";
        ASSERT_LE(got.size(), want.size());
        ASSERT_TRUE(std::equal(got.begin(), got.end(), want.begin())) << "request " << id;
        if (x.finish[i] == FinishReason::cancelled || x.finish[i] == FinishReason::deadline) {
          continue;
        }
        ASSERT_EQ(got, want) << "request " << id;
        ASSERT_EQ(x.finish[i] == FinishReason::stop,
                  int(got.size()) < x.r.sampling.max_tokens || stops(x.r.sampling, got));
      }
    }
    const auto stats = scheduler_->stats();
    ASSERT_EQ(pool_->num_available(), pool_->num_blocks()) << "blocks leaked";
    ASSERT_EQ(stats.waiting + stats.running + stats.swapped + stats.used_blocks, 0);
    ASSERT_EQ(stats.used_host_blocks, 0) << "host blocks leaked";
    c_.swaps += stats.swaps, c_.blocks_in += stats.blocks_in, c_.proactive += stats.proactive;
    c_.demotions += stats.demotions, c_.promotions += stats.promotions;
    c_.written_behind += stats.written_behind, c_.host_cached += stats.host_cached_tokens;
    ASSERT_EQ(stats.waiting_tokens, 0);
    c_.preemptions += stats.preemptions;
  }

  const int depth_;
  Coverage& c_;
  std::optional<BlockPool> pool_, host_;
  std::optional<Scheduler> scheduler_;
  std::optional<LedgerRunner> runner_;
  std::map<RequestId, Sent> sent_;
  std::set<RequestId> live_;
  std::vector<TokenEvent> events_;
  Instant now_{};
  RequestId last_id_ = 0, advancing_ = 0;
  int cancels_ = 0, storms_ = 0, missed_ = 0;
  std::vector<KvGroup> groups_ = {KvGroup{}};
  int tables_ = 1;
};

}  // namespace sluice
