// Our models against transformers on the fixtures of make_fixtures.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/golden/models/loaded_case.h"

namespace sluice {
namespace {

constexpr float kBf16Bound = 2e-2f, kF16Bound = 1e-3f;

const char* const kCases[] = {
    "llama3_gqa", "llama3_tied", "llama2_bias", "qwen3_tied", "qwen3_gqa", "qwen2", "mistral",
    // windows
    "mistral_window", "qwen2_window", "gemma2", "gemma3", "gemma3_types",
    // families
    "gemma", "phi3_long", "phi3_short", "phi4_partial", "olmo2", "granite",
    // rotations
    "llama_linear", "llama_dynamic", "qwen2_yarn", "llama_yarn_mscale",
    // LayerNorm, and MLPs without a gate
    "gpt2", "neox", "neox_serial", "opt", "falcon_7b", "falcon_40b", "falcon_serial", "starcoder2",
    "phi",
    // experts
    "mixtral", "qwen2_moe", "qwen3_moe",
    // linear biases
    "falcon_rw", "bloom", "mpt",
    // layers with sizes of their own
    "llama_pruned", "decilm_7b", "nemotron_nas", "openelm"};

class GoldenModel : public testing::TestWithParam<const char*> {};

// Of families whose layers Fp8Tensor knows by their names, fused ones among them.
class GoldenFp8 : public testing::TestWithParam<const char*> {};

// An fp8 checkpoint, and one that is quantised at load, against the same numbers widened by hand
// and stored as f32.
TEST_P(GoldenFp8, IsTheWidenedModel) {
  const GoldenCase golden(GetParam());
  const Json& plain = golden.json["config"];
  const Json config = with_fp8(plain);
  for (const bool at_load : {false, true}) {
    const TensorEdit widen = [&](const std::string& name, int64_t columns, Values& v) {
      if (!Fp8Tensor::is_wanted(name)) return;
      const Fp8Tensor fp8(name, columns, v, !at_load);
      for (size_t i = 0; i < v.size(); ++i) v[i] = fp8.value(i);
    };
    for (const char* isa : {"portable", "avx2", "avx512", "avx512bf16", "amx"}) {
      const std::string stored = at_load ? "F32" : "F8_E4M3", dtype = at_load ? "fp8" : "auto";
      LoadedCase fp8(golden, stored, dtype, DType::f32, at_load ? plain : config, {}, isa);
      if (!fp8.unavailable().empty()) continue;
      LoadedCase wide(golden, "F32", "f32", DType::f32, plain, widen, isa);
      ASSERT_TRUE(fp8.ready() && wide.ready());
      EXPECT_EQ(fp8.model().weight_dtype(), DType::fp8_e4m3);
      EXPECT_LT(fp8.model().weight_bytes(), wide.model().weight_bytes());
      const GoldenPrompt& prompt = golden.prompts.back();
      const std::vector<float> got = fp8.logits_of(prompt, kMaxTokens);
      const std::vector<float> want = wide.logits_of(prompt, kMaxTokens);
      std::vector<float> errors(prompt.tokens.size());
      for (size_t i = 0; i < got.size(); ++i) {
        float& error = errors[i / size_t(golden.vocab)];
        error = std::max(error, std::fabs(got[i] - want[i]) / golden.range);
      }
      std::sort(errors.begin(), errors.end());
      // AMX rounds activations, the other one only for a head, or a router, that is bf16; for
      // experts see LogitsInBf16.
      const std::string_view set = isa;
      const bool rounds = set == "amx" || (!at_load && set == "avx512bf16");
      const bool experts = rounds && fp8.model().config().num_experts > 0;
      const float error = experts ? errors[errors.size() / 2] : errors.back();
      std::printf("%s %s fp8%s: %.2g of the range\n", GetParam(), isa, at_load ? " at load" : "",
                  error);
      EXPECT_LT(error, rounds ? kBf16Bound : kF32Bound) << isa;
      EXPECT_EQ(got, fp8.logits_of(prompt, 7));
    }
  }
}

TEST_P(GoldenModel, LogitsInF32OnEveryInstructionSet) {
  const GoldenCase golden(GetParam());
  int ran = 0;
  for (const char* isa : {"portable", "avx2", "avx512", "avx512bf16", "amx"}) {
    LoadedCase run(golden, "BF16", "f32", DType::f32, golden.json["config"], {}, isa);
    if (!run.unavailable().empty()) {
      std::printf("not run: %s\n", run.unavailable().c_str());
      continue;
    }
    ASSERT_TRUE(run.ready());
    EXPECT_EQ(run.model().weight_dtype(), DType::f32);
    const float worst = run.worst();
    std::printf("%s %s f32: %.2g of the range\n", GetParam(), isa, worst);
    EXPECT_LT(worst, kF32Bound) << isa;
    ++ran;
  }
  EXPECT_GE(ran, 1);
}

TEST_P(GoldenModel, LogitsInBf16) {
  const GoldenCase golden(GetParam());
  LoadedCase run(golden, "BF16", "auto", DType::bf16);
  ASSERT_TRUE(run.ready());
  EXPECT_EQ(run.model().weight_dtype(), DType::bf16);
  const std::vector<float> errors = run.errors();
  // Where activations are rounded, too (avx512bf16, amx), a token near a tie between experts may go
  // to another one, and whatever attends to it sees that: experts are judged by the median
  // position.
  const bool experts = run.model().config().num_experts > 0;
  const float error = experts ? errors[errors.size() / 2] : errors.back();
  std::printf("%s bf16: %.2g of the range at worst, %.2g in the median\n", GetParam(),
              errors.back(), errors[errors.size() / 2]);
  EXPECT_LT(error, kBf16Bound);
}

TEST_P(GoldenModel, LogitsInF16) {
  const GoldenCase golden(GetParam());
  LoadedCase run(golden, "F16", "auto", DType::f32);
  ASSERT_TRUE(run.ready());
  EXPECT_EQ(run.model().weight_dtype(), DType::f16);
  const float worst = run.worst();
  std::printf("%s f16: %.2g of the range\n", GetParam(), worst);
  EXPECT_LT(worst, kF16Bound);
}

TEST_P(GoldenModel, ChunksAndBatchesGiveTheSameBits) {
  const GoldenCase golden(GetParam());
  for (const DType kv : {DType::f32, DType::bf16}) {
    LoadedCase run(golden, "BF16", kv == DType::f32 ? "f32" : "bf16", kv);
    ASSERT_TRUE(run.ready());
    const GoldenPrompt& prompt = golden.prompts[1];
    const std::vector<float> whole = run.logits_of(prompt, kMaxTokens);
    for (const int chunk : {1, 7, 16, 33, 64}) {
      const std::vector<float> chunked = run.logits_of(prompt, chunk);
      EXPECT_EQ(std::memcmp(whole.data(), chunked.data(), whole.size() * sizeof(float)), 0)
          << "chunks of " << chunk;
    }
    // Beside another sequence: the short prompt's rows first, then the long one's.
    ModelDriver driver(run.device(), run.model(), kv, 2, kMaxTokens);
    const DriverRow rows[] = {{1, golden.prompts[0].tokens}, {0, prompt.tokens}};
    const Tensor both = driver.step(rows);
    EXPECT_EQ(std::memcmp(whole.data(), both.row<float>(golden.prompts[0].tokens.size()),
                          whole.size() * sizeof(float)),
              0);
  }
}

// Each step's context is the reference's own, so one near-tie does not end the comparison.
TEST_P(GoldenModel, GreedyTokens) {
  const GoldenCase golden(GetParam());
  LoadedCase run(golden, "BF16", "f32", DType::f32);
  ASSERT_TRUE(run.ready());
  int compared = 0;
  for (const GoldenPrompt& prompt : golden.prompts) {
    if (prompt.greedy.empty()) continue;
    ASSERT_EQ(prompt.greedy.size(), 64u);
    ModelDriver driver(run.device(), run.model(), DType::f32, 1, kMaxTokens);
    DriverRow row{0, prompt.tokens};
    for (size_t step = 0; step < prompt.greedy.size(); ++step) {
      const Tensor logits = driver.step({&row, 1});
      const float* last = logits.row<float>(logits.shape[0] - 1);
      const auto best = int32_t(std::max_element(last, last + golden.vocab) - last);
      if (prompt.gaps[step] >= 1e-3f) {
        EXPECT_EQ(best, prompt.greedy[step]) << "step " << step;
        ++compared;
      }
      row.tokens = std::span(prompt.greedy).subspan(step, 1);
    }
  }
  EXPECT_GE(compared, 120);
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenModel, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param); });

INSTANTIATE_TEST_SUITE_P(Cases, GoldenFp8,
                         testing::Values("llama3_gqa", "llama3_tied", "llama2_bias", "qwen3_gqa",
                                         "qwen2", "mistral", "gemma2", "phi3_long", "olmo2",
                                         "granite", "mixtral", "qwen2_moe", "qwen3_moe"),
                         [](const auto& info) { return std::string(info.param); });

// The text part of a larger model computes what the model of text does: with older files' names of
// tensors, and with newer ones'.
TEST(GoldenTextPart, IsTheModelAlone) {
  for (const auto& [name, architecture] :
       {std::pair("gemma3", "Gemma3ForConditionalGeneration"),
        std::pair("mistral", "Mistral3ForConditionalGeneration")}) {
    for (const bool older : {true, false}) {
      GoldenCase golden(name);
      for (Json& tensor : golden.json["tensors"]) {
        std::string stored = tensor["name"];
        if (older)
          stored = "language_model." + stored;
        else if (stored.starts_with("model."))
          stored.insert(strlen("model."), "language_model.");
        tensor["stored_as"] = stored;
      }
      golden.json["tensors"].push_back(
          {{"name", "vision_tower.w"}, {"shape", {2, 2}}, {"mean", 0}, {"deviation", 1}});
      Json text = golden.json["config"];
      text.erase("architectures");
      text.erase("model_type");
      const Json config = {{"architectures", {architecture}},
                           {"vision_config", Json::object()},
                           {"eos_token_id", text["eos_token_id"]},
                           {"text_config", text}};
      LoadedCase run(golden, "BF16", "f32", DType::f32, config);
      ASSERT_TRUE(run.ready());
      EXPECT_LT(run.worst(), kF32Bound) << name << older;
    }
  }
}

// The plan is made from the config and headers alone and must be what the load takes.
TEST(GoldenModelPlan, CountsWhatTheLoadTakes) {
  for (const char* name : kCases) {
    const GoldenCase golden(name);
    TempDir dir;
    write_golden_model(golden, dir.path(), "BF16", golden.json["config"]);
    auto device = make_cpu_device({.threads = 1});
    ASSERT_TRUE(device.ok());
    Config::Model options;
    options.path = dir.path();
    options.max_model_len = 100;
    const auto plan = plan_model(options, **device);
    const auto model = load_model(options, **device, 1);
    ASSERT_TRUE(plan.ok() && model.ok());
    EXPECT_EQ((*plan)->weight_bytes(), (*model)->weight_bytes());
    EXPECT_EQ((*plan)->max_len(), 100);
    EXPECT_EQ((*plan)->scratch_bytes(64, 8), (*model)->scratch_bytes(64, 8));
  }
}

}  // namespace
}  // namespace sluice
