// What a request gets does not depend on anything that happens around it: one set of requests under
// every preset of the scheduler, with chunks and pools of any size, memory that is taken away and
// given back at random, copies that hang and clients that leave. Alone, in one piece and with all
// the memory there is, is the definition.
//
// One thread computes, copies finish when the test says so, and time is what the test holds a step
// to take: so a scenario is a function of its preset and its number.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <thread>

#include "config/presets.h"
#include "engine/rank_runner.h"
#include "scheduler/scheduler.h"
#include "tests/unit/engine/copy_gate.h"
#include "tests/unit/engine/tiny_rank.h"
#include "tests/unit/engine/traces.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

constexpr int kBlockSize = 4;
constexpr int kManyBlocks = 512;
constexpr int kMaxRounds = 20000;

struct Scenario {
  Policy policy;
  int num_blocks = kManyBlocks;
  int num_host_blocks = 0;
  int longest_hold = 0;     // copies finish so many rounds after their step, or fewer
  bool even_holds = false;  // never fewer
  bool at_once = true;      // all requests come in the first round
  bool mixed_priorities = false;
  bool squeezes = false;  // at random, the test holds blocks that the scheduler could have had
  bool leaves = false;    // at random, requests and single samples are cancelled or have deadlines
  uint64_t seed = 0;
};
std::ostream& operator<<(std::ostream& out, const Scenario& s) {
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
  int left = 0;            // samples that were cancelled or ran into a deadline
};

bool left(const Trace& t) {
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

class Trial {
 public:
  Trial(Rank& rank, const Scenario& s, const Requests& requests)
      : s_(s),
        rng_(s.seed),
        requests_(requests),
        pool_(s.num_blocks, kBlockSize, BlockHasher(1, 2)),
        host_(std::max(s.num_host_blocks, 1), kBlockSize, pool_.hasher()),
        squeeze_(pool_, rng_),
        runner_(*rank.device, *rank.model,
                {.max_seqs = s.policy.max_seqs,
                 .max_step_tokens = s.policy.max_step_tokens,
                 .max_model_len = rank.model->max_len(),
                 .num_blocks = s.num_blocks,
                 .num_host_blocks = s.num_host_blocks,
                 .block_size = kBlockSize,
                 .kv_dtype = DType::f32,
                 .before_block_copy = [this] { gate_.pass(); }}),
        scheduler_(s.policy, CostModel(StepCost{1e-3, 2e-5, 1e-7, 5e-5, 1e-6, 4e-5}), pool_,
                   s.num_host_blocks > 0 ? &host_ : nullptr, 1, rank.model->config().eos_ids,
                   rank.model->max_len()) {
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
  void step() {
    CopyProgress copies = runner_.copies();
    copies.time = copies.blocks * 40us;
    const StepPlan plan = scheduler_.schedule(now_, copies, events_);
    now_ += 100us;
    if (!plan.empty()) {
      hold(plan);
      out_.steps_beside += !plan.rows.empty() && !held_.empty();
      steps_ += !plan.rows.empty();
      runner_.launch(plan);
      StepResult result = runner_.collect();
      result.device_time = plan.rows.empty() ? 0us : 1000us + plan.num_tokens * 30us;
      now_ += result.device_time;
      scheduler_.commit(result, now_, events_);
      runner_.reuse(std::move(result));
    }
    for (const TokenEvent& e : events_) note(e);
    events_.clear();
    if (!squeeze_.holds() && round_ % 8 == 0) scheduler_.check_invariants();
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

  const Scenario& s_;
  std::mt19937_64 rng_;
  Requests requests_;  // in the order in which they come
  BlockPool pool_, host_;
  Squeeze squeeze_;
  CopyGate gate_;
  RankRunner runner_;
  Scheduler scheduler_;
  std::deque<Held> held_;
  std::vector<TokenEvent> events_;
  Outcome out_;
  Instant now_{1s};
  size_t next_ = 0;
  int round_ = 0, steps_ = 0;
};

Requests requests_of(const Rank& rank) {
  Requests all = mixed_requests(rank.model->config().vocab_size);
  GenerateRequest r;  // far longer than the others, and it begins as half of them do
  for (int t = 0; t < 180; ++t) r.prompt.push_back(TokenId(mix64(t < 32 ? 0 : 99, t) % 300));
  r.sampling.temperature = 0;
  r.sampling.max_tokens = 40;
  all.insert(all.begin() + 5, {RequestId(all.size()), std::move(r)});
  return all;
}

Traces each_alone(Rank& rank, const Requests& requests) {
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
std::map<RequestId, Prompt> prompts_of(const Traces& traces) {
  std::map<RequestId, Prompt> prompts;
  for (const auto& [key, t] : traces) {
    Prompt& p = prompts[key.first];
    p.logprobs.insert(p.logprobs.end(), t.prompt.begin(), t.prompt.end());
    p.left |= left(t);
  }
  return prompts;
}

void expect_same(const Outcome& out, const Traces& expected) {
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

Policy policy_of(std::string_view preset) {
  Config::Scheduler choices;
  choices.preset = preset;
  EXPECT_TRUE(apply_preset(choices).ok());
  const absl::StatusOr<Policy> policy = Policy::from(choices, Config::Cache());
  EXPECT_TRUE(policy.ok()) << message_of(policy.status());
  return *policy;
}
bool cuts_prompts(const Policy& p) {
  return p.step != Policy::Step::whole && p.step != Policy::Step::prefill_first;
}

// What the largest request needs, if it uses all of its tokens: a pool of so many blocks is the
// least that takes all requests.
int largest_need(const Requests& requests) {
  int most = 0;
  for (const auto& [id, r] : requests) {
    const int prompt = int(r.prompt.size()), shared = prompt / kBlockSize;
    const int each = (prompt + r.sampling.max_tokens - 1 + kBlockSize - 1) / kBlockSize - shared;
    most = std::max(most, shared + r.num_samples * each);
  }
  return most;
}
int longest(const Requests& requests) {
  int most = 0;
  for (const auto& [id, r] : requests)
    most = std::max(most, int(r.prompt.size()) + r.sampling.max_tokens);
  return most;
}

// Every chunk with every pool and host pool, a few times; the rest is drawn.
std::vector<Scenario> scenarios(std::string_view preset, const Requests& requests) {
  constexpr int kTimes = 3;
  const int least = largest_need(requests);
  std::vector<Scenario> all;
  for (const int chunk : {5, 32, 256})
    for (const int blocks : {least, least * 3 / 2, kManyBlocks})
      for (const int host_blocks : {0, least / 3, least * 6})
        for (int i = 0; i < kTimes; ++i) {
          Scenario s;
          s.seed = all.size() + 1;
          std::mt19937_64 rng(mix64(s.seed));
          const auto one_in = [&](uint64_t n) { return rng() % n == 0; };
          s.policy = policy_of(preset);
          s.policy.max_step_tokens = cuts_prompts(s.policy) ? chunk : longest(requests) + chunk;
          s.policy.max_seqs = one_in(3) ? 4 : 32;
          s.policy.prefix_caching = s.policy.write_behind = !one_in(3);
          if (!one_in(3)) s.policy.max_preemptions = 1000;
          if (one_in(2)) s.policy.promote_after = 30ms;
          if (!one_in(3)) s.policy.pressure = Policy::Pressure::swap;
          s.num_blocks = blocks;
          s.num_host_blocks = host_blocks;
          s.longest_hold = int(rng() % 12);
          s.at_once = one_in(3);
          s.mixed_priorities = one_in(2);
          s.squeezes = !one_in(4);
          s.leaves = one_in(3);
          all.push_back(s);
        }
  return all;
}

class ExactnessTest : public testing::TestWithParam<std::string_view> {};
INSTANTIATE_TEST_SUITE_P(Presets, ExactnessTest, testing::ValuesIn(preset_names()),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(ExactnessTest, WhateverHappensAround) {
  Rank rank = load(llama(false), "auto", 1);
  const Requests requests = requests_of(rank);
  const Traces expected = each_alone(rank, requests);
  std::map<RequestId, std::pair<int, int>> preempted;
  int held = 0, beside = 0, left = 0;
  int64_t cached = 0, host_cached = 0;
  for (const Scenario& s : scenarios(GetParam(), requests)) {
    SCOPED_TRACE(testing::Message() << GetParam() << ": " << s);
    const Outcome out = Trial(rank, s, requests).go();
    ASSERT_NO_FATAL_FAILURE(expect_same(out, expected));
    ASSERT_FALSE(HasFailure());
    for (const auto& [id, counts] : out.preempted) {
      preempted[id].first += counts.first;
      preempted[id].second += counts.second;
    }
    held += out.held_plans, beside += out.steps_beside, left += out.left;
    cached += out.stats.cached_tokens, host_cached += out.stats.host_cached_tokens;
  }
  // Where nothing happens, all of the above holds too.
  EXPECT_GT(left, 50);
  EXPECT_GT(held, 100);
  EXPECT_GT(beside, 100);
  EXPECT_GT(cached, 1000);
  EXPECT_GT(host_cached, 100);
  EXPECT_EQ(preempted.size(), requests.size());
  const bool full = policy_of(GetParam()).reservation == Policy::Reservation::full;
  for (const auto& [id, counts] : preempted) {
    EXPECT_EQ(counts.first > 0, !full) << "swaps of request " << id;
    EXPECT_EQ(counts.second > 0, !full) << "recomputes of request " << id;
  }
}

// Whoever has blocks to wait for waits alone.
TEST(HeldCopiesTest, StepsGoOnWhileTheyHang) {
  Rank rank = load(llama(false), "auto", 1);
  const Requests requests = requests_of(rank);
  Scenario s;
  s.policy = policy_of("sluice");
  s.policy.max_step_tokens = 24;
  s.policy.pressure = Policy::Pressure::swap;
  s.num_blocks = largest_need(requests) * 2;
  s.num_host_blocks = kManyBlocks;
  s.longest_hold = 40;
  s.even_holds = true;
  const Outcome out = Trial(rank, s, requests).go();
  expect_same(out, each_alone(rank, requests));
  EXPECT_GT(out.stats.swaps, 0);
  EXPECT_GE(out.longest_beside, 20);
  EXPECT_GT(out.steps_beside, 100);
}

}  // namespace
}  // namespace sluice
