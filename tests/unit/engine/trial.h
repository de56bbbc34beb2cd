#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <thread>

#include "config/presets.h"
#include "engine/rank_runner.h"
#include "scheduler/scheduler.h"
#include "tests/unit/engine/copy_gate.h"
#include "tests/unit/engine/tiny_rank.h"
#include "tests/unit/engine/traces.h"

// A scheduler and a runner against a definition: what each request gets alone. One thread computes,
// copies finish when the test says so, and time is what the test holds a step to take: so a
// scenario is a function of its preset and its number.
namespace sluice {

using namespace std::chrono_literals;

inline constexpr int kManyBlocks = 512;
inline constexpr int kMaxRounds = 20000;

struct Scenario {
  Policy policy;
  int block_size = 4;
  int num_blocks = kManyBlocks;
  int num_host_blocks = 0;
  int longest_hold = 0;     // copies finish so many rounds after their step, or fewer
  bool even_holds = false;  // never fewer
  bool at_once = true;      // all requests come in the first round
  bool mixed_priorities = false;
  bool squeezes = false;  // at random, the test holds blocks that the scheduler could have had
  std::optional<DType> kv_dtype;  // else the device's choice
  bool leaves = false;  // at random, requests and single samples are cancelled or have deadlines
  uint64_t seed = 0;
};
inline std::ostream& operator<<(std::ostream& out, const Scenario& s) {
  return out << "step tokens " << s.policy.max_step_tokens << " seqs " << s.policy.max_seqs
             << " pressure " << int(s.policy.pressure) << " caching " << s.policy.prefix_caching
             << " max preemptions " << s.policy.max_preemptions << " blocks " << s.num_blocks
             << " host blocks " << s.num_host_blocks << " hold " << s.longest_hold << " at once "
             << s.at_once << " priorities " << s.mixed_priorities << " squeezes " << s.squeezes
             << " leaves " << s.leaves << " seed " << s.seed;
}

struct Outcome {
  Traces traces;
  std::map<RequestId, std::pair<int, int>> preempted;  // swaps, recomputes
  Scheduler::Stats stats;
  int held_plans = 0;      // with copies that were held up
  int steps_beside = 0;    // computed while copies hung
  int longest_beside = 0;  // steps between the launch of a plan and the end of its copies
  int replayed = 0;        // steps that were not launched kernel by kernel
  int left = 0;            // samples that were cancelled or ran into a deadline
};

inline bool left(const Trace& t) {
  return t.finish == FinishReason::cancelled || t.finish == FinishReason::deadline;
}

// Blocks that nobody else gets.
class Squeeze {
 public:
  Squeeze(BlockPool& pool, std::mt19937_64& rng) : pool_(pool), rng_(rng) {}
  ~Squeeze() { release(); }
  void release() { pool_.release(blocks_); }
  void maybe_change() {
    if (rng_() % 3 != 0) return;
    release();
    const uint64_t most = uint64_t(pool_.num_available());
    // None, some, or all: with nothing left whoever grows takes from somebody.
    const uint64_t n = rng_() % 5 == 0 ? 0 : rng_() % 4 != 0 ? most : rng_() % (most + 1);
    EXPECT_TRUE(pool_.allocate(int(n), blocks_));
  }
  bool holds() const { return !blocks_.empty(); }

 private:
  BlockPool& pool_;
  std::mt19937_64& rng_;
  std::vector<BlockId> blocks_;
};

// A scenario counts blocks of all layers; in a model of two groups of layers they are several each.
inline Scenario for_tables(Scenario s, const Model& model) {
  const int tables = grouping_of(model.kv_shape()).num_tables();
  s.num_blocks *= tables, s.num_host_blocks *= tables;
  return s;
}

class Trial {
 public:
  Trial(Rank& rank, const Scenario& s, const Requests& requests)
      : s_(for_tables(s, *rank.model)),
        rng_(s.seed),
        requests_(requests),
        pool_(s_.num_blocks, s.block_size, BlockHasher(1, 2)),
        host_(std::max(s_.num_host_blocks, 1), s.block_size, pool_.hasher()),
        squeeze_(pool_, rng_),
        runner_(*rank.device, *rank.model,
                {.max_seqs = s.policy.max_seqs,
                 .max_step_tokens = s.policy.max_step_tokens,
                 .max_model_len = rank.model->max_len(),
                 .num_blocks = s_.num_blocks,
                 .num_host_blocks = s_.num_host_blocks,
                 .block_size = s.block_size,
                 .kv_dtype =
                     s.kv_dtype.value_or(rank.device->ops().kv_dtype(rank.model->weight_dtype())),
                 .before_block_copy = [this] { gate_.pass(); }}),
        scheduler_(s.policy, CostModel(StepCost{1e-3, 2e-5, 1e-7, 5e-5, 1e-6, 4e-5}), pool_,
                   s_.num_host_blocks > 0 ? &host_ : nullptr, runner_.depth(),
                   rank.model->config().eos_ids, rank.model->max_len(),
                   runner_.kv().grouping().groups) {
    std::shuffle(requests_.begin(), requests_.end(), rng_);
  }
  ~Trial() { gate_.allow(CopyGate::kAll); }  // also when something has failed

  Outcome go() {
    while (next_ < requests_.size() || !scheduler_.idle()) {
      if (++round_ > kMaxRounds) {
        ADD_FAILURE() << "no end";
        break;
      }
      arrive();
      if (s_.leaves) leave();
      if (s_.squeezes) squeeze_.maybe_change();
      finish_copies();
      step();
    }
    while (!in_flight_.empty()) collect();  // rows of what has ended
    if (!testing::Test::HasFailure()) expect_empty();
    out_.stats = scheduler_.stats();
    return std::move(out_);
  }

 private:
  struct Held {
    uint64_t plan;
    int blocks, until, steps;  // blocks to copy; round; steps made when it was launched
  };

  void arrive() {
    while (next_ < requests_.size() && (s_.at_once || scheduler_.idle() || rng_() % 4 == 0)) {
      auto [id, request] = requests_[next_++];
      if (s_.mixed_priorities) request.priority = int(rng_() % 3) - 1;
      if (s_.leaves && rng_() % 6 == 0) request.deadline = now_ + rng_() % 200 * 1ms;
      const absl::Status added = scheduler_.add(id, std::move(request), now_);
      EXPECT_TRUE(added.ok()) << message_of(added);
    }
  }
  // Also those that have ended, and samples that there never were.
  void leave() {
    if (next_ == 0 || rng_() % 12 != 0) return;
    const RequestId id = requests_[rng_() % next_].first;
    scheduler_.cancel(id, int(rng_() % 4) - 1);
    if (rng_() % 4 == 0) scheduler_.cancel(id);
  }
  void finish_copies() {
    for (; !held_.empty() && held_.front().until <= round_; held_.pop_front()) {
      const Held& h = held_.front();
      gate_.allow(h.blocks);
      while (runner_.copies().done < h.plan) std::this_thread::yield();
      out_.longest_beside = std::max(out_.longest_beside, steps_ - h.steps);
    }
  }
  // Launches what the runner takes ahead, and waits for one step.
  void step() {
    bool launched = false;
    if (int(in_flight_.size()) < runner_.depth()) launched = launch();
    if (!in_flight_.empty()) runner_.work_ahead();
    if (!in_flight_.empty() && (!launched || int(in_flight_.size()) == runner_.depth())) collect();
    for (const TokenEvent& e : events_) note(e);
    events_.clear();
    if (!squeeze_.holds() && round_ % 8 == 0) scheduler_.check_invariants();
  }
  bool launch() {
    CopyProgress copies = runner_.copies();
    copies.time = copies.blocks * 40us;
    const StepPlan plan = scheduler_.schedule(now_, copies, events_);
    now_ += 100us;
    if (plan.empty()) return false;
    hold(plan);
    out_.steps_beside += !plan.rows.empty() && !held_.empty();
    steps_ += !plan.rows.empty();
    runner_.launch(plan);
    in_flight_.push_back(plan.rows.empty() ? 0us : 1000us + plan.num_tokens * 30us);
    return true;
  }
  void collect() {
    StepResult result = runner_.collect();
    result.device_time = in_flight_.front();
    in_flight_.pop_front();
    now_ += result.device_time;
    out_.replayed += !result.tokens.empty() && !result.eager;
    scheduler_.commit(result, now_, events_);
    runner_.reuse(std::move(result));
  }
  void hold(const StepPlan& plan) {
    const int blocks = int(plan.swap_out.size() + plan.swap_in.size());
    if (blocks == 0) return;
    const int longest = s_.longest_hold;
    int until = round_ + (s_.even_holds ? longest : int(rng_() % uint64_t(longest + 1)));
    if (!held_.empty()) until = std::max(until, held_.back().until);  // they finish in order
    held_.push_back({plan.id, blocks, until, steps_});
    out_.held_plans += until > round_;
  }
  void note(const TokenEvent& e) {
    Trace& t = out_.traces[{e.request, e.sample}];
    EXPECT_EQ(t.finish, FinishReason::none) << "an event after the last one";
    t.take(e);
    out_.left += left(t);
    if (const auto& trace = e.known().trace)
      out_.preempted[e.request] = {trace->swaps, trace->recomputes};
  }
  void expect_empty() {
    squeeze_.release();
    EXPECT_EQ(pool_.num_available(), pool_.num_blocks());
    EXPECT_EQ(host_.num_available(), host_.num_blocks());
    scheduler_.check_invariants();
  }

  const Scenario s_;
  std::mt19937_64 rng_;
  Requests requests_;  // in the order in which they come
  BlockPool pool_, host_;
  Squeeze squeeze_;
  CopyGate gate_;
  RankRunner runner_;
  Scheduler scheduler_;
  std::deque<Nanos> in_flight_;  // what each step takes
  std::deque<Held> held_;
  std::vector<TokenEvent> events_;
  Outcome out_;
  Instant now_{1s};
  size_t next_ = 0;
  int round_ = 0, steps_ = 0;
};

inline Requests requests_of(const Rank& rank) {
  Requests all = mixed_requests(rank.model->config().vocab_size);
  GenerateRequest r;  // far longer than the others, and it begins as half of them do
  for (int t = 0; t < 180; ++t)
    r.prompt.push_back(
        TokenId(mix64(t < 32 ? 0 : 99, t) % std::min(rank.model->config().vocab_size, 300)));
  r.sampling.temperature = 0;
  r.sampling.max_tokens = 40;
  all.insert(all.begin() + 5, {RequestId(all.size()), std::move(r)});
  return all;
}

inline Traces each_alone(Rank& rank, const Requests& requests) {
  Traces expected;
  Scenario alone;
  alone.policy.prefix_caching = false;
  for (const auto& one : requests) expected.merge(Trial(rank, alone, {one}).go().traces);
  return expected;
}

// `got` is `all`, or where the client left the beginning of it.
template <class T>
void expect_begins(const std::vector<T>& got, const std::vector<T>& all, bool whole) {
  ASSERT_LE(got.size(), all.size());
  ASSERT_TRUE(std::equal(got.begin(), got.end(), all.begin()));
  ASSERT_TRUE(!whole || got.size() == all.size());
}

// Prompt logprobs are the request's: they come with its first token, whichever sample's that is.
struct Prompt {
  std::vector<std::pair<TokenId, uint32_t>> logprobs;
  bool left = false;
};
inline std::map<RequestId, Prompt> prompts_of(const Traces& traces) {
  std::map<RequestId, Prompt> prompts;
  for (const auto& [key, t] : traces) {
    Prompt& p = prompts[key.first];
    p.logprobs.insert(p.logprobs.end(), t.prompt.begin(), t.prompt.end());
    p.left |= left(t);
  }
  return prompts;
}

inline void expect_same(const Outcome& out, const Traces& expected) {
  ASSERT_EQ(out.traces.size(), expected.size());
  for (const auto& [key, all] : expected) {
    SCOPED_TRACE(testing::Message() << "request " << key.first << " sample " << key.second);
    const Trace& got = out.traces.at(key);
    const bool whole = !left(got);
    ASSERT_TRUE(!whole || got.finish == all.finish);
    ASSERT_NO_FATAL_FAILURE(expect_begins(got.tokens, all.tokens, whole));
    ASSERT_NO_FATAL_FAILURE(expect_begins(got.logprobs, all.logprobs, whole));
    ASSERT_NO_FATAL_FAILURE(expect_begins(got.top, all.top, whole));
  }
  const std::map<RequestId, Prompt> prompts = prompts_of(out.traces);
  for (const auto& [id, all] : prompts_of(expected)) {
    SCOPED_TRACE(testing::Message() << "prompt of request " << id);
    const Prompt& got = prompts.at(id);
    ASSERT_NO_FATAL_FAILURE(expect_begins(got.logprobs, all.logprobs, !got.left));
  }
}

inline Policy policy_of(std::string_view preset) {
  Config::Scheduler choices;
  choices.preset = preset;
  EXPECT_TRUE(apply_preset(choices).ok());
  const absl::StatusOr<Policy> policy = Policy::from(choices, Config::Cache());
  EXPECT_TRUE(policy.ok()) << message_of(policy.status());
  return *policy;
}
// What the largest request needs, if it uses all of its tokens: a pool of so many blocks is the
// least that takes all requests.
inline int largest_need(const Requests& requests, int block_size) {
  int most = 0;
  for (const auto& [id, r] : requests) {
    const int prompt = int(r.prompt.size()), shared = prompt / block_size;
    const int each = (prompt + r.sampling.max_tokens - 1 + block_size - 1) / block_size - shared;
    most = std::max(most, shared + r.num_samples * each);
  }
  return most;
}
inline int longest(const Requests& requests) {
  int most = 0;
  for (const auto& [id, r] : requests)
    most = std::max(most, int(r.prompt.size()) + r.sampling.max_tokens);
  return most;
}

}  // namespace sluice
