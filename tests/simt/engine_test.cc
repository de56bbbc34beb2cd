// The CUDA engine without a GPU: a whole model, one step ahead of the host, with replayed steps,
// swaps and forks, on a device that does everything at the last moment.
#include "kernels/cuda/device.h"
#include "tests/golden/models/golden_model.h"
#include "tests/unit/engine/trial.h"

namespace sluice {
namespace {

// On the emulator; linked with the other runtime, on a GPU.
class CudaEngine : public testing::Test {
 protected:
  void SetUp() override {
    if (auto runtime = cuda::open_runtime(0, ""); !runtime.ok())
      GTEST_SKIP() << message_of(runtime.status());
  }
  static Rank load_cuda(const TinyModel& tiny, bool batch_invariant = false) {
    auto runtime = *cuda::open_runtime(0, "");
    return load_onto(cuda::make_device(std::move(runtime), DType::bf16, batch_invariant), tiny);
  }
};

Scenario roomy() {
  Scenario s;
  s.policy = policy_of("sluice");
  s.policy.max_step_tokens = 32;
  s.policy.max_seqs = 16;
  s.block_size = 16;
  return s;
}

std::vector<float> prompt_logprobs(Rank& rank, int length) {
  GenerateRequest r;
  const int vocab = std::min(rank.model->config().vocab_size, 300);
  for (int t = 0; t < length; ++t) r.prompt.push_back(TokenId(mix64(7, t) % vocab));
  r.sampling.prompt_logprobs = 0;
  r.sampling.max_tokens = 1;
  const Scenario s = roomy();
  const Outcome out = Trial(rank, s, {{1, r}}).go();
  std::vector<float> logprobs;
  for (const auto& [token, bits] : out.traces.at({1, 0}).prompt)
    logprobs.push_back(std::bit_cast<float>(bits));
  return logprobs;
}

// Activations are bf16 here and f32 there.
TEST_F(CudaEngine, LogprobsFollowTheCpus) {
  for (const auto& [tiny, invariant] :
       {std::pair(llama(true), false), {llama(true), true}, {qwen3(), false}}) {
    Rank cpu = load(tiny, "auto", 1), cuda = load_cuda(tiny, invariant);
    const std::vector<float> want = prompt_logprobs(cpu, 150), got = prompt_logprobs(cuda, 150);
    ASSERT_EQ(want.size(), 149u);
    ASSERT_EQ(got.size(), want.size());
    double squares = 0, size = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      squares += std::pow(got[i] - want[i], 2), size += std::pow(want[i], 2);
      EXPECT_NEAR(got[i], want[i], 0.6) << i;
    }
    EXPECT_LT(std::sqrt(squares / size), 0.02);
  }
}

Rank load_golden(std::unique_ptr<Device> device, const GoldenCase& golden) {
  TempDir dir;
  write_golden_model(golden, dir.path(), "BF16", golden.json["config"]);
  Config::Model config;
  config.path = dir.path().string();
  config.max_model_len = golden.json.value("max_model_len", 0);
  Rank rank;
  rank.device = std::move(device);
  auto model = load_model(config, *rank.device, 1);
  EXPECT_TRUE(model.ok()) << message_of(model.status());
  rank.model = *std::move(model);
  return rank;
}

// Every trait once, windows and caps beyond where they begin to matter.
TEST_F(CudaEngine, FamiliesFollowTheCpu) {
  for (const char* name : {"gemma2", "gemma3", "phi3_long", "olmo2", "granite", "gpt2", "neox",
                           "opt", "falcon_40b", "phi", "qwen2_moe", "mixtral"}) {
    const GoldenCase golden(name);
    Config config;
    config.device.kind = "cpu";
    config.device.threads = 1;
    Rank cpu = load_golden(*make_device(config), golden);
    Rank cuda = load_golden(cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16), golden);
    const std::vector<float> want = prompt_logprobs(cpu, 120), got = prompt_logprobs(cuda, 120);
    ASSERT_EQ(want.size(), got.size());
    double squares = 0, size = 0;
    for (size_t i = 0; i < want.size(); ++i)
      squares += std::pow(got[i] - want[i], 2), size += std::pow(want[i], 2);
    const double error = std::sqrt(squares / size);
    std::printf("%s: %.2g\n", name, error);
    // A router near a tie sends a token elsewhere.
    EXPECT_LT(error, golden.json["config"].contains("num_experts_per_tok") ? 0.05 : 0.02) << name;
  }
}

// As ExactnessTest, without recomputation: a token that was decoded is computed by another kernel
// when it comes back as part of a prompt. With our own products: those of NVIDIA's library may
// depend on how many rows there are.
TEST_F(CudaEngine, WhateverHappensAround) {
  Rank rank = load_cuda(llama(true), true);
  const Requests requests = requests_of(rank);
  const Scenario alone = [] {
    Scenario s = roomy();
    s.policy.prefix_caching = false;
    return s;
  }();
  Traces expected;
  for (const auto& one : requests) expected.merge(Trial(rank, alone, {one}).go().traces);
  int64_t swaps = 0, cached = 0, replayed = 0, held = 0;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    Scenario s = roomy();
    s.seed = seed;
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
    ASSERT_FALSE(HasFailure());
    swaps += out.stats.swaps, cached += out.stats.cached_tokens;
    replayed += out.replayed, held += out.held_plans;
  }
  EXPECT_GT(swaps, 10);
  EXPECT_GT(cached, 100);
  EXPECT_GT(replayed, 100);
  EXPECT_GT(held, 5);
}

}  // namespace
}  // namespace sluice
