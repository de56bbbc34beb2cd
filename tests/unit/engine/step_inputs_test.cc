#include "engine/step_inputs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <map>
#include <random>

#include "base/hash.h"
#include "tests/unit/engine/counting_new.h"
#include "tests/unit/engine/host_device.h"

namespace sluice {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;
using testing::UnorderedElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();

template <class T = int32_t>
std::vector<T> list(const Tensor& t) {
  return std::vector<T>(t.as<T>(), t.as<T>() + t.size());
}

// Sequences that look like a scheduler's.
struct World {
  Sequence& sequence(GenerateRequest request, std::vector<TokenId> output,
                     std::vector<BlockId> blocks, int sample = 0) {
    requests.push_back(std::move(request));
    Sequence& s = sequences.emplace_back();
    s.request = &requests.back();
    s.sample = uint16_t(sample);
    s.tokens = s.request->prompt;
    s.num_prompt = int(s.tokens.size());
    s.tokens.insert(s.tokens.end(), output.begin(), output.end());
    s.tables[0].blocks = std::move(blocks);
    return s;
  }
  void row(const Sequence& s, int begin, int count, int num_logits, int num_samples) {
    plan.rows.push_back({&s, begin, count, num_logits, num_samples});
    plan.num_tokens += count;
  }
  std::deque<GenerateRequest> requests;
  std::deque<Sequence> sequences;
  StepPlan plan;
};

StepLimits limits(int max_logit_rows = 64) {
  return {.max_seqs = 16,
          .max_step_tokens = 64,
          .max_model_len = 64,
          .block_size = 4,
          .vocab_size = 100,
          .max_logit_rows = max_logit_rows};
}
GenerateRequest prompt(std::vector<TokenId> tokens) {
  GenerateRequest r;
  r.prompt = std::move(tokens);
  return r;
}

TEST(StepInputsTest, ArraysOfAMixedStep) {
  World w;
  GenerateRequest sampled = prompt({10, 11, 12});
  sampled.sampling = {.temperature = 0.5f, .top_p = 0.9f, .min_p = 0.1f, .top_k = 7, .seed = 99};
  const Sequence& decode = w.sequence(sampled, {13, 14}, {5, 2}, 1);
  const Sequence& inside = w.sequence(prompt({20, 21, 22, 23, 24, 25, 26, 27}), {}, {9, 0, 7});
  GenerateRequest forked = prompt({30, 31, 32});
  forked.num_samples = 3;
  forked.sampling.seed = 4;
  const Sequence& last = w.sequence(forked, {}, {3});
  w.row(decode, 4, 1, 1, 1);
  w.row(inside, 2, 5, 0, 0);
  w.row(last, 1, 2, 1, 3);

  HostDevice device;
  StepInputs in(device, limits(), {1});
  in.build(w.plan);
  EXPECT_THAT(list(in.ids()), ElementsAre(14, 22, 23, 24, 25, 26, 31, 32));
  EXPECT_THAT(list(in.positions()), ElementsAre(4, 2, 3, 4, 5, 6, 1, 2));
  EXPECT_THAT(list(in.attn().slot_mapping), ElementsAre(8, 38, 39, 0, 1, 2, 13, 14));
  EXPECT_THAT(list(in.attn().cu_q), ElementsAre(0, 1, 6, 8));
  EXPECT_THAT(list(in.attn().seq_lens), ElementsAre(5, 7, 3));
  EXPECT_EQ(in.attn().num_seqs, 3);
  EXPECT_EQ(in.attn().max_q, 5);
  EXPECT_EQ(in.attn().max_seq_len, 7);
  ASSERT_EQ(in.attn().block_tables.shape[1], 2);
  EXPECT_THAT(list(in.attn().block_tables), ElementsAre(5, 2, 9, 0, 3, 0));

  ASSERT_EQ(in.samples().size(), 1u);
  const SampleChunk& chunk = in.samples()[0];
  EXPECT_THAT(list(chunk.rows), ElementsAre(0, 7));
  const SampleBatch& b = chunk.batch;
  EXPECT_EQ(b.num_draws, 4);
  EXPECT_THAT(list(b.row), ElementsAre(0, 1, 1, 1));
  EXPECT_THAT(list(b.position), ElementsAre(5, 3, 3, 3));
  EXPECT_THAT(list<uint64_t>(b.seed),
              ElementsAre(mix64(99, 1), mix64(4, 0), mix64(4, 1), mix64(4, 2)));
  EXPECT_THAT(list<float>(b.temperature), ElementsAre(0.5f, 1, 1, 1));
  EXPECT_THAT(list<float>(b.top_p), ElementsAre(0.9f, 1, 1, 1));
  EXPECT_THAT(list<float>(b.min_p), ElementsAre(0.1f, 0, 0, 0));
  EXPECT_THAT(list(b.top_k), ElementsAre(7, 0, 0, 0));
  EXPECT_FALSE(b.presence || b.history_offsets || b.bias_offsets || b.allowed_mask);
  EXPECT_EQ(in.num_targets(), 0);
  EXPECT_THAT(in.target_chunks(), IsEmpty());
  EXPECT_EQ(in.rows()[0].num_draws, 1);
  EXPECT_EQ(in.rows()[1].num_draws, 0);
  EXPECT_EQ(in.rows()[2].num_draws, 3);
}

// Layers with windows in two tables of their own, whose first blocks are somebody else's by now.
TEST(StepInputsTest, EachTableNamesItsBlocks) {
  World w;
  Sequence& decode = w.sequence(prompt({10, 11, 12, 13, 14, 15, 16, 17}), {18}, {5, 2, 8});
  decode.tables[1] = {{20, 21, 22, 23}, {}, 1, 2};
  Sequence& chunk = w.sequence(prompt({20, 21, 22, 23, 24}), {}, {1, 3});
  chunk.tables[1] = {{30, 31, 32, 33}, {}, 0, 2};
  w.row(decode, 8, 1, 1, 1);
  w.row(chunk, 3, 2, 1, 1);
  StepLimits l = limits();
  l.groups = {{1, 0}, {2, 4}};
  HostDevice device;
  StepInputs in(device, l, {1});
  in.build(w.plan);
  const AttnBatch& b = in.attn();
  EXPECT_EQ(b.num_tables, 3);
  EXPECT_EQ(b.max_blocks(), 3);
  EXPECT_THAT(list(b.block_tables), ElementsAre(5, 2, 8, 0, 20, 22, 0, 21, 23,  //
                                                1, 3, 0, 30, 32, 0, 31, 33, 0));
  const std::vector<std::vector<int32_t>> slots = {{32, 7, 12}, {88, 123, 128}, {92, 127, 132}};
  for (int t = 0; t < 3; ++t) {
    KvView layer;
    layer.table = t;
    EXPECT_EQ(list(b.slots(layer)), slots[size_t(t)]);
  }
}

TEST(StepInputsTest, LogitsInPiecesKeepDrawsWithTheirRows) {
  World w;
  const int draws_of_row[] = {1, 0, 3, 1, 2, 0, 1};
  for (int i = 0; i < 7; ++i) {
    const Sequence& s = w.sequence(prompt({i, i, i}), {}, {i});
    w.row(s, 0, 3, draws_of_row[i] > 0, draws_of_row[i]);
  }
  HostDevice device;
  StepInputs in(device, limits(2), {});
  in.build(w.plan);
  ASSERT_EQ(in.samples().size(), 3u);
  EXPECT_EQ(in.num_draws(), 8);
  const std::vector<std::vector<int32_t>> rows = {{2, 8}, {11, 14}, {20}};
  const std::vector<std::vector<int32_t>> local = {{0, 1, 1, 1}, {0, 1, 1}, {0}};
  const int first[] = {0, 4, 7};
  for (int c = 0; c < 3; ++c) {
    EXPECT_EQ(list(in.samples()[c].rows), rows[c]);
    EXPECT_EQ(list(in.samples()[c].batch.row), local[c]);
    EXPECT_EQ(in.samples()[c].first_draw, first[c]);
    EXPECT_EQ(in.samples()[c].batch.num_draws, int(local[c].size()));
  }
}

TEST(StepInputsTest, PromptTargetsAreThePromptTokensThatFollow) {
  World w;
  GenerateRequest scored = prompt({40, 41, 42, 43, 44});
  scored.sampling.prompt_logprobs = 2;
  const Sequence& a = w.sequence(scored, {}, {0, 1});
  scored.sampling.prompt_logprobs = 5;
  const Sequence& b = w.sequence(scored, {}, {2, 3});
  const Sequence& c = w.sequence(prompt({50, 51, 52}), {}, {4});
  GenerateRequest again = prompt({60, 61, 62});
  again.sampling.prompt_logprobs = 1;
  const Sequence& d = w.sequence(again, {63}, {5});
  w.row(a, 0, 3, 3, 0);  // inside: every position has a next prompt token
  w.row(b, 1, 4, 2, 1);  // the end, two positions wanted: one has a next prompt token
  w.row(c, 0, 3, 1, 1);  // wants none
  w.row(d, 0, 4, 1, 1);  // recomputed after its first token: all were reported
  HostDevice device;
  StepInputs in(device, limits(3), {});
  in.build(w.plan);
  EXPECT_EQ(in.num_targets(), 4);
  EXPECT_EQ(in.prompt_logprobs(), 5);
  EXPECT_THAT(list(in.host_targets()), ElementsAre(41, 42, 43, 44));
  ASSERT_EQ(in.target_chunks().size(), 2u);
  EXPECT_THAT(list(in.target_chunks()[0].rows), ElementsAre(0, 1, 2));
  EXPECT_THAT(list(in.target_chunks()[1].rows), ElementsAre(5));
  EXPECT_THAT(list(in.target_chunks()[1].targets), ElementsAre(44));
  EXPECT_EQ(in.target_chunks()[1].first_target, 3);
  EXPECT_EQ(in.rows()[0].num_targets, 3);
  EXPECT_EQ(in.rows()[1].num_targets, 1);
  EXPECT_EQ(in.rows()[2].num_targets, 0);
  EXPECT_EQ(in.rows()[3].num_targets, 0);
  EXPECT_EQ(in.num_draws(), 3);
}

// What draw `i` of a chunk says about each token of its context.
std::vector<std::pair<int, int>> history(const SampleBatch& b, int i) {
  std::vector<std::pair<int, int>> out;
  const auto offsets = list(b.history_offsets);
  for (int k = offsets[i]; k < offsets[i + 1]; ++k)
    out.push_back({b.history_ids.as<int32_t>()[k], b.history_counts.as<int32_t>()[k]});
  return out;
}
std::vector<std::pair<int, float>> biases(const SampleBatch& b, int i) {
  std::vector<std::pair<int, float>> out;
  const auto offsets = list(b.bias_offsets);
  for (int k = offsets[i]; k < offsets[i + 1]; ++k)
    out.push_back({b.bias_ids.as<int32_t>()[k], b.bias_values.as<float>()[k]});
  return out;
}

TEST(StepInputsTest, HistoriesCountWhatWasGenerated) {
  World w;
  GenerateRequest penal = prompt({7, 8, 7});
  penal.sampling.presence_penalty = 0.5f;
  GenerateRequest repeat = prompt({8, 3});
  repeat.sampling.repetition_penalty = 1.5f;
  const Sequence& a = w.sequence(penal, {8, 9, 9, 9}, {0, 1});
  const Sequence& b = w.sequence(prompt({1, 2}), {5, 5}, {2, 3});
  const Sequence& c = w.sequence(repeat, {8}, {4});
  w.row(a, 6, 1, 1, 1);
  w.row(b, 3, 1, 1, 1);
  w.row(c, 2, 1, 1, 1);
  HostDevice device;
  for (const int rows : {64, 1}) {  // together, and cut apart
    StepInputs in(device, limits(rows), {});
    in.build(w.plan);
    const auto chunk = [&](int draw) -> const SampleBatch& {
      return in.samples()[rows == 1 ? draw : 0].batch;
    };
    const auto local = [&](int draw) { return rows == 1 ? 0 : draw; };
    EXPECT_THAT(history(chunk(0), local(0)),
                UnorderedElementsAre(Pair(7, 0), Pair(8, 1), Pair(9, 3)));
    EXPECT_THAT(history(chunk(1), local(1)), IsEmpty());
    EXPECT_THAT(history(chunk(2), local(2)), UnorderedElementsAre(Pair(8, 1), Pair(3, 0)));
    EXPECT_EQ(chunk(0).presence.as<float>()[local(0)], 0.5f);
    EXPECT_EQ(chunk(1).presence.as<float>()[local(1)], 0.0f);
    EXPECT_EQ(chunk(1).frequency.as<float>()[local(1)], 0.0f);
    EXPECT_EQ(chunk(1).repetition.as<float>()[local(1)], 1.0f);
    EXPECT_EQ(chunk(2).repetition.as<float>()[local(2)], 1.5f);
    EXPECT_FALSE(chunk(0).bias_offsets || chunk(0).allowed_mask);
  }
}

TEST(StepInputsTest, BansLastUntilMinTokensAndBiasesStay) {
  World w;
  GenerateRequest r = prompt({10, 11});
  r.sampling.min_tokens = 2;
  r.sampling.stop_tokens = {70};
  r.sampling.logit_bias = {{20, 1.5f}};
  GenerateRequest ignoring = prompt({10, 11});
  ignoring.sampling.min_tokens = 2;
  ignoring.sampling.stop_tokens = {71};
  ignoring.sampling.ignore_eos = true;
  w.row(w.sequence(r, {}, {0}), 0, 2, 1, 1);           // draws its first
  w.row(w.sequence(r, {12}, {1}), 2, 1, 1, 1);         // its second
  w.row(w.sequence(r, {12, 13}, {2}), 3, 1, 1, 1);     // its third: free
  w.row(w.sequence(ignoring, {12}, {3}), 2, 1, 1, 1);  // an eos would not end it
  w.row(w.sequence(prompt({1}), {}, {4}), 0, 1, 1, 1);
  HostDevice device;
  StepInputs in(device, limits(), {1, 2});
  in.build(w.plan);
  const SampleBatch& b = in.samples()[0].batch;
  const auto banned =
      UnorderedElementsAre(Pair(20, 1.5f), Pair(70, -kInf), Pair(1, -kInf), Pair(2, -kInf));
  EXPECT_THAT(biases(b, 0), banned);
  EXPECT_THAT(biases(b, 1), banned);
  EXPECT_THAT(biases(b, 2), ElementsAre(Pair(20, 1.5f)));
  EXPECT_THAT(biases(b, 3), ElementsAre(Pair(71, -kInf)));
  EXPECT_THAT(biases(b, 4), IsEmpty());
}

// Rows that go on from tokens still on the device, in a step that is filled up to a width.
TEST(StepInputsTest, TokensThatOnlyTheDeviceKnows) {
  World w;
  GenerateRequest penalised = prompt({10, 11});
  penalised.sampling.presence_penalty = 1;
  Sequence& known = w.sequence(prompt({7, 8}), {9}, {0});
  Sequence& unknown = w.sequence(prompt({5}), {6}, {1});
  Sequence& unseen = w.sequence(penalised, {12}, {2});
  known.seq_slot = 4, unknown.seq_slot = 0, unseen.seq_slot = 9;
  w.row(known, 2, 1, 1, 1);
  w.row(unknown, 2, 1, 1, 1);
  w.row(unseen, 3, 1, 1, 1);
  HostDevice device;
  StepLimits l = limits();
  l.overlapped = true;
  l.pad_slot = 77;
  StepInputs in(device, l, {});
  in.build(w.plan);
  EXPECT_EQ(in.width(), 4);
  EXPECT_THAT(list(in.ids()), ElementsAre(9, 0, 0, 0));
  EXPECT_THAT(list(in.positions()), ElementsAre(2, 2, 3, 0));
  EXPECT_THAT(list(in.attn().slot_mapping), ElementsAre(2, 6, 11, 77));
  EXPECT_THAT(list(in.attn().cu_q), ElementsAre(0, 1, 2, 3, 3));
  EXPECT_EQ(in.attn().num_seqs, 3);
  EXPECT_EQ(in.attn().num_decodes, 3);
  EXPECT_THAT(list(in.ids_from_slots().from), ElementsAre(0, 9));
  EXPECT_THAT(list(in.ids_from_slots().to), ElementsAre(1, 2));
  EXPECT_THAT(list(in.unseen_from_slots().from), ElementsAre(9));
  EXPECT_THAT(list(in.unseen_from_slots().to), ElementsAre(2));
  EXPECT_THAT(list(in.unseen()), ElementsAre(-1, -1, -1));
  EXPECT_THAT(list(in.draws_to_slots().from), ElementsAre(0, 1, 2));
  EXPECT_THAT(list(in.draws_to_slots().to), ElementsAre(4, 0, 9));
  const SampleBatch& b = in.samples()[0].batch;
  EXPECT_THAT(list(b.history_ids), UnorderedElementsAre(10, 11, 12));
  EXPECT_THAT(list(b.position), ElementsAre(3, 3, 4));
  // A chunk of a prompt keeps the step from being one of decodes alone.
  Sequence& inside = w.sequence(prompt({1, 2, 3}), {}, {3});
  inside.seq_slot = 1;
  w.row(inside, 0, 2, 0, 0);
  in.build(w.plan);
  EXPECT_EQ(in.width(), 0);
  EXPECT_EQ(in.attn().num_decodes, 3);
}

TEST(StepInputsTest, MasksOfAllowedTokens) {
  World w;
  GenerateRequest r = prompt({10, 11});
  r.sampling.allowed = {0, 31, 32, 99};
  w.row(w.sequence(prompt({1}), {}, {0}), 0, 1, 1, 1);
  w.row(w.sequence(r, {}, {1}), 0, 2, 1, 1);
  HostDevice device;
  StepInputs in(device, limits(), {});
  in.build(w.plan);
  const SampleBatch& b = in.samples()[0].batch;
  ASSERT_EQ(b.allowed_mask.shape[1], 4);
  const auto allowed = [&](int draw, int id) {
    return (b.allowed_mask.row<uint32_t>(draw)[id / 32] >> (id % 32)) & 1;
  };
  for (int id = 0; id < 100; ++id) {
    EXPECT_TRUE(allowed(0, id));
    EXPECT_EQ(allowed(1, id), id == 0 || id == 31 || id == 32 || id == 99) << id;
  }
}

TEST(StepInputsDeathTest, WhatNoSchedulerMayAsk) {
  HostDevice device;
  StepInputs in(device, limits(), {});
  const auto build = [&](std::vector<TokenId> tokens, int begin, int count, int blocks) {
    World w;
    w.row(w.sequence(prompt(std::move(tokens)), {}, std::vector<BlockId>(size_t(blocks), 1)), begin,
          count, 1, 1);
    in.build(w.plan);
  };
  EXPECT_DEATH(build({1, 100}, 0, 2, 1), "vocab_size");
  EXPECT_DEATH(build({1, -1}, 0, 2, 1), "id >= 0");
  EXPECT_DEATH(build({1, 2}, 1, 2, 1), "num_tokens");
  EXPECT_DEATH(build({1, 2, 3, 4, 5}, 0, 5, 1), "blocks");
  EXPECT_DEATH(build({1, 2}, 0, 0, 1), "count > 0");
}

// A full step of everything at once, again and again: memory was reserved for it.
TEST(StepInputsTest, AllocatesNothingWithinItsLimits) {
  HostDevice device;
  StepInputs in(device, limits(3), {1, 2});
  World w;
  std::mt19937 rng(1);
  const auto random_tokens = [&](int n) {
    std::vector<TokenId> t;
    for (int i = 0; i < n; ++i) t.push_back(TokenId(rng() % 100));
    return t;
  };
  for (int i = 0; i < 16; ++i) {
    GenerateRequest r = prompt(random_tokens(60));
    r.sampling.frequency_penalty = 0.1f;
    r.sampling.min_tokens = 10;
    r.sampling.allowed = {5, 6};
    r.sampling.prompt_logprobs = 3;
    for (int b = 0; b < 300; ++b) r.sampling.logit_bias.push_back({b % 100, 1.0f});
    const Sequence& s = w.sequence(std::move(r), random_tokens(4), std::vector<BlockId>(16, i));
    w.row(s, i % 2 ? 60 : 52, 4, 4, 1);
  }
  ASSERT_EQ(w.plan.num_tokens, 64);
  const int device_before = device.num_allocations;
  const long before = num_news;
  for (int i = 0; i < 100; ++i) in.build(w.plan);
  EXPECT_EQ(num_news - before, 0);
  EXPECT_EQ(device.num_allocations - device_before, 0);
  EXPECT_EQ(in.num_draws(), 16);
  EXPECT_EQ(in.num_targets(), 8 * 4);
}

}  // namespace
}  // namespace sluice
