// The CUDA engine's steps: a whole model, one step ahead of the host, with replayed steps, swaps
// and forks, on a device that does everything at the last moment.
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "engine/build.h"
#include "engine/make_model.h"
#include "kernels/cuda/step_trace.h"
#include "tests/simt/cuda_engine.h"
#include "tests/unit/engine/model_files.h"

namespace sluice {
namespace {

// As ExactnessTest, without recomputation: a token that was decoded is computed by another kernel
// when it comes back as part of a prompt. With our own products: those of NVIDIA's library may
// depend on how many rows there are.
void expect_exact(Rank rank, uint64_t num_seeds, std::optional<DType> kv_dtype = std::nullopt) {
  const Requests requests = requests_of(rank);
  const Scenario alone = [&] {
    Scenario s = roomy();
    s.kv_dtype = kv_dtype;
    s.policy.prefix_caching = false;
    return s;
  }();
  Traces expected;
  for (const auto& one : requests) expected.merge(Trial(rank, alone, {one}).go().traces);
  int64_t swaps = 0, cached = 0, replayed = 0, held = 0;
  for (uint64_t seed = 1; seed <= num_seeds; ++seed) {
    Scenario s = roomy();
    s.seed = seed;
    s.kv_dtype = kv_dtype;
    s.policy.max_step_tokens = seed % 2 == 0 ? 17 : 48;
    s.policy.pressure = Policy::Pressure::swap;
    s.policy.max_preemptions = 1000;
    s.policy.prefix_caching = s.policy.write_behind = seed % 3 != 0;
    s.num_blocks = largest_need(requests, s.block_size) * (seed % 2 == 0 ? 1 : 2);
    s.num_host_blocks = kManyBlocks;
    s.longest_hold = int(seed * 3 % 8);
    s.at_once = seed % 2 == 0;
    s.leaves = seed % 3 == 1;
    SCOPED_TRACE(testing::Message() << s);
    const Outcome out = Trial(rank, s, requests).go();
    ASSERT_NO_FATAL_FAILURE(expect_same(out, expected));
    ASSERT_FALSE(testing::Test::HasFailure());
    swaps += out.stats.swaps, cached += out.stats.cached_tokens;
    replayed += out.replayed, held += out.held_plans;
  }
  EXPECT_GT(swaps, 2 * int64_t(num_seeds));
  EXPECT_GT(cached, 25 * int64_t(num_seeds));
  EXPECT_GT(replayed, 25 * int64_t(num_seeds));
  EXPECT_GT(held, int64_t(num_seeds));
}

// The report of a failure: the two newest steps, each op's shapes once, and which came last.
TEST(StepTrace, TellsOfTheStepsUnderWay) {
  cuda::StepTrace trace;
  int32_t cu[] = {0, 7, 8, 9};
  AttnBatch batch;
  batch.num_seqs = 3, batch.num_decodes = 2, batch.max_seq_len = 40;
  batch.cu_q = Tensor::of(cu, DType::i32, {4});
  const auto rows = [](int64_t n, int64_t d) { return Tensor::of(nullptr, DType::bf16, {n, d}); };
  const Tensor x = rows(9, 64), up = rows(9, 96),
               w = Tensor::of(nullptr, DType::fp8_e4m3, {96, 64});
  trace.add("embed", {&x});
  trace.begin_step(batch);
  for (int layer = 0; layer < 3; ++layer) {
    trace.add("rms_norm", {&x, &x});
    trace.add("matmul", {&up, &x, &w});
    if (layer < 2) trace.add("silu_mul", {&x, &up});
  }
  EXPECT_EQ(trace.to_text(),
            "  step 1: 3 sequences, of them 2 decoding, 9 tokens, longest context 40\n"
            "    rms_norm: bf16 [9, 64], bf16 [9, 64]; 3 times\n"
            "    matmul: bf16 [9, 96], bf16 [9, 64], fp8_e4m3 [96, 64]; 3 times  <- the last\n"
            "    silu_mul: bf16 [9, 64], bf16 [9, 96]; 2 times\n"
            "  before the first step:\n"
            "    embed: bf16 [9, 64]  <- the last\n");
  trace.begin_capture();
  trace.add("matmul", {&up, &x, &w});
  EXPECT_TRUE(trace.to_text().starts_with("  captured just now, for later steps:\n    matmul: "));
  const cuda::StepTrace::Ops captured = trace.end_capture();
  EXPECT_NE(trace.to_text().find("[96, 64]; 3 times  <- the last"), std::string::npos);
  for (int step = 2; step <= 3; ++step) trace.begin_step(batch);
  trace.replay(captured);
  for (int64_t i = 1; i <= 70; ++i) {
    const Tensor other = rows(1, i);
    trace.add("add", {&other});
  }
  const std::string text = trace.to_text();
  EXPECT_TRUE(text.starts_with("  step 3: ")) << text;
  EXPECT_NE(text.find("    matmul: bf16 [9, 96], bf16 [9, 64], fp8_e4m3 [96, 64]\n"),
            std::string::npos);
  EXPECT_NE(text.find("    add: bf16 [1, 63]  <- the last\n    and 7 others\n  step 2: "),
            std::string::npos);
}

TEST_F(CudaEngine, WhateverHappensAround) {
  expect_exact(load_cuda(llama(true), "auto", true), 4);
  expect_exact(load_cuda(mixed_windows(), "auto", true), 2);
}

// Decodes by hand, of sequences whose prompts have six tokens.
class Decodes {
 public:
  static constexpr int kMost = 24;
  explicit Decodes(Rank& rank, std::optional<size_t> graph_bytes = {}, bool times_kernels = false)
      : runner(*rank.device, *rank.model,
               {.max_seqs = kMost,
                .max_step_tokens = kMost * kPrompt,
                .max_model_len = rank.model->max_len(),
                .num_blocks = 2 * kMost,
                .block_size = 16,
                .kv_dtype = DType::bf16,
                .logit_bytes = 1,
                .times_kernels = times_kernels,
                .graph_bytes = graph_bytes}) {
    sequences_.resize(kMost);
    for (int i = 0; i < kMost; ++i) {
      Sequence& s = sequences_[size_t(i)];
      s.request = &request_;
      s.seq_slot = i;
      s.num_prompt = kPrompt;
      for (int t = 0; t < kPrompt; ++t)
        s.tokens.push_back((i * 31 + t * 7) % rank.model->config().vocab_size);
      s.tables[0].blocks = {i, kMost + i};
    }
    step(kMost, kPrompt);
  }
  // Of the first `rows`; true: it was replayed. Results go to `bits`.
  bool step(int rows, int count = 1, bool ahead = false) {
    StepPlan plan;
    plan.id = ++id_;
    for (int i = 0; i < rows; ++i) {
      Sequence& s = sequences_[size_t(i)];
      plan.rows.push_back({&s, s.num_tokens() - count, count, 1, 1});
    }
    plan.num_tokens = rows * count;
    runner.launch(plan);
    if (ahead) {
      EXPECT_FALSE(runner.work_ahead());
    }
    const StepResult r = runner.collect();
    for (int i = 0; i < rows; ++i) {
      sequences_[size_t(i)].tokens.push_back(r.tokens[size_t(i)]);
      bits.push_back(std::bit_cast<uint32_t>(r.logprobs[size_t(i)]));
    }
    return !r.eager;
  }
  int work() {
    int pieces = 0;
    while (runner.work_ahead()) ++pieces;
    return pieces;
  }
  std::vector<uint32_t> bits;
  RankRunner runner;

 private:
  static constexpr int kPrompt = 6;
  GenerateRequest request_;
  std::vector<Sequence> sequences_;
  uint64_t id_ = 0;
};

// While there is nothing to do all widths are captured, for both flights, and whatever lies in the
// cache stays what it is. Logits of the widest are computed in two parts, and of the others at
// once.
TEST_F(CudaEngine, StepsAreCapturedWhileItIsIdle) {
  Rank rank = load_cuda(llama(true));
  Decodes eager(rank), replayed(rank);
  EXPECT_EQ(replayed.work(), 2 * 6);
  for (const int rows : {1, 1, 2, 3, 3, 4, 5, 8, 9, 16, 17, 24, 24, 2}) {
    EXPECT_FALSE(eager.step(rows)) << rows;
    EXPECT_TRUE(replayed.step(rows)) << rows;
  }
  EXPECT_EQ(replayed.bits, eager.bits);
  EXPECT_EQ(replayed.work(), 0);
}

// While there is always a step under way, each is captured beside the second of its width in its
// flight, and what is there next is for those that came most.
TEST_F(CudaEngine, StepsAreCapturedBesideOthers) {
  Rank rank = load_cuda(llama(true));
  Decodes d(rank);
  std::vector<bool> replayed;
  for (int i = 0; i < 6; ++i) replayed.push_back(d.step(3, 1, true));
  EXPECT_THAT(replayed, testing::ElementsAre(false, false, false, false, true, true));
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(d.step(7, 1, true));  // the third's flight is done
  EXPECT_FALSE(d.step(2, 1, true));
  EXPECT_TRUE(d.runner.work_ahead());  // the other flight
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(d.step(7));
  EXPECT_EQ(d.work(), 2 * 6 - 4);
}

// Then steps are launched as they always can be.
TEST_F(CudaEngine, StepsAreNotCapturedWithoutMemory) {
  const std::string faults = testing::TempDir() + "/capture-fault-" + std::to_string(getpid());
  Rank rank =
      load_onto(cuda::make_device(*cuda::open_runtime(0, faults), DType::bf16), llama(true));
  if (!rank.device->name().starts_with("cuda (emulated")) GTEST_SKIP() << "an emulated fault";
  std::ofstream(faults) << "capture";
  Decodes d(rank);
  EXPECT_EQ(d.work(), 1);
  for (int i = 0; i < 6; ++i) EXPECT_FALSE(d.step(3, 1, true));
  std::filesystem::remove(faults);
  EXPECT_EQ(d.work(), 0);
}

// Rows stored by columns, and rows that are spread over a tensor. (Those of fp8:
// tests/e2e/cuda_test.py.) With our own products: the library's are chosen by time at each load.
TEST_F(CudaEngine, WeightsMadeThereAreThoseOfAFile) {
  for (const auto& [name, stored] :
       {std::pair{"tiny-gpt2", "bf16"}, std::pair{"tiny-falcon", "f32"}}) {
    SCOPED_TRACE(name);
    TempDir dir;
    ASSERT_TRUE(make_model(name, 0, stored, dir.path()).ok());
    std::vector<std::vector<uint32_t>> bits;
    for (const char* format : {"auto", "dummy"}) {
      Config::Model config;
      config.path = dir.path().string();
      config.load_format = format;
      Rank rank;
      rank.device = cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16, true);
      auto model = load_model(config, *rank.device, 1);
      ASSERT_TRUE(model.ok()) << message_of(model.status());
      rank.model = *std::move(model);
      bits.push_back(Decodes(rank).bits);
      std::filesystem::remove(dir.path() / "model.safetensors");
    }
    EXPECT_EQ(bits[0], bits[1]);
  }
}

// With room for the library's kernels that sum up a product of parts: the emulator has none. The
// families whose layers have most kernels, and one that leaves some out.
TEST_F(CudaEngine, CapturedStepsFitIntoWhatIsSetAside) {
  for (const char* name : {"tiny-gemma2", "tiny-qwen2-moe", "tiny-decilm", "tiny-gpt2"}) {
    SCOPED_TRACE(name);
    TempDir dir;
    ASSERT_TRUE(make_model(name, 0, "bf16", dir.path(), false).ok());
    const auto device = cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16);
    Config config;
    config.model.path = dir.path().string();
    config.model.load_format = "dummy";
    const auto model = load_model(config.model, *device, 1);
    ASSERT_TRUE(model.ok()) << message_of(model.status());
    auto options = runner_options(config, **model, device->ops());
    ASSERT_TRUE(options.ok()) << message_of(options.status());
    options->max_seqs = 2, options->max_step_tokens = 4, options->num_blocks = 4;
    RankRunner runner(*device, **model, *options);
    while (runner.work_ahead()) {
    }
    const size_t planned = RankRunner::graph_bytes(*device, **model, *options);
    EXPECT_GT(runner.graph_bytes(), planned / 5);
    EXPECT_LE(runner.graph_bytes(), planned * 4 / 5);
  }
}

// Beyond it steps are launched as they always can be.
TEST_F(CudaEngine, NoMoreIsCapturedThanWasSetAside) {
  Rank rank = load_cuda(llama(true));
  const size_t room = [&] {
    Decodes all(rank);
    EXPECT_EQ(all.work(), 12);
    return all.runner.graph_bytes() / 2;
  }();
  Decodes eager(rank), some(rank, room);
  EXPECT_GT(some.work(), 3);
  EXPECT_LE(some.runner.graph_bytes(), room);
  EXPECT_GT(some.runner.graph_bytes(), room * 3 / 4);
  std::vector<bool> replayed;
  for (const int rows : {1, 1, 24, 24}) {
    EXPECT_FALSE(eager.step(rows));
    replayed.push_back(some.step(rows));
  }
  EXPECT_THAT(replayed, testing::ElementsAre(true, true, false, false));
  EXPECT_EQ(some.bits, eager.bits);
  EXPECT_EQ(some.work(), 0);
}

// Where kernels are timed, so is what lies between two steps.
TEST_F(CudaEngine, StepsAndWhatIsBetweenThemAreTimed) {
  Rank rank = load_cuda(llama(true));
  Decodes untimed(rank), d(rank, {}, true);
  const RankRunner::KernelTimes first = d.runner.take_times();
  EXPECT_GT(first.steps, Nanos{0});
  EXPECT_EQ(first.between, Nanos{0});  // there was no step before
  for (int i = 0; i < 3; ++i) d.step(2);
  const RankRunner::KernelTimes three = d.runner.take_times();
  EXPECT_GT(three.steps, Nanos{0});
  EXPECT_GT(three.between, Nanos{0});
  EXPECT_EQ(untimed.runner.take_times().steps, Nanos{0});
}

// What the largest need, whichever comes first.
TEST_F(CudaEngine, WorkspaceIsForEveryKindOfHeads) {
  const auto device = cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16);
  OpsLimits limits;
  limits.max_seqs = 4, limits.max_tokens = 32, limits.max_context = 4096, limits.vocab_size = 300;
  const AttentionHeads few{2, 1, 32}, many{16, 8, 32};
  const auto bytes = [&](std::vector<AttentionHeads> heads) {
    limits.heads = std::move(heads);
    return device->ops().workspace_bytes(limits);
  };
  const size_t lists = bytes({few, few}) - bytes({few});
  EXPECT_EQ(bytes({few, many}), bytes({many}) + lists);
  EXPECT_EQ(bytes({many, few}), bytes({many}) + lists);
}

TEST_F(CudaEngine, WorkspaceIsForTheExpertsOfALargestStep) {
  const auto device = cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16);
  OpsLimits limits;
  limits.max_seqs = limits.max_tokens = limits.max_context = 32, limits.vocab_size = 300;
  limits.heads = {{2, 1, 32}};
  const size_t without = device->ops().workspace_bytes(limits);
  limits.num_experts = 128, limits.max_expert_rows = 1 << 20;
  EXPECT_GT(device->ops().workspace_bytes(limits), without + (sizeof(int32_t) << 20));
}

// Lists of attention's work for each kind of heads, and layers without any.
TEST_F(CudaEngine, WhateverHappensAroundLayersThatDiffer) {
  auto device = cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16, true);
  expect_exact(load_golden(std::move(device), GoldenCase("nemotron_nas")), 1);
}

TEST_F(CudaEngine, WhateverHappensAroundInFp8) {
  if (!has_fp8()) GTEST_SKIP() << "this GPU has no products of fp8";
  expect_exact(load_cuda(llama(true), "fp8"), 1, DType::fp8_e4m3);  // layers and cache
}

}  // namespace
}  // namespace sluice
