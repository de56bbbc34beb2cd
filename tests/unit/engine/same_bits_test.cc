#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "engine/rank_runner.h"
#include "scheduler/scheduler.h"
#include "tests/unit/engine/tiny_rank.h"
#include "tests/unit/engine/traces.h"

namespace sluice {
namespace {

// How a set of requests is run.
struct Schedule {
  int max_seqs = 32, max_step_tokens = 512, block_size = 16, num_blocks = 512;
  bool prefix_caching = false;
  uint64_t arrivals = 0;  // 0: all at once; else seeds when each comes
  bool warm_up = false;
  DType kv_dtype = DType::f32;
  bool logits_in_pieces = false;
  int num_host_blocks = 0;
  Policy::Pressure pressure = Policy::Pressure::recompute;
  bool mlfq = false;       // by level, with proactive swaps
  bool slow_copy = false;  // takes longer than a step
};
std::ostream& operator<<(std::ostream& out, const Schedule& s) {
  return out << "seqs " << s.max_seqs << " budget " << s.max_step_tokens << " block "
             << s.block_size << " blocks " << s.num_blocks << " caching " << s.prefix_caching
             << " arrivals " << s.arrivals << " host blocks " << s.num_host_blocks << " mlfq "
             << s.mlfq << " slow copies " << s.slow_copy;
}

struct Outcome {
  Traces traces;
  Scheduler::Stats stats;
};
Outcome run(Rank& rank, Schedule s, const Requests& requests) {
  const int tables = grouping_of(rank.model->kv_shape()).num_tables();
  s.num_blocks *= tables, s.num_host_blocks *= tables;
  BlockPool pool(s.num_blocks, s.block_size);
  std::unique_ptr<BlockPool> host;
  if (s.num_host_blocks > 0)
    host = std::make_unique<BlockPool>(s.num_host_blocks, s.block_size, pool.hasher());
  std::function<void()> slow;
  if (s.slow_copy) slow = [] { std::this_thread::sleep_for(std::chrono::microseconds(300)); };
  RankRunner runner(*rank.device, *rank.model,
                    {.max_seqs = s.max_seqs,
                     .max_step_tokens = s.max_step_tokens,
                     .max_model_len = rank.model->max_len(),
                     .num_blocks = s.num_blocks,
                     .num_host_blocks = s.num_host_blocks,
                     .block_size = s.block_size,
                     .kv_dtype = s.kv_dtype,
                     .logit_bytes = s.logits_in_pieces ? 0 : 64 << 20,
                     .before_block_copy = slow});
  if (s.warm_up) runner.warm_up();
  Policy policy;
  policy.max_seqs = s.max_seqs;
  policy.max_step_tokens = s.max_step_tokens;
  policy.prefix_caching = s.prefix_caching;
  policy.pressure = s.pressure;
  if (s.mlfq) {
    policy.order = Policy::Order::mlfq;
    policy.proactive = true;
    policy.quantum = 1e-9;  // no clock here: levels change by what steps took
  }
  Scheduler scheduler(policy, CostModel(), pool, host.get(), 1, rank.model->config().eos_ids,
                      rank.model->max_len(), runner.kv().grouping().groups);
  std::mt19937 rng(s.arrivals);
  std::vector<TokenEvent> events;
  Outcome out;
  size_t next = 0;
  const Instant now{};
  while (next < requests.size() || !scheduler.idle()) {
    while (next < requests.size() && (s.arrivals == 0 || scheduler.idle() || rng() % 3 == 0)) {
      EXPECT_TRUE(scheduler.add(requests[next].first, requests[next].second, now).ok());
      ++next;
    }
    const StepPlan plan = scheduler.schedule(now, runner.copies(), events);
    if (!plan.empty()) {
      runner.launch(plan);
      StepResult result = runner.collect();
      scheduler.commit(result, now, events);
      runner.reuse(std::move(result));
    } else {
      std::this_thread::yield();  // copies
    }
    for (const TokenEvent& e : events) out.traces[{e.request, e.sample}].take(e);
    events.clear();
  }
  out.stats = scheduler.stats();
  return out;
}

struct Case {
  const char* name;
  TinyModel tiny;
  const char* isa;
  int threads;
  DType kv_dtype = DType::bf16;
};
class SameBitsTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, SameBitsTest,
                         testing::Values(Case{"f32", llama(false), "auto", 2, DType::f32},
                                         Case{"bf16", llama(true), "auto", 2},
                                         Case{"qwen3", qwen3(), "auto", 2},
                                         Case{"mistral", mistral(), "auto", 2},
                                         Case{"mixed_windows", mixed_windows(), "auto", 2},
                                         Case{"fp8", llama(true), "auto", 2, DType::fp8_e4m3},
                                         Case{"avx512", llama(true), "avx512", 1},
                                         Case{"avx2", llama(true), "avx2", 2},
                                         Case{"portable", llama(true), "portable", 1}),
                         [](const auto& info) { return info.param.name; });

// The promise of the engine: what a request gets does not depend on how it was scheduled. Alone in
// one piece is the definition; every other schedule must agree to the last bit of every logprob.
TEST_P(SameBitsTest, WhateverTheSchedule) {
  const Case& c = GetParam();
  Rank rank = load(c.tiny, c.isa, c.threads);
  if (!rank.device) GTEST_SKIP() << "this machine has no " << c.isa;
  const auto requests = mixed_requests(c.tiny.vocab);
  Traces expected;
  int tokens = 0;
  for (const auto& one : requests) {
    Outcome alone = run(rank, {.kv_dtype = c.kv_dtype}, {one});
    EXPECT_EQ(alone.traces.size(), size_t(one.second.num_samples));
    for (auto& [key, trace] : alone.traces) tokens += int(trace.tokens.size());
    expected.merge(alone.traces);
  }
  ASSERT_GT(tokens, 150);

  std::vector<Schedule> schedules;
  for (const int budget : {1, 2, 3, 5, 7, 8, 13, 16, 31, 64, 200, 512})
    schedules.push_back({.max_step_tokens = budget});
  for (const int block : {1, 2, 5, 8, 32, 64})
    schedules.push_back({.max_step_tokens = 40, .block_size = block, .num_blocks = 4096 / block});
  // Room for the longest request and little more: others are preempted and computed again.
  for (const int blocks : {32, 36, 40, 48, 56})
    for (const uint64_t arrivals : {0, 1, 2})
      schedules.push_back({.max_step_tokens = 24,
                           .block_size = 4,
                           .num_blocks = blocks * 2,
                           .prefix_caching = blocks % 8 == 0,
                           .arrivals = arrivals});
  for (uint64_t arrivals = 3; arrivals < 8; ++arrivals)
    schedules.push_back({.max_seqs = 5,
                         .max_step_tokens = 30,
                         .block_size = 8,
                         .prefix_caching = true,
                         .arrivals = arrivals,
                         .warm_up = arrivals % 2 == 0});

  // Likewise, but the blocks of others go to the host and come back, beside the steps.
  for (const int blocks : {40, 48, 56})
    for (const uint64_t arrivals : {0, 1, 2})
      schedules.push_back({.max_step_tokens = 24,
                           .block_size = 4,
                           .num_blocks = blocks,
                           .prefix_caching = arrivals > 0,
                           .arrivals = arrivals,
                           .num_host_blocks = blocks == 48 ? 24 : 400,
                           .pressure = Policy::Pressure::swap,
                           .mlfq = blocks == 56,
                           .slow_copy = arrivals == 2});

  int64_t preemptions = 0, cached = 0, swaps = 0, host_cached = 0;
  for (Schedule s : schedules) {
    SCOPED_TRACE(testing::Message() << s);
    s.kv_dtype = c.kv_dtype;
    s.logits_in_pieces = s.max_step_tokens >= 64 || s.arrivals == 1;
    const Outcome out = run(rank, s, requests);
    preemptions += out.stats.preemptions;
    cached += out.stats.cached_tokens;
    swaps += out.stats.swaps;
    host_cached += out.stats.host_cached_tokens;
    ASSERT_EQ(out.traces.size(), expected.size());
    for (const auto& [key, trace] : expected) {
      const Trace& got = out.traces.at(key);
      ASSERT_EQ(got.tokens, trace.tokens) << key.first << " " << key.second;
      ASSERT_EQ(got.logprobs, trace.logprobs) << key.first << " " << key.second;
      ASSERT_TRUE(got == trace) << key.first << " " << key.second;
    }
  }
  EXPECT_GT(preemptions, 5);
  EXPECT_GT(cached, 100);
  EXPECT_GT(swaps, 5);
  EXPECT_GT(host_cached, 0);
}

// The seed that makes mix64(seed, 0) what mix64(whole, sample) is: that sample as a request alone.
uint64_t seed_of_sample(uint64_t whole, uint64_t sample) {
  uint64_t x = mix64(whole) ^ sample;  // mix64 undone, from its last line to its first
  x ^= x >> 31 ^ x >> 62;
  x *= 0x319642b2d24d8ec3ull;
  x ^= x >> 27 ^ x >> 54;
  x *= 0x96de1b173f119089ull;
  x ^= x >> 30 ^ x >> 60;
  return x - 0x9e3779b97f4a7c15ull;
}

TEST(SamplesTest, OfARequestAreRequestsAlone) {
  Rank rank = load(llama(true), "auto", 2);
  GenerateRequest r;
  for (int i = 0; i < 21; ++i) r.prompt.push_back(3 + i * 7);
  r.sampling.seed = 42;
  r.sampling.max_tokens = 20;
  r.sampling.ignore_eos = true;
  r.num_samples = 4;
  const Outcome together = run(rank, {.block_size = 8}, {{1, r}});
  for (int s = 0; s < 4; ++s) {
    GenerateRequest one = r;
    one.num_samples = 1;
    one.sampling.seed = seed_of_sample(42, s);
    ASSERT_EQ(mix64(one.sampling.seed, 0), mix64(42, s));
    const Outcome alone = run(rank, {}, {{1, one}});
    EXPECT_TRUE(together.traces.at({1, s}) == alone.traces.at({1, 0})) << s;
  }
  EXPECT_NE(together.traces.at({1, 0}).tokens, together.traces.at({1, 1}).tokens);
}

}  // namespace
}  // namespace sluice
