#include "engine/rank_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <random>
#include <thread>

#include "base/hash.h"
#include "engine/make_device.h"
#include "engine/models/registry.h"
#include "scheduler/scheduler.h"
#include "tests/unit/engine/copy_gate.h"
#include "tests/unit/engine/counting_new.h"
#include "tests/unit/engine/tiny_model.h"

namespace sluice {
namespace {

// Everything that a client can see of a sample, to the bit.
struct Trace {
  std::vector<TokenId> tokens;
  std::vector<uint32_t> logprobs;  // bits
  std::vector<std::pair<TokenId, uint32_t>> top, prompt;
  FinishReason finish = FinishReason::none;
  bool operator==(const Trace&) const = default;
};
void append(std::vector<std::pair<TokenId, uint32_t>>& to, const std::vector<TokenLogprob>& from) {
  for (const TokenLogprob& t : from) to.push_back({t.token, std::bit_cast<uint32_t>(t.logprob)});
}
using Traces = std::map<std::pair<RequestId, int>, Trace>;

struct Rank {
  std::unique_ptr<Device> device;
  std::unique_ptr<Model> model;
};
Rank load(const TinyModel& tiny, const std::string& isa, int threads) {
  const std::filesystem::path dir =
      std::filesystem::path(testing::TempDir()) /
      fmt::format("tiny-{}-{}-{}", tiny.architecture, tiny.bf16, getpid());
  tiny.write(dir);
  Config config;
  config.model.path = dir.string();
  config.device.isa = isa;
  config.device.threads = threads;
  Rank rank;
  auto device = make_device(config.device);
  if (!device.ok()) return rank;  // this chip lacks it
  rank.device = *std::move(device);
  auto model = load_model(config.model, *rank.device, 1);
  EXPECT_TRUE(model.ok()) << message_of(model.status());
  rank.model = *std::move(model);
  std::filesystem::remove_all(dir);
  return rank;
}

// How a set of requests is run.
struct Schedule {
  int max_seqs = 32, max_step_tokens = 512, block_size = 16, num_blocks = 512;
  bool prefix_caching = false;
  uint64_t arrivals = 0;  // 0: all at once; else seeds when each comes
  bool warm_up = false;
  bool paged_dtype_f32 = true;
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
Outcome run(Rank& rank, const Schedule& s,
            const std::vector<std::pair<RequestId, GenerateRequest>>& requests) {
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
                     .kv_dtype = s.paged_dtype_f32 ? DType::f32 : DType::bf16,
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
                      rank.model->max_len());
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
    for (const TokenEvent& e : events) {
      Trace& t = out.traces[{e.request, e.sample}];
      if (e.token >= 0) {
        t.tokens.push_back(e.token);
        t.logprobs.push_back(std::bit_cast<uint32_t>(e.logprob));
      }
      append(t.top, e.known().top);
      append(t.prompt, e.known().prompt_logprobs);
      t.finish = e.finish;
    }
    events.clear();
  }
  out.stats = scheduler.stats();
  return out;
}

// One request of every kind, on prompts of which some share a beginning.
std::vector<std::pair<RequestId, GenerateRequest>> mixed_requests(int vocab) {
  std::vector<std::pair<RequestId, GenerateRequest>> all;
  for (int i = 0; i < 14; ++i) {
    GenerateRequest r;
    const int length = 3 + i * 5;
    for (int t = 0; t < length; ++t)
      r.prompt.push_back(TokenId(mix64(t < 32 ? i % 2 : i, t) % uint64_t(vocab)));
    SamplingParams& p = r.sampling;
    p.seed = 100 + i;
    p.max_tokens = 12 + i;
    p.ignore_eos = i % 3 != 0;
    p.min_tokens = i % 3 == 0 ? 4 : 0;
    p.temperature = i % 4 == 0 ? 0.0f : 0.9f;
    if (i % 4 == 2) p.top_k = 20;
    if (i % 4 == 3) p.top_p = 0.8f;
    if (i % 5 == 1) p.frequency_penalty = 0.7f;
    if (i % 5 == 2) p.repetition_penalty = 1.3f;
    if (i % 5 == 3) p.logit_bias = {{5, 2.0f}, {7, -1.0f}};
    if (i % 6 == 4) p.top_logprobs = 1 + i % 3;
    if (i % 7 == 5) p.prompt_logprobs = 2;
    if (i % 7 == 6) p.allowed = {2, 3, 5, 8, 13, 21, 34};
    if (i % 4 == 1) r.num_samples = 3;
    all.push_back({RequestId(i), std::move(r)});
  }
  return all;
}

struct Case {
  const char* name;
  TinyModel tiny;
  const char* isa;
  int threads;
};
TinyModel llama(bool bf16) {
  TinyModel t;
  t.bf16 = bf16;
  return t;
}
TinyModel qwen3() {
  TinyModel t;
  t.architecture = "Qwen3ForCausalLM";
  t.qk_norm = true;
  t.bf16 = true;
  return t;
}

class SameBitsTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, SameBitsTest,
                         testing::Values(Case{"f32", llama(false), "auto", 2},
                                         Case{"bf16", llama(true), "auto", 2},
                                         Case{"qwen3", qwen3(), "auto", 2},
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
  const bool f32 = !c.tiny.bf16;
  const auto requests = mixed_requests(c.tiny.vocab);
  Traces expected;
  int tokens = 0;
  for (const auto& one : requests) {
    Outcome alone = run(rank, {.paged_dtype_f32 = f32}, {one});
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
    s.paged_dtype_f32 = f32;
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

TEST(RankRunnerTest, SamplesOfARequestAreRequestsAlone) {
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

// A step's result against sequences made by hand.
struct Hand {
  Hand(const Model& model, int n, int prompt_len) : vocab(model.config().vocab_size) {
    requests.resize(n);
    sequences.resize(n);
    for (int i = 0; i < n; ++i) {
      Sequence& s = sequences[i];
      s.request = &requests[i];
      s.num_prompt = prompt_len;
      for (int t = 0; t < prompt_len; ++t) s.tokens.push_back((i * 31 + t * 7) % vocab);
      for (int b = 0; b < 8; ++b) s.blocks.push_back(i * 8 + b);
    }
  }
  StepPlan plan(int begin, int count, int num_logits, int num_samples) const {
    StepPlan p;
    for (const Sequence& s : sequences) {
      p.rows.push_back({&s, begin, count, num_logits, num_samples});
      p.num_tokens += count;
    }
    return p;
  }
  int vocab;
  std::vector<GenerateRequest> requests;
  std::vector<Sequence> sequences;
};
RunnerOptions hand_options(const Model& model) {
  return {.max_seqs = 8,
          .max_step_tokens = 128,
          .max_model_len = model.max_len(),
          .num_blocks = 64,
          .block_size = 16,
          .kv_dtype = DType::f32};
}

TEST(RankRunnerTest, ResultsLieByRow) {
  Rank rank = load(llama(false), "auto", 1);
  RankRunner runner(*rank.device, *rank.model, hand_options(*rank.model));
  Hand hand(*rank.model, 4, 6);
  hand.requests[1].sampling.top_logprobs = 3;
  hand.requests[2].sampling.prompt_logprobs = 2;
  hand.requests[3].sampling.temperature = 0;
  hand.requests[3].sampling.top_logprobs = 1;
  StepPlan plan = hand.plan(0, 6, 1, 1);
  plan.id = 77;
  plan.rows[0] = {&hand.sequences[0], 0, 4, 0, 0};  // inside its prompt
  plan.rows[1].num_samples = 2;
  plan.rows[2].num_logits = 6;
  plan.num_tokens -= 2;
  runner.launch(plan);
  const StepResult r = runner.collect();
  EXPECT_EQ(r.id, 77u);
  EXPECT_THAT(r.first, testing::ElementsAre(0, 0, 2, 3, 4));
  ASSERT_EQ(r.tokens.size(), 4u);
  ASSERT_EQ(r.logprobs.size(), 4u);
  ASSERT_EQ(r.top.size(), 4u);
  EXPECT_EQ(r.top[0].size(), 3u);
  EXPECT_EQ(r.top[1].size(), 3u);
  EXPECT_EQ(r.top[2].size(), 0u);
  ASSERT_EQ(r.top[3].size(), 1u);
  EXPECT_EQ(r.top[3][0].token, r.tokens[3]);  // greedy
  EXPECT_EQ(r.top[3][0].logprob, r.logprobs[3]);
  ASSERT_EQ(r.prompt.size(), 4u);
  ASSERT_EQ(r.prompt[2].size(), 5u * 3);
  EXPECT_TRUE(r.prompt[0].empty() && r.prompt[1].empty() && r.prompt[3].empty());
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(r.prompt[2][i * 3].token, hand.sequences[2].tokens[i + 1]);
    EXPECT_GE(r.prompt[2][i * 3 + 1].logprob, r.prompt[2][i * 3 + 2].logprob);
    EXPECT_GE(r.prompt[2][i * 3 + 1].logprob, r.prompt[2][i * 3].logprob);
  }
  EXPECT_GT(r.device_time.count(), 0);
}

TEST(RankRunnerTest, AStepAllocatesNothingAfterWarmUp) {
  for (const int threads : {1, 2}) {
    Rank rank = load(llama(true), "auto", threads);
    RankRunner runner(*rank.device, *rank.model, hand_options(*rank.model));
    runner.warm_up();
    Hand hand(*rank.model, 8, 16);
    for (int i = 0; i < 8; ++i) {
      SamplingParams& p = hand.requests[i].sampling;
      p.temperature = i % 2 ? 0.0f : 0.8f;
      p.top_p = i % 4 ? 1.0f : 0.9f;
      p.presence_penalty = i == 3 ? 0.5f : 0.0f;
      p.min_tokens = i == 5 ? 9 : 0;
      if (i == 6) p.logit_bias = {{1, 2.0f}};
      if (i == 7) p.allowed = {4, 5};
    }
    const StepPlan prefill = hand.plan(0, 16, 1, 1);
    for (Sequence& s : hand.sequences) s.tokens.push_back(5);
    const StepPlan decode = hand.plan(16, 1, 1, 1);
    const long before = num_news;
    for (int i = 0; i < 20; ++i) {
      for (const StepPlan* plan : {&prefill, &decode}) {
        runner.launch(*plan);
        runner.reuse(runner.collect());
      }
    }
    EXPECT_EQ(num_news - before, 0) << threads << " threads";
  }
}

TEST(RankRunnerTest, ScratchIsWhatWasPlanned) {
  Rank rank = load(llama(true), "auto", 1);
  const RunnerOptions options = hand_options(*rank.model);
  const size_t planned = RankRunner::scratch_bytes(*rank.model, options);
  RankRunner runner(*rank.device, *rank.model, options);
  EXPECT_EQ(runner.scratch_bytes(), planned);
  runner.warm_up();
  EXPECT_EQ(runner.scratch_bytes(), planned);  // nothing had to grow
}

RunnerOptions host_options(const Model& model, CopyGate* gate = nullptr) {
  RunnerOptions o = hand_options(model);
  o.num_host_blocks = 16;
  if (gate != nullptr) o.before_block_copy = [gate] { gate->pass(); };
  return o;
}
StepResult run_step(RankRunner& runner, StepPlan plan, uint64_t id) {
  plan.id = id;
  runner.launch(plan);
  return runner.collect();
}
void wait_copies(RankRunner& runner, uint64_t id) {
  while (runner.copies().done < id) std::this_thread::yield();
}

TEST(RankRunnerTest, APlanMayHoldCopiesAlone) {
  Rank rank = load(llama(false), "auto", 1);
  CopyGate gate;
  RankRunner runner(*rank.device, *rank.model, host_options(*rank.model, &gate));
  Hand hand(*rank.model, 4, 6);
  hand.requests[1].sampling.top_logprobs = 3;
  hand.requests[2].sampling.prompt_logprobs = 2;
  StepPlan first = hand.plan(0, 6, 1, 1);
  first.rows[2].num_logits = 6;
  runner.reuse(run_step(runner, first, 1));  // leaves something of everything in the spare result
  EXPECT_EQ(runner.copies().done, 1u);
  StepPlan plan;
  plan.swap_out = {{0, 3}, {1, 4}};
  plan.swap_in = {{5, 40}};
  const StepResult r = run_step(runner, plan, 2);
  EXPECT_EQ(r.id, 2u);
  EXPECT_THAT(r.first, testing::ElementsAre(0));
  EXPECT_TRUE(r.tokens.empty() && r.logprobs.empty() && r.top.empty() && r.prompt.empty());
  EXPECT_EQ(r.device_time, Nanos{0});
  EXPECT_EQ(runner.copies().done, 1u);
  gate.allow(CopyGate::kAll);
  wait_copies(runner, 2);
  EXPECT_EQ(runner.copies().blocks, 3);
  EXPECT_GT(runner.copies().time, Nanos{0});
}

// A sequence goes out, others compute in its blocks, and it comes back to other ones: it goes on as
// if nothing had happened. Steps are computed while each of the copies hangs.
TEST(RankRunnerTest, ASwappedSequenceGoesOnToTheSameBits) {
  Rank rank = load(llama(true), "auto", 2);
  Hand hand(*rank.model, 2, 40);  // blocks 0 to 7, and 8 to 15
  Sequence& s = hand.sequences[0];
  const auto row = [](const Sequence& seq, int begin, int count) {
    StepPlan p;
    p.rows.push_back({&seq, begin, count, 1, 1});
    p.num_tokens = count;
    return p;
  };
  std::vector<uint32_t> expected, got;
  for (const bool swap : {false, true}) {
    CopyGate gate;
    RankRunner runner(*rank.device, *rank.model, host_options(*rank.model, &gate));
    std::vector<uint32_t>& bits = swap ? got : expected;
    uint64_t id = 0;
    const auto step = [&](const StepPlan& plan) {
      return std::bit_cast<uint32_t>(run_step(runner, plan, ++id).logprobs[0]);
    };
    bits.push_back(step(row(s, 0, 40)));
    const std::vector<BlockId> blocks = s.blocks;
    if (swap) {
      StepPlan other = row(hand.sequences[1], 0, 40);  // beside it, in blocks of its own
      other.swap_out = {{0, 5}, {1, 6}, {2, 7}};
      step(other);
      gate.wait_arrived(1);
      EXPECT_EQ(runner.copies().done, 1u);
      step(row(hand.sequences[1], 39, 1));
      EXPECT_EQ(runner.copies().done, 1u);
      gate.allow(3);
      wait_copies(runner, id);
      hand.sequences[1].blocks = {2, 1, 0};  // where it was
      step(row(hand.sequences[1], 0, 40));
      StepPlan back = row(hand.sequences[1], 39, 1);
      back.swap_in = {{5, 33}, {6, 30}, {7, 31}};
      step(back);
      EXPECT_EQ(runner.copies().done, id - 1);
      step(row(hand.sequences[1], 39, 1));
      gate.allow(3);
      wait_copies(runner, id);
      s.blocks = {33, 30, 31};
    }
    s.tokens.push_back(7);
    bits.push_back(step(row(s, 40, 1)));
    s.tokens.push_back(8);
    bits.push_back(step(row(s, 41, 1)));
    s.tokens.resize(40);
    s.blocks = blocks;
  }
  EXPECT_EQ(got, expected);
}

TEST(RankRunnerTest, MeasuresWhatStepsAndCopiesTake) {
  Rank rank = load(llama(true), "auto", 1);
  for (const int tokens : {1, 2, 24, 128}) {  // of a step: some kinds of it do not fit
    RunnerOptions o = host_options(*rank.model);
    o.max_step_tokens = tokens;
    o.num_blocks = tokens == 1 ? 1 : 64;
    RankRunner runner(*rank.device, *rank.model, o);
    runner.warm_up();
    const StepCost c = runner.measure();
    EXPECT_GT(c.constant + c.per_decode_row + c.per_context_token, 0);
    EXPECT_GT(c.per_block_copy, 0);
    for (const double x : {c.constant, c.per_prefill_token, c.per_prefill_pair, c.per_decode_row,
                           c.per_context_token}) {
      EXPECT_GE(x, 0);
      EXPECT_LT(x, 1e3);
    }
    EXPECT_EQ(runner.scratch_bytes(), RankRunner::scratch_bytes(*rank.model, o));
    EXPECT_EQ(runner.copies().done, 0u);
  }
}

}  // namespace
}  // namespace sluice
