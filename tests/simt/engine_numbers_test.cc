// What the CUDA engine computes, beside the CPU's: a whole model's logprobs, and products in fp8.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "base/float16.h"
#include "base/float8.h"
#include "kernels/quantize.h"
#include "tests/simt/cuda_engine.h"

namespace sluice {
namespace {

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

// Infinite where they differ in number.
double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return std::numeric_limits<double>::infinity();
  double squares = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i)
    squares += std::pow(got[i] - want[i], 2), size += std::pow(want[i], 2);
  return std::sqrt(squares / size);
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
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 0.6) << i;
    EXPECT_LT(relative_error(got, want), 0.02);
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
  const std::vector<float> want = prompt_logprobs(cpu, 150, fp8);
  const double between = relative_error(prompt_logprobs(cuda, 150, fp8), want);
  const double of_fp8 = relative_error(prompt_logprobs(cpu, 150), want);
  std::printf("logprobs are %.3f apart; fp8 moved them by %.3f\n", between, of_fp8);
  EXPECT_LT(between, 0.03);
  EXPECT_GT(of_fp8, 0.003);
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
    const double error = relative_error(got, want);
    std::printf("%s: %.2g\n", name, error);
    // A router near a tie sends a token elsewhere.
    EXPECT_LT(error, golden.json["config"].contains("num_experts_per_tok") ? 0.05 : 0.02) << name;
  }
}

// Here layers are widened, since results must not depend on the batch; experts stay as stored, or
// become what is asked for.
TEST_F(CudaEngine, ExpertsInFp8FollowTheCpus) {
  for (const char* name : {"mixtral", "qwen2_moe"}) {
    const GoldenCase golden(name);
    const auto on_gpu = [&](const char* stored, const char* dtype = "auto") {
      return load_golden(cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16, true), golden,
                         stored, dtype);
    };
    Config config;
    config.device.kind = "cpu";
    config.device.threads = 1;
    Rank cpu = load_golden(*make_device(config), golden, "F8_E4M3"), cuda = on_gpu("F8_E4M3");
    EXPECT_EQ(cuda.model->weight_dtype(), DType::fp8_e4m3);
    EXPECT_EQ(cuda.model->max_fp8_inputs(), 0);
    EXPECT_EQ(on_gpu("BF16", "fp8").model->weight_bytes(), cuda.model->weight_bytes());
    size_t saved = 0;  // a byte of each weight, but for the scale of each row
    for (const Json& t : golden.json["tensors"])
      if (t["name"].get<std::string>().find(".experts.") != std::string::npos)
        saved += t["shape"][0].get<size_t>() * (t["shape"][1].get<size_t>() - sizeof(float));
    EXPECT_EQ(cuda.model->weight_bytes() + saved, on_gpu("BF16").model->weight_bytes());
    const std::vector<float> want = prompt_logprobs(cpu, 120), got = prompt_logprobs(cuda, 120);
    const double error = relative_error(got, want);
    std::printf("%s: %.2g\n", name, error);
    EXPECT_LT(error, 0.05) << name;  // as FamiliesFollowTheCpu
  }
}

// A row alone, a few, and enough of them for tiles: where that is asked for, the same bits.
TEST_F(CudaEngine, ExpertsDoNotDependOnTheBatchWhereAsked) {
  const auto device = cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16, true);
  Ops& ops = device->ops();
  constexpr int kRows = 40, kExperts = 4, kWidth = 48, kIn = 272;
  OpsLimits limits;
  limits.max_seqs = limits.max_tokens = limits.max_context = kRows, limits.vocab_size = 300;
  limits.heads = {{2, 2, 32}}, limits.num_experts = kExperts, limits.max_expert_rows = kRows;
  ops.reserve(limits);
  std::vector<Device::Buffer> memory;
  const auto take = [&](DType type, int64_t rows, int64_t columns) {
    memory.push_back(device->allocate(size_t(rows * columns) * 4, Memory::pinned_host));
    return Tensor::of(memory.back().get(), type, {rows, columns});
  };
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  const Tensor source = take(DType::f32, kExperts * kWidth, kIn);
  const Tensor x = take(DType::bf16, kRows, kIn), ids = take(DType::i32, 1, kRows);
  for (int64_t i = 0; i < source.size(); ++i) source.as<float>()[i] = normal(rng);
  for (int64_t i = 0; i < x.size(); ++i) x.as<uint16_t>()[i] = to_bf16(normal(rng));
  // Two large terms that cancel out, so that sums in another order are seen to be others.
  for (int64_t r = 0; r < source.shape[0]; ++r)
    source.row<float>(r)[0] = 1024, source.row<float>(r)[kIn - 1] = -1024;
  for (int64_t r = 0; r < kRows; ++r)
    x.row<uint16_t>(r)[0] = x.row<uint16_t>(r)[kIn - 1] = to_bf16(1024);
  for (int i = 0; i < kRows; ++i) ids.as<int32_t>()[i] = i % 3;
  for (const DType type : {DType::bf16, DType::fp8_e4m3}) {
    memory.push_back(
        device->allocate(ops.weight_bytes(type, kExperts * kWidth, kIn), Memory::device));
    const Weight w = ops.make_weight(memory.back().get(), type, kExperts * kWidth, kIn);
    ops.pack_rows(w, 0, source);
    const Tensor all = take(DType::bf16, kRows, kWidth), gated = take(DType::bf16, kRows, kWidth),
                 scratch = take(DType::bf16, kRows, kWidth);
    for (const int count : {kRows, 1, 5}) {
      const Tensor some = take(DType::bf16, count, kWidth),
                   some_gated = take(DType::bf16, count, kWidth / 2);
      const Tensor of = Tensor::of(ids.data, DType::i32, {count});
      ops.expert_matmul(some, x.rows(0, count), w, of);
      ops.expert_silu_mul(some_gated, x.rows(0, count), w, of, scratch.rows(0, count));
      device->sync(device->record(device->compute_stream()));
      const auto bytes = [](const Tensor& t) { return size_t(t.size()) * 2; };
      if (count == kRows) {
        EXPECT_NE(some.as<uint16_t>()[0], 0);
        std::memcpy(all.data, some.data, bytes(some));
        std::memcpy(gated.data, some_gated.data, bytes(some_gated));
      }
      EXPECT_EQ(std::memcmp(all.data, some.data, bytes(some)), 0) << count;
      EXPECT_EQ(std::memcmp(gated.data, some_gated.data, bytes(some_gated)), 0) << count;
    }
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

// Biases and activations, of which the library has some on the way, our own kernel has all, and the
// rest are launches of their own.
TEST_F(CudaEngine, ProductsAddTheirBiasAndActivate) {
  constexpr int kOut = 48, kIn = 272;
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  for (const auto& [type, invariant] :
       {std::pair{DType::bf16, false}, {DType::bf16, true}, {DType::fp8_e4m3, false}}) {
    if (type == DType::fp8_e4m3 && !has_fp8()) continue;
    const auto device = cuda::make_device(*cuda::open_runtime(0, ""), DType::bf16, invariant);
    Ops& ops = device->ops();
    OpsLimits limits;
    limits.max_seqs = limits.max_tokens = limits.max_context = 64, limits.max_fp8_inputs = kIn;
    limits.vocab_size = 300, limits.heads = {{2, 2, 32}};
    ops.reserve(limits);
    std::vector<Device::Buffer> memory;
    const auto take = [&](DType t, int64_t rows, int64_t columns) {
      memory.push_back(device->allocate(size_t(rows * columns) * 4, Memory::pinned_host));
      return Tensor::of(memory.back().get(), t, {rows, columns});
    };
    const auto noise = [&](Tensor t) {
      for (int64_t i = 0; i < t.size(); ++i) t.as<uint16_t>()[i] = to_bf16(normal(rng));
      return t;
    };
    memory.push_back(device->allocate(ops.weight_bytes(type, kOut, kIn), Memory::device));
    Weight w = ops.make_weight(memory.back().get(), type, kOut, kIn);
    ASSERT_EQ(w.data.dtype, type);
    ops.pack_rows(w, 0, noise(take(DType::bf16, kOut, kIn)));
    const Tensor noisy = noise(take(DType::bf16, 1, kOut));
    const Tensor bias = Tensor::of(noisy.data, DType::bf16, {kOut});
    for (int i = 0; i < kOut; ++i) bias.as<uint16_t>()[i] = to_bf16(20 * normal(rng));
    for (const int rows : {3, 40}) {
      const Tensor x = noise(take(DType::bf16, rows, kIn)), sums = take(DType::f32, rows, kOut),
                   wide = take(DType::f32, rows, kOut), narrow = take(DType::bf16, rows, kOut);
      w.bias = {};
      ops.matmul(sums, x, w);
      for (const Tensor& with : {Tensor{}, bias}) {
        w.bias = with;
        ops.matmul(wide, x, w);
        ops.matmul(narrow, x, w);
        device->sync(device->record(device->compute_stream()));
        const auto biased = [&](int i) {
          return sums.as<float>()[i] + (with ? from_bf16(with.as<uint16_t>()[i % kOut]) : 0);
        };
        const auto error = [&](const auto& value, const auto& of) {
          std::vector<float> got, want;
          for (int i = 0; i < rows * kOut; ++i)
            got.push_back(value(i)), want.push_back(of(biased(i)));
          return relative_error(got, want);
        };
        const auto plain = [](float v) { return v; };
        const auto rounded = [&](int i) { return from_bf16(narrow.as<uint16_t>()[i]); };
        EXPECT_LT(error([&](int i) { return wide.as<float>()[i]; }, plain), 1e-6);
        EXPECT_LT(error(rounded, plain), 0.004);
        const std::pair<Activation, float (*)(float)> activations[] = {
            {Activation::relu, [](float v) { return std::max(v, 0.0f); }},
            {Activation::silu, [](float v) { return v / (1 + std::exp(-v)); }},
            {Activation::gelu,
             [](float v) { return v * 0.5f * (1 + std::erf(v * std::sqrt(0.5f))); }},
            {Activation::gelu_tanh, [](float v) {
               return v * 0.5f * (1 + std::tanh(0.7978845608f * (v + 0.044715f * v * v * v)));
             }}};
        for (const auto& [activation, of] : activations) {
          ops.matmul_activate(narrow, x, w, activation);
          device->sync(device->record(device->compute_stream()));
          EXPECT_LT(error(rounded, of), 0.005) << int(activation) << " of " << rows << " rows, "
                                               << name_of(type) << (with ? " with bias" : "");
        }
      }
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
    const ModelConfig& c = cuda.model->config();
    EXPECT_EQ(cuda.model->max_fp8_inputs(), c.most(&LayerConfig::num_heads) * c.head_dim);
    const std::vector<float> want = prompt_logprobs(cpu, 150), got = prompt_logprobs(cuda, 150);
    const double error = relative_error(got, want);
    std::printf("logprobs are %.3f off\n", error);
    EXPECT_LT(error, 0.15);
  }
}

}  // namespace
}  // namespace sluice
