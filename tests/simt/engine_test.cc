// The CUDA engine without a GPU: a whole model, one step ahead of the host, with replayed steps,
// swaps and forks, on a device that does everything at the last moment.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include <gmock/gmock.h>

#include "base/float16.h"
#include "base/float8.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/step_trace.h"
#include "kernels/quantize.h"
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
  static Rank load_cuda(const TinyModel& tiny, const std::string& dtype = "auto",
                        bool batch_invariant = false, bool overlap_kernels = true) {
    auto runtime = *cuda::open_runtime(0, "");
    return load_onto(
        cuda::make_device(std::move(runtime), DType::bf16, batch_invariant, {}, overlap_kernels),
        tiny, dtype);
  }
  static bool has_fp8() { return (*cuda::open_runtime(0, ""))->info().has_fp8_products; }
};

Scenario roomy() {
  Scenario s;
  s.policy = policy_of("sluice");
  s.policy.max_step_tokens = 32;
  s.policy.max_seqs = 16;
  s.block_size = 16;
  return s;
}

std::vector<float> prompt_logprobs(Rank& rank, int length,
                                   std::optional<DType> kv_dtype = std::nullopt) {
  GenerateRequest r;
  const int vocab = std::min(rank.model->config().vocab_size, 300);
  for (int t = 0; t < length; ++t) r.prompt.push_back(TokenId(mix64(7, t) % vocab));
  r.sampling.prompt_logprobs = 0;
  r.sampling.max_tokens = 1;
  Scenario s = roomy();
  s.kv_dtype = kv_dtype;
  const Outcome out = Trial(rank, s, {{1, r}}).go();
  std::vector<float> logprobs;
  for (const auto& [token, bits] : out.traces.at({1, 0}).prompt)
    logprobs.push_back(std::bit_cast<float>(bits));
  return logprobs;
}

// Activations are bf16 here and f32 there.
TEST_F(CudaEngine, LogprobsFollowTheCpus) {
  for (const auto& [tiny, invariant] : {std::pair(llama(true), false),
                                        {llama(true), true},
                                        {qwen3(), false},
                                        {mixed_windows(), true}}) {
    Rank cpu = load(tiny, "auto", 1), cuda = load_cuda(tiny, "auto", invariant);
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

// Scales are the checkpoint's. Codes differ where a rounding of bf16 was between them.
TEST_F(CudaEngine, LogprobsOfACacheInFp8FollowTheCpus) {
  TinyModel tiny = qwen3();
  tiny.k_scale = 1.0f / 64, tiny.v_scale = 3.0f / 128;
  Rank cpu = load(tiny, "auto", 1), cuda = load_cuda(tiny);
  for (const Rank* rank : {&cpu, &cuda}) {
    const LayerKv layer = rank->model->kv_shape().layers.at(1);
    EXPECT_EQ(layer.k_scale, tiny.k_scale);
    EXPECT_EQ(layer.v_scale, tiny.v_scale);
  }
  const auto fp8 = DType::fp8_e4m3;
  const auto off = [](const std::vector<float>& got, const std::vector<float>& want) {
    double squares = 0, size = 0;
    for (size_t i = 0; i < want.size(); ++i)
      squares += std::pow(got[i] - want[i], 2), size += std::pow(want[i], 2);
    return std::sqrt(squares / size);
  };
  const std::vector<float> want = prompt_logprobs(cpu, 150, fp8);
  const double between = off(prompt_logprobs(cuda, 150, fp8), want);
  const double of_fp8 = off(prompt_logprobs(cpu, 150), want);
  std::printf("logprobs are %.3f apart; fp8 moved them by %.3f\n", between, of_fp8);
  EXPECT_LT(between, 0.03);
  EXPECT_GT(of_fp8, 0.003);
}

Rank load_golden(std::unique_ptr<Device> device, const GoldenCase& golden,
                 const std::string& stored = "BF16") {
  TempDir dir;
  const Json& config_json = golden.json["config"];
  write_golden_model(golden, dir.path(), stored,
                     stored == "F8_E4M3" ? with_fp8(config_json) : config_json);
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
  for (const char* name :
       {"gemma2", "gemma3", "phi3_long", "olmo2", "granite", "gpt2", "neox", "opt", "falcon_40b",
        "phi", "qwen2_moe", "mixtral", "falcon_rw", "bloom", "nemotron_nas", "openelm"}) {
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

// Here layers are widened, since results must not depend on the batch; experts stay as stored.
TEST_F(CudaEngine, ExpertsInFp8FollowTheCpus) {
  for (const char* name : {"mixtral", "qwen2_moe"}) {
    const GoldenCase golden(name);
    const auto on_gpu = [&](const char* stored) {
      return load_golden(cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16, true), golden,
                         stored);
    };
    Config config;
    config.device.kind = "cpu";
    config.device.threads = 1;
    Rank cpu = load_golden(*make_device(config), golden, "F8_E4M3"), cuda = on_gpu("F8_E4M3");
    EXPECT_EQ(cuda.model->weight_dtype(), DType::fp8_e4m3);
    size_t saved = 0;  // a byte of each weight, but for the scale of each row
    for (const Json& t : golden.json["tensors"])
      if (t["name"].get<std::string>().find(".experts.") != std::string::npos)
        saved += t["shape"][0].get<size_t>() * (t["shape"][1].get<size_t>() - sizeof(float));
    EXPECT_EQ(cuda.model->weight_bytes() + saved, on_gpu("BF16").model->weight_bytes());
    const std::vector<float> want = prompt_logprobs(cpu, 120), got = prompt_logprobs(cuda, 120);
    ASSERT_EQ(want.size(), got.size());
    double squares = 0, size = 0;
    for (size_t i = 0; i < want.size(); ++i)
      squares += std::pow(got[i] - want[i], 2), size += std::pow(want[i], 2);
    std::printf("%s: %.2g\n", name, std::sqrt(squares / size));
    EXPECT_LT(std::sqrt(squares / size), 0.05) << name;  // as FamiliesFollowTheCpu
  }
}

// A product in fp8 is that of the stored codes with x quantised by the row; a layer whose sizes do
// not suit it is widened. Sources are of every type.
TEST_F(CudaEngine, Fp8ProductsAreOfQuantisedRows) {
  if (!has_fp8()) GTEST_SKIP() << "this GPU has no products of fp8";
  const auto device = cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16);
  Ops& ops = device->ops();
  OpsLimits limits;
  limits.max_seqs = limits.max_tokens = limits.max_context = 32, limits.max_fp8_inputs = 272;
  limits.vocab_size = 300, limits.heads = {{2, 2, 32}};
  ops.reserve(limits);
  for (const auto& [out, in, from_fp8] : {std::tuple{48, 272, true},
                                          {48, 272, false},
                                          {16, 16, false},
                                          {40, 272, true},
                                          {48, 264, true}}) {
    const bool fits = out % 16 == 0 && in % 16 == 0;
    std::mt19937 rng(3);
    std::normal_distribution<float> normal;
    std::vector<float> source(size_t(out * in)), scales(static_cast<size_t>(out)), stored;
    std::vector<uint8_t> codes(source.size());
    for (float& v : source) v = normal(rng);
    for (int r = 0; r < out; ++r)
      quantize_row(&codes[size_t(r * in)], &scales[size_t(r)], &source[size_t(r * in)], in);
    for (size_t i = 0; i < codes.size(); ++i)
      stored.push_back(from_e4m3(codes[i]) * scales[i / size_t(in)]);
    const auto memory =
        device->allocate(ops.weight_bytes(DType::fp8_e4m3, out, in), Memory::device);
    const Weight w = ops.make_weight(memory.get(), DType::fp8_e4m3, out, in);
    EXPECT_EQ(w.data.dtype, fits ? DType::fp8_e4m3 : DType::bf16);
    for (const auto& [first, count] : {std::pair{0, 5}, {5, out - 5}}) {
      if (from_fp8) {
        ops.pack_rows(w, first,
                      Tensor::of(codes.data(), DType::fp8_e4m3, {out, in}).rows(first, count),
                      Tensor::of(scales.data(), DType::f32, {out}).rows(first, count));
      } else {
        ops.pack_rows(w, first,
                      Tensor::of(source.data(), DType::f32, {out, in}).rows(first, count));
      }
    }
    for (const int rows : {1, 7, 32}) {
      const auto x_memory = device->allocate(size_t(rows * in) * 2, Memory::pinned_host);
      const auto y_memory = device->allocate(size_t(rows * out) * 4, Memory::pinned_host);
      const Tensor x = Tensor::of(x_memory.get(), DType::bf16, {rows, in});
      const Tensor y = Tensor::of(y_memory.get(), DType::f32, {rows, out});
      for (int i = 0; i < rows * in; ++i) x.as<uint16_t>()[i] = to_bf16(normal(rng));
      ops.matmul(y, x, w);
      device->sync(device->record(device->compute_stream()));
      double error = 0, norm = 0;
      for (int r = 0; r < rows; ++r) {
        std::vector<float> wide, values;
        for (int k = 0; k < in; ++k) wide.push_back(from_bf16(x.row<uint16_t>(r)[k]));
        float largest = 0;
        for (const float v : wide) largest = std::max(largest, std::fabs(v));
        for (const float v : wide)
          values.push_back(fits ? from_e4m3(to_e4m3(v * (448 / largest))) * (largest / 448) : v);
        for (int c = 0; c < out; ++c) {
          double sum = 0;
          for (int k = 0; k < in; ++k) {
            const float weight = stored[size_t(c * in + k)];
            sum += double(values[size_t(k)]) * (fits ? weight : from_bf16(to_bf16(weight)));
          }
          error += std::pow(y.row<float>(r)[c] - sum, 2), norm += sum * sum;
        }
      }
      EXPECT_LT(std::sqrt(error / norm), 1e-5) << out << " " << in << " " << rows;
    }
  }
}

// What norms and gates hand on as codes gives the products of what they hand on in 16 bits.
TEST_F(CudaEngine, Fp8RowsGiveTheSameProducts) {
  if (!has_fp8()) GTEST_SKIP() << "this GPU has no products of fp8";
  const auto device = cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16);
  Ops& ops = device->ops();
  constexpr int kRows = 5, kWidth = 272;
  OpsLimits limits;
  limits.max_seqs = limits.max_tokens = limits.max_context = 32, limits.max_fp8_inputs = kWidth;
  limits.vocab_size = 300, limits.heads = {AttentionHeads{2, 2, 32}};
  ops.reserve(limits);
  std::vector<Device::Buffer> memory;
  const auto take = [&](DType type, int64_t rows, int64_t columns) {
    memory.push_back(device->allocate(size_t(rows * columns) * 4, Memory::pinned_host));
    return Tensor::of(memory.back().get(), type, {rows, columns});
  };
  std::mt19937 rng(4);
  std::normal_distribution<float> normal;
  const auto noise = [&](Tensor t) {
    for (int64_t i = 0; i < t.size(); ++i) t.as<uint16_t>()[i] = to_bf16(normal(rng));
    return t;
  };
  Tensor source = take(DType::f32, 48, kWidth), norm = take(DType::f32, 1, kWidth);
  for (const Tensor& t : {source, norm})
    for (int64_t i = 0; i < t.size(); ++i) t.as<float>()[i] = normal(rng);
  norm = Tensor::of(norm.data, DType::f32, {kWidth});
  memory.push_back(device->allocate(ops.weight_bytes(DType::fp8_e4m3, 48, kWidth), Memory::device));
  const Weight w = ops.make_weight(memory.back().get(), DType::fp8_e4m3, 48, kWidth);
  ops.pack_rows(w, 0, source);
  ASSERT_TRUE(ops.takes_fp8_rows(w));
  const Tensor x = noise(take(DType::bf16, kRows, kWidth)),
               gates = noise(take(DType::bf16, kRows, 2 * kWidth)),
               residual = noise(take(DType::bf16, kRows, kWidth)),
               out = take(DType::bf16, kRows, kWidth);
  const std::function<void(Tensor)> kinds[] = {[&](Tensor to) { ops.rms_norm(to, x, norm, 1e-5f); },
                                               [&](Tensor to) {
                                                 ops.add(residual, gates.cols(0, kWidth), x);
                                                 ops.add_rms_norm(to, residual, x, norm, 1e-5f);
                                               },
                                               [&](Tensor to) { ops.silu_mul(to, gates); },
                                               [&](Tensor to) { ops.gelu_mul(to, gates); }};
  for (const auto& write : kinds) {
    const Tensor y = take(DType::f32, kRows, 48), z = take(DType::f32, kRows, 48);
    write(out);
    ops.matmul(y, out, w);
    write(fp8_rows(out));
    ops.matmul(z, fp8_rows(out), w);
    device->sync(device->record(device->compute_stream()));
    EXPECT_NE(y.as<float>()[0], 0);
    EXPECT_EQ(std::memcmp(y.data, z.data, size_t(y.size()) * sizeof(float)), 0);
  }
}

// The same codes of weights; there activations stay f32, here each row is rounded to fp8.
TEST_F(CudaEngine, Fp8LogprobsFollowTheCpus) {
  if (!has_fp8()) GTEST_SKIP() << "this GPU has no products of fp8";
  for (const TinyModel& tiny : {llama(true), qwen3()}) {
    Rank cpu = load(tiny, "auto", 1, "fp8"), cuda = load_cuda(tiny, "fp8");
    EXPECT_EQ(cuda.model->weight_dtype(), DType::fp8_e4m3);
    const std::vector<float> want = prompt_logprobs(cpu, 150), got = prompt_logprobs(cuda, 150);
    double squares = 0, size = 0;
    for (size_t i = 0; i < want.size(); ++i)
      squares += std::pow(got[i] - want[i], 2), size += std::pow(want[i], 2);
    std::printf("logprobs are %.3f off\n", std::sqrt(squares / size));
    EXPECT_LT(std::sqrt(squares / size), 0.15);
  }
}

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
  explicit Decodes(Rank& rank)
      : runner(*rank.device, *rank.model,
               {.max_seqs = kMost,
                .max_step_tokens = kMost * kPrompt,
                .max_model_len = rank.model->max_len(),
                .num_blocks = 2 * kMost,
                .block_size = 16,
                .kv_dtype = DType::bf16,
                .logit_bytes = 1}) {
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
