#include "engine/rank_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <thread>

#include "tests/unit/engine/copy_gate.h"
#include "tests/unit/engine/counting_new.h"
#include "tests/unit/engine/tiny_rank.h"

namespace sluice {
namespace {

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
      for (int b = 0; b < 8; ++b) s.tables[0].blocks.push_back(i * 8 + b);
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
  const size_t planned = RankRunner::scratch_bytes(*rank.device, *rank.model, options);
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
    const std::vector<BlockId> blocks = s.tables[0].blocks;
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
      hand.sequences[1].tables[0].blocks = {2, 1, 0};  // where it was
      step(row(hand.sequences[1], 0, 40));
      StepPlan back = row(hand.sequences[1], 39, 1);
      back.swap_in = {{5, 33}, {6, 30}, {7, 31}};
      step(back);
      EXPECT_EQ(runner.copies().done, id - 1);
      step(row(hand.sequences[1], 39, 1));
      gate.allow(3);
      wait_copies(runner, id);
      s.tables[0].blocks = {33, 30, 31};
    }
    s.tokens.push_back(7);
    bits.push_back(step(row(s, 40, 1)));
    s.tokens.push_back(8);
    bits.push_back(step(row(s, 41, 1)));
    s.tokens.resize(40);
    s.tables[0].blocks = blocks;
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
    EXPECT_EQ(runner.scratch_bytes(), RankRunner::scratch_bytes(*rank.device, *rank.model, o));
    EXPECT_EQ(runner.copies().done, 0u);
  }
}

}  // namespace
}  // namespace sluice
