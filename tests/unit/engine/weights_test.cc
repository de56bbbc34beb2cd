#include "engine/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "base/float16.h"
#include "engine/layers.h"
#include "kernels/cpu/device.h"
#include "tests/unit/engine/model_files.h"

namespace sluice {
namespace {

using testing::HasSubstr;

TEST(Float16, RoundTripsAndRounds) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const auto bits = static_cast<uint16_t>(h);
    if (!std::isnan(from_f16(bits))) {
      ASSERT_EQ(to_f16(from_f16(bits)), bits);
    }
    if (!std::isnan(from_bf16(bits))) {
      ASSERT_EQ(to_bf16(from_bf16(bits)), bits);
    }
  }
  // Half way goes to even; just beyond goes up. For normal, subnormal and the largest values.
  for (const uint16_t h : {0x3c00, 0x3c01, 0x0001, 0x0002, 0x03ff, 0x0400, 0x7bfe}) {
    const float low = from_f16(h), high = from_f16(h + 1), middle = (low + high) / 2;
    EXPECT_EQ(to_f16(middle), h % 2 ? h + 1 : h) << h;
    EXPECT_EQ(to_f16(std::nextafter(middle, high)), h + 1) << h;
    EXPECT_EQ(to_f16(-std::nextafter(middle, low)), 0x8000 | h) << h;
  }
  EXPECT_EQ(to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_TRUE(std::isnan(from_f16(to_f16(NAN))) && std::isnan(from_bf16(to_bf16(NAN))));
}

std::string as(const std::string& dtype, const std::vector<float>& values) {
  if (dtype == "F32") return f32_bytes(values);
  std::string bytes;
  for (const float x : values) {
    const uint16_t h = dtype == "F16" ? to_f16(x) : to_bf16(x);
    bytes.append(reinterpret_cast<const char*>(&h), 2);
  }
  return bytes;
}

// A fused layer of [3 + 130, 40], its bias, a norm, and a tensor nobody wants.
class WeightsTest : public testing::Test {
 protected:
  static constexpr int64_t kIn = 40, kRowsA = 3, kRowsB = 130;

  void SetUp() override {
    device_ = *make_cpu_device({.threads = 1});
    for (int64_t i = 0; i < kRowsA * kIn; ++i) a_.push_back(0.5f + i / 1024.0f);
    for (int64_t i = 0; i < kRowsB * kIn; ++i) b_.push_back(-1.0f - i / 8192.0f);
    list_.linears = {
        {&linear_, kIn, {{"a.weight", kRowsA, "a.bias"}, {"b.weight", kRowsB, "b.bias"}}}};
    list_.vectors = {{&norm_, "norm.weight", 5}};
  }
  std::vector<TensorFile> tensors(const std::string& dtype_a, const std::string& dtype_b) {
    return {{"a.weight", dtype_a, {kRowsA, kIn}, as(dtype_a, a_)},
            {"b.weight", dtype_b, {kRowsB, kIn}, as(dtype_b, b_)},
            {"a.bias", "BF16", {kRowsA}, as("BF16", {1, 2, 3})},
            {"b.bias", "F32", {kRowsB}, f32_bytes(std::vector<float>(kRowsB, 4))},
            {"norm.weight", "F16", {5}, as("F16", {1, 2, 3, 4, 0.1f})},
            {"extra", "I64", {1}, std::string(8, 'x')}};
  }
  absl::Status load(const std::vector<TensorFile>& files, std::optional<DType> dtype,
                    int threads = 2, int pad = 0) {
    write_file(dir_.path() / "model.safetensors", safetensors_bytes(files, pad));
    auto stored = Safetensors::open(dir_.path());
    if (!stored.ok()) return stored.status();
    const auto plan = plan_weights(list_, *stored, device_->ops(), dtype);
    if (!plan.ok()) return plan.status();
    plan_ = *plan;
    auto memory = load_weights(list_, *stored, *plan, *device_, threads);
    if (!memory.ok()) return memory.status();
    memory_ = *std::move(memory);
    return absl::OkStatus();
  }
  std::string error_of(const std::vector<TensorFile>& files, std::optional<DType> dtype = {}) {
    return std::string(message_of(load(files, dtype)));
  }
  // The layer's rows, read back through the device.
  std::vector<float> rows() {
    const int64_t n = linear_.out_features();
    std::vector<int32_t> ids(n);
    for (int64_t i = 0; i < n; ++i) ids[i] = int32_t(i);
    std::vector<float> out(n * kIn);
    device_->ops().embed(Tensor::of(out.data(), DType::f32, {n, kIn}), linear_,
                         Tensor::of(ids.data(), DType::i32, {n}));
    return out;
  }
  std::vector<float> expected(float (*rounding)(float)) {
    std::vector<float> all;
    for (const auto* part : {&a_, &b_})
      for (const float x : *part) all.push_back(rounding(x));
    return all;
  }

  TempDir dir_;
  std::unique_ptr<Device> device_;
  std::vector<float> a_, b_;
  Weight linear_;
  Tensor norm_;
  WeightList list_;
  WeightPlan plan_;
  Device::Buffer memory_;
};

float same(float x) { return x; }
float through_bf16(float x) { return from_bf16(to_bf16(x)); }
float through_f16(float x) { return from_f16(to_f16(x)); }

TEST_F(WeightsTest, AutoKeepsWhatIsStored) {
  ASSERT_TRUE(load(tensors("F32", "F32"), {}).ok());
  EXPECT_EQ(linear_.data.dtype, DType::f32);
  EXPECT_EQ(rows(), expected(same));
  ASSERT_TRUE(load(tensors("BF16", "BF16"), {}).ok());
  EXPECT_EQ(linear_.data.dtype, DType::bf16);
  EXPECT_EQ(plan_.dtype, DType::bf16);
  EXPECT_EQ(rows(), expected(through_bf16));
  ASSERT_TRUE(load(tensors("F16", "F16"), {}).ok());
  EXPECT_EQ(linear_.data.dtype, DType::f16);
  EXPECT_EQ(rows(), expected(through_f16));
  EXPECT_EQ(linear_.bias.as<float>()[1], 2.0f);
  EXPECT_EQ(linear_.bias.as<float>()[kRowsA], 4.0f);
  EXPECT_EQ(norm_.dtype, DType::f32);
  EXPECT_EQ(norm_.as<float>()[4], through_f16(0.1f));
}

TEST_F(WeightsTest, PartsThatDifferMeetInF32) {
  ASSERT_TRUE(load(tensors("F32", "BF16"), {}).ok());
  EXPECT_EQ(linear_.data.dtype, DType::f32);
  std::vector<float> want = a_;
  for (const float x : b_) want.push_back(through_bf16(x));
  EXPECT_EQ(rows(), want);
}

TEST_F(WeightsTest, ConvertsAtLoad) {
  ASSERT_TRUE(load(tensors("F32", "F32"), DType::bf16).ok());
  EXPECT_EQ(rows(), expected(through_bf16));
  ASSERT_TRUE(load(tensors("F32", "F32"), DType::f16).ok());
  EXPECT_EQ(rows(), expected(through_f16));
  ASSERT_TRUE(load(tensors("BF16", "BF16"), DType::f32).ok());
  EXPECT_EQ(rows(), expected(through_bf16));
}

TEST_F(WeightsTest, AnyAlignmentAndAnyNumberOfThreads) {
  for (int pad = 0; pad < 4; ++pad) {
    for (const int threads : {1, 5}) {
      ASSERT_TRUE(load(tensors("F32", "F32"), {}, threads, pad).ok());
      EXPECT_EQ(rows(), expected(same)) << pad;
    }
  }
}

TEST_F(WeightsTest, FaultsNameFileAndTensor) {
  auto files = tensors("F32", "F32");
  files[1].name = "c.weight";
  EXPECT_EQ(error_of(files), "model.safetensors: tensor b.weight [130, 40] is missing");
  files = tensors("F32", "F32");
  files[1].shape = {40, 130};
  EXPECT_EQ(error_of(files),
            "model.safetensors: tensor b.weight: shape [40, 130], expected [130, 40]");
  files = tensors("F32", "F32");
  files[4].shape = {5, 1};
  EXPECT_EQ(error_of(files), "model.safetensors: tensor norm.weight: shape [5, 1], expected [5]");
  files = tensors("F32", "F32");
  files[0].dtype = "I32";
  EXPECT_EQ(error_of(files),
            "model.safetensors: tensor a.weight: dtype I32, expected F32, F16 or BF16");
  files = tensors("F32", "F32");
  files[3].name = "x";
  EXPECT_EQ(error_of(files), "model.safetensors: tensor b.bias [130] is missing");
  b_[777] = 70000;
  EXPECT_THAT(error_of(tensors("F32", "F32"), DType::f16),
              HasSubstr("tensor b.weight: 70000 is beyond f16"));
  EXPECT_TRUE(load(tensors("F32", "F32"), DType::bf16).ok());
}

TEST_F(WeightsTest, WordsForDTypes) {
  EXPECT_EQ(*parse_weight_dtype("auto"), std::nullopt);
  EXPECT_EQ(*parse_weight_dtype("bf16"), DType::bf16);
  EXPECT_THAT(std::string(message_of(parse_weight_dtype("int8").status())),
              HasSubstr("model.dtype: \"int8\", expected auto, f32, f16 or bf16"));
}

TEST(Rope, TableHoldsTheAngles) {
  RopeConfig rope;
  rope.theta = 500000;
  std::vector<float> one(1000 * 64), many(1000 * 64);
  fill_rope_table(one.data(), rope, 64, 1000, 1);
  fill_rope_table(many.data(), rope, 64, 1000, 7);
  EXPECT_EQ(one, many);
  EXPECT_EQ(one[0], 1.0f);
  EXPECT_EQ(one[32], 0.0f);
  EXPECT_FLOAT_EQ(one[999 * 64], std::cos(999.0));
  EXPECT_FLOAT_EQ(one[999 * 64 + 32 + 16], std::sin(999.0 / std::sqrt(500000.0)));
}

TEST(Rope, Llama3KeepsStretchesAndBlends) {
  RopeConfig rope;
  rope.theta = 500000;
  const auto plain = rope_frequencies(rope, 128);
  rope.type = RopeConfig::Type::llama3;
  rope.factor = 8;
  const auto scaled = rope_frequencies(rope, 128);
  int kept = 0, stretched = 0, blended = 0;
  for (int i = 0; i < 64; ++i) {
    const double wavelength = 2 * std::numbers::pi / plain[i];
    if (wavelength < 8192.0 / 4) {
      EXPECT_EQ(scaled[i], plain[i]);
      ++kept;
    } else if (wavelength > 8192.0) {
      EXPECT_EQ(scaled[i], plain[i] / 8);
      ++stretched;
    } else {
      EXPECT_TRUE(scaled[i] < plain[i] && scaled[i] > plain[i] / 8);
      EXPECT_LT(scaled[i], scaled[i - 1]);
      ++blended;
    }
  }
  EXPECT_TRUE(kept > 20 && stretched > 20 && blended > 4) << kept << " " << stretched;
}

}  // namespace
}  // namespace sluice
