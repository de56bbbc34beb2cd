#include "engine/make_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/float16.h"
#include "base/float8.h"
#include "base/random_weights.h"
#include "engine/models/registry.h"
#include "kernels/cpu/device.h"
#include "tests/golden/models/model_driver.h"
#include "tests/unit/engine/model_files.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace sluice {
namespace {

using testing::HasSubstr;

std::string text_of(const absl::Status& status) { return std::string(message_of(status)); }

TEST(RandomWeights, LookNormal) {
  const uint64_t stream = weight_stream(1, "w");
  constexpr int n = 200000;
  double sum = 0, square = 0, cube = 0;
  int beyond = 0;
  for (int i = 0; i < n; ++i) {
    const double x = random_weight(stream, i, 1.0);
    sum += x, square += x * x, cube += x * x * x;
    beyond += std::fabs(x) > 2;
  }
  EXPECT_NEAR(sum / n, 0, 0.02);
  EXPECT_NEAR(square / n, 1, 0.02);
  EXPECT_NEAR(cube / n, 0, 0.04);
  EXPECT_NEAR(double(beyond) / n, 0.0455, 0.01);
  EXPECT_NE(weight_stream(1, "w"), weight_stream(2, "w"));
  EXPECT_NE(weight_stream(1, "w"), weight_stream(1, "v"));
}

// Of one step.
std::vector<float> logits_of(Device& device, Model& model) {
  ModelDriver driver(device, model, DType::f32, 1, 8);
  const std::vector<int32_t> ids = {5, 4095, 0};
  const DriverRow row{0, ids};
  const Tensor logits = driver.step({&row, 1});
  return {logits.as<float>(), logits.as<float>() + logits.size()};
}

// The directory's model without its file of weights: the same ones, made at load.
void expect_same_dummy(Device& device, Config::Model options, const std::vector<float>& logits) {
  std::filesystem::remove(std::filesystem::path(options.path) / "model.safetensors");
  EXPECT_THAT(text_of(load_model(options, device, 2).status()),
              HasSubstr("neither model.safetensors nor"));
  options.load_format = "dummy";
  const auto model = load_model(options, device, 2);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(logits_of(device, **model), logits);
}

TEST(MakeModel, NanoLoadsAndRunsInEveryDType) {
  TempDir dir;
  for (const auto& [name, dtype] :
       std::vector<std::pair<std::string, DType>>{{"f32", DType::f32},
                                                  {"f16", DType::f16},
                                                  {"bf16", DType::bf16},
                                                  {"fp8", DType::fp8_e4m3}}) {
    const absl::Status made = make_model("nano", 0, name, dir.path());
    ASSERT_TRUE(made.ok()) << made;
    auto device = make_cpu_device({.threads = 1});
    ASSERT_TRUE(device.ok());
    Config::Model options;
    options.path = dir.path();
    const auto model = load_model(options, **device, 2);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->weight_dtype(), dtype);
    EXPECT_EQ((*model)->config().dtype, dtype == DType::fp8_e4m3 ? DType::bf16 : dtype);
    EXPECT_EQ((*model)->config().vocab_size, 4096);
    EXPECT_EQ((*model)->config().warnings.size(), 0u) << (*model)->config().warnings[0];
    const std::vector<float> logits = logits_of(**device, **model);
    ASSERT_TRUE(
        std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }));
    EXPECT_LT(*std::min_element(logits.begin(), logits.end()), -0.1f);
    EXPECT_GT(*std::max_element(logits.begin(), logits.end()), 0.1f);
    expect_same_dummy(**device, options, logits);
  }
}

TEST(MakeModel, EveryFamilyLoadsAndRuns) {
  int families = 0;
  for (const std::string& name : model_preset_names()) {
    if (!name.starts_with("tiny-")) continue;
    SCOPED_TRACE(name);
    TempDir dir;
    const absl::Status made = make_model(name, 0, "bf16", dir.path());
    ASSERT_TRUE(made.ok()) << made;
    auto device = make_cpu_device({.threads = 1});
    ASSERT_TRUE(device.ok());
    Config::Model options;
    options.path = dir.path();
    const auto model = load_model(options, **device, 2);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_THAT((*model)->config().warnings, testing::IsEmpty());
    const std::vector<float> logits = logits_of(**device, **model);
    ASSERT_TRUE(
        std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }));
    EXPECT_GT(*std::max_element(logits.begin(), logits.end()), 0.01f);
    expect_same_dummy(**device, options, logits);
    ++families;
  }
  EXPECT_GE(families, 8);
}

TEST(MakeModel, SameSeedSameBytes) {
  TempDir one, two, other;
  ASSERT_TRUE(make_model("nano", 3, "bf16", one.path()).ok());
  ASSERT_TRUE(make_model("nano", 3, "bf16", two.path() / "new" / "folder").ok());
  ASSERT_TRUE(make_model("nano", 4, "bf16", other.path()).ok());
  for (const char* file : {"config.json", "generation_config.json", "tokenizer.json",
                           "tokenizer_config.json", "model.safetensors"})
    EXPECT_EQ(read_file(one.path() / file), read_file(two.path() / "new" / "folder" / file));
  EXPECT_NE(read_file(one.path() / "model.safetensors"),
            read_file(other.path() / "model.safetensors"));
  // Weights by hand, also of the last piece of a tensor that is made in several.
  auto stored = Safetensors::open(one.path());
  ASSERT_TRUE(stored.ok());
  const StoredTensor* embedding = stored->find("model.embed_tokens.weight");
  for (const int64_t i : {0, 131, 4096 * 64 - 1}) {
    uint16_t bits;
    std::memcpy(&bits, embedding->data + 2 * i, 2);
    EXPECT_EQ(bits, to_bf16(random_weight(weight_stream(3, embedding->name), i, 0.02))) << i;
  }
}

// The weights of the bf16 model of that seed, as far as fp8 has them, and everything else
// unchanged.
TEST(MakeModel, Fp8IsTheSameModelQuantised) {
  TempDir plain_dir, fp8_dir;
  ASSERT_TRUE(make_model("nano", 3, "f32", plain_dir.path()).ok());
  ASSERT_TRUE(make_model("nano", 3, "fp8", fp8_dir.path()).ok());
  const auto plain = Safetensors::open(plain_dir.path()), fp8 = Safetensors::open(fp8_dir.path());
  ASSERT_TRUE(plain.ok() && fp8.ok());
  EXPECT_EQ(fp8->tensors().size(), plain->tensors().size() + 7);
  for (const char* name : {"self_attn.q_proj", "mlp.down_proj"}) {
    const std::string at = fmt::format("model.layers.0.{}.weight", name);
    const StoredTensor *from = plain->find(at), *to = fp8->find(at),
                       *scale = fp8->find(at + "_scale");
    ASSERT_TRUE(from && to && scale);
    EXPECT_EQ(to->dtype, DType::fp8_e4m3);
    EXPECT_EQ(scale->dtype, DType::bf16);
    EXPECT_EQ(scale->shape, (std::vector<int64_t>{from->shape[0], 1}));
    double error = 0, norm = 0;
    for (int64_t i = 0; i < from->shape[0] * from->shape[1]; ++i) {
      float x;
      std::memcpy(&x, from->data + 4 * i, 4);
      uint16_t s;
      std::memcpy(&s, scale->data + 2 * (i / from->shape[1]), 2);
      const float got = from_e4m3(uint8_t(to->data[i])) * from_bf16(s);
      error += (got - x) * (got - x), norm += x * x;
    }
    EXPECT_LT(std::sqrt(error / norm), 0.03) << name;  // 2^-4 of each value at most
  }
  EXPECT_EQ(fp8->find("model.embed_tokens.weight")->dtype, DType::bf16);
  EXPECT_EQ(fp8->find("model.norm.weight")->dtype, DType::bf16);
}

TEST(MakeModel, TokenizerCoversTheVocabulary) {
  TempDir dir;
  ASSERT_TRUE(make_model("nano", 1, "bf16", dir.path()).ok());
  const auto tokenizer = Tokenizer::load(dir.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 4096);
  for (TokenId id = 0; id < 4091; ++id) EXPECT_FALSE((*tokenizer)->piece(id).empty()) << id;
  EXPECT_TRUE((*tokenizer)->is_special(4095) && !(*tokenizer)->is_special(4090));
  const std::string text = "The weather, in 2024: déjà vu \xf0\x9f\x8c\x8a\n\n  \"tabs\\\"\t!";
  const std::vector<TokenId> ids = (*tokenizer)->encode(text, true);
  EXPECT_EQ(ids.front(), (*tokenizer)->find("<|begin_of_text|>"));
  EXPECT_LT(ids.size(), text.size());
  std::string back;
  for (const TokenId id : ids)
    if (!(*tokenizer)->is_special(id)) back += (*tokenizer)->piece(id);
  EXPECT_EQ(back, text);
  EXPECT_TRUE(ChatTemplate::load(dir.path()).ok());
}

TEST(MakeModel, RefusesWhatItCannotDo) {
  TempDir dir;
  EXPECT_THAT(text_of(make_model("gpt-5", 1, "bf16", dir.path())),
              HasSubstr("preset \"gpt-5\", expected one of llama-3.2-1b, llama-3.1-8b, "));
  EXPECT_THAT(text_of(make_model("nano", 1, "int8", dir.path())), HasSubstr("dtype \"int8\""));
  EXPECT_THAT(text_of(make_model("nano", 1, "bf16", "")), HasSubstr("--out is empty"));
  write_file(dir.path() / "diary.txt", "keep me");
  EXPECT_THAT(text_of(make_model("nano", 1, "bf16", dir.path())),
              HasSubstr("is not empty and was not written by make-model"));
  write_file(dir.path() / "config.json", R"({"_name_or_path": "somebody/else"})");
  EXPECT_FALSE(make_model("nano", 1, "bf16", dir.path()).ok());
  EXPECT_FALSE(std::filesystem::exists(dir.path() / "model.safetensors"));
  EXPECT_THAT(text_of(make_model("nano", 1, "bf16", dir.path() / "diary.txt")),
              HasSubstr("is not a directory"));
  EXPECT_EQ(read_file(dir.path() / "diary.txt"), "keep me");
}

TEST(MakeModel, WithoutWeightsItsTensorsAreThoseOfTheFile) {
  TempDir whole, bare;
  ASSERT_TRUE(make_model("nano", 0, "fp8", whole.path()).ok());
  ASSERT_TRUE(make_model("nano", 0, "fp8", bare.path(), false).ok());
  EXPECT_FALSE(std::filesystem::exists(bare.path() / "model.safetensors"));
  EXPECT_EQ(read_file(bare.path() / "config.json"), read_file(whole.path() / "config.json"));
  EXPECT_TRUE(Tokenizer::load(bare.path()).ok());
  std::filesystem::remove(bare.path() / "config.json");
  auto device = make_cpu_device({.threads = 1});
  Config::Model options;
  options.path = bare.path();
  options.load_format = "dummy";
  EXPECT_THAT(text_of(load_model(options, **device, 1).status()), HasSubstr("config.json"));
}

}  // namespace
}  // namespace sluice
