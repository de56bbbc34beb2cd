#include "engine/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "base/float16.h"
#include "base/float8.h"
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
  if (dtype == "F8_E4M3") {
    std::string codes;
    for (const float x : values) codes += char(to_e4m3(x));
    return codes;
  }
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
            "model.safetensors: tensor a.weight: dtype I32, expected F32, F16, BF16 or F8_E4M3");
  files = tensors("F32", "F32");
  files[3].name = "x";
  EXPECT_EQ(error_of(files), "model.safetensors: tensor b.bias [130] is missing");
  b_[777] = 70000;
  EXPECT_THAT(error_of(tensors("F32", "F32"), DType::f16),
              HasSubstr("tensor b.weight: 70000 is beyond f16"));
  EXPECT_TRUE(load(tensors("F32", "F32"), DType::bf16).ok());
}

// Of keys and values: under any of its names, and only a number that a value can be divided by.
TEST_F(WeightsTest, ScalesOfTheCache) {
  float first = 0, second = 0;
  list_.scales = {{&first, {"attn.k_scale", "attn.kv_scale"}}, {&second, {"attn.v_scale"}}};
  auto files = tensors("F32", "F32");
  ASSERT_EQ(error_of(files), "");
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 1);
  files.push_back({"attn.kv_scale", "BF16", {}, as("BF16", {0.5f})});
  files.push_back({"attn.v_scale", "F32", {1}, as("F32", {0.3f})});
  ASSERT_EQ(error_of(files), "");
  EXPECT_EQ(first, 0.5f);
  EXPECT_EQ(second, 0.3f);
  for (const float bad : {0.0f, -1.0f, INFINITY, NAN}) {
    files.back().bytes = as("F32", {bad});
    EXPECT_THAT(error_of(files), HasSubstr("tensor attn.v_scale: is "));
  }
  files.back() = {"attn.v_scale", "F32", {2}, as("F32", {1, 1})};
  EXPECT_EQ(error_of(files),
            "model.safetensors: tensor attn.v_scale: F32 [2], expected one F32, F16 or BF16");
}

// The fused layer as fp8: one scale for the first part's tensor, one a row for the other's.
class Fp8WeightsTest : public WeightsTest {
 protected:
  static constexpr float kScaleA = 0.375f;
  static float scale_b(int64_t row) { return 0.01f + float(row) / 256; }

  std::vector<TensorFile> stored() {
    std::vector<float> scales;
    for (int64_t r = 0; r < kRowsB; ++r) scales.push_back(through_bf16(scale_b(r)));
    auto files = tensors("F8_E4M3", "F8_E4M3");
    files.push_back({"a.weight_scale", "F32", {1}, as("F32", {kScaleA})});
    files.push_back({"b.weight_scale", "BF16", {kRowsB, 1}, as("BF16", scales)});
    files.push_back({"a.input_scale", "F32", {1}, as("F32", {7})});
    return files;
  }
  // What the stored layer is, by hand.
  std::vector<float> meant() {
    std::vector<float> all;
    for (const float x : a_) all.push_back(from_e4m3(to_e4m3(x)) * kScaleA);
    for (size_t i = 0; i < b_.size(); ++i)
      all.push_back(from_e4m3(to_e4m3(b_[i])) * through_bf16(scale_b(int64_t(i) / kIn)));
    return all;
  }
};

TEST_F(Fp8WeightsTest, StaysAsStoredOrIsWidened) {
  ASSERT_EQ(error_of(stored()), "");
  EXPECT_EQ(linear_.data.dtype, DType::fp8_e4m3);
  EXPECT_EQ(plan_.dtype, DType::fp8_e4m3);
  EXPECT_EQ(rows(), meant());
  EXPECT_EQ(linear_.scale.as<float>()[kRowsA - 1], kScaleA);
  EXPECT_EQ(linear_.bias.as<float>()[kRowsA], 4.0f);
  ASSERT_EQ(error_of(stored(), DType::fp8_e4m3), "");
  EXPECT_EQ(rows(), meant());
  ASSERT_EQ(error_of(stored(), DType::f32), "");
  EXPECT_EQ(linear_.data.dtype, DType::f32);
  EXPECT_EQ(rows(), meant());
  ASSERT_EQ(error_of(stored(), DType::bf16), "");
  std::vector<float> rounded = meant();
  for (float& x : rounded) x = through_bf16(x);
  EXPECT_EQ(rows(), rounded);
}

TEST_F(Fp8WeightsTest, ScalesOfEveryShape) {
  const std::vector<float> want = meant();
  for (const std::vector<int64_t>& one : {std::vector<int64_t>{}, {1}, {1, 1}}) {
    for (const std::vector<int64_t>& many : {std::vector<int64_t>{kRowsB}, {kRowsB, 1}}) {
      auto files = stored();
      files[6].shape = one, files[7].shape = many;
      ASSERT_EQ(error_of(files), "");
      EXPECT_EQ(rows(), want);
    }
  }
}

// Packed in several pieces, each with scales of its own rows.
TEST_F(Fp8WeightsTest, WideLayersHaveEveryRowsScale) {
  constexpr int64_t kWide = 1 << 15, kRows = 70;
  list_.linears = {{&linear_, kWide, {{"w.weight", kRows, ""}}}};
  list_.vectors.clear();
  std::vector<float> scales;
  for (int64_t r = 0; r < kRows; ++r) scales.push_back(scale_b(r));
  ASSERT_EQ(error_of({{"w.weight", "F8_E4M3", {kRows, kWide}, std::string(kRows * kWide, 0x38)},
                      {"w.weight_scale", "F32", {kRows, 1}, as("F32", scales)}}),
            "");
  for (int64_t r = 0; r < kRows; ++r) EXPECT_EQ(linear_.scale.as<float>()[r], scales[r]) << r;
}

TEST_F(Fp8WeightsTest, QuantisesLayersAndExpertsAtLoadButNoHeadOrTable) {
  for (const char* from : {"F32", "BF16", "F16"}) {
    list_.linears[0].use = from[0] == 'B' ? LinearSpec::Use::experts : LinearSpec::Use::mlp;
    ASSERT_EQ(error_of(tensors(from, from), DType::fp8_e4m3), "");
    EXPECT_EQ(linear_.data.dtype, DType::fp8_e4m3);
    const std::vector<float> got = rows(), from_file = expected(from[0] == 'B'   ? through_bf16
                                                                : from[1] == '1' ? through_f16
                                                                                 : same);
    for (int64_t r = 0; r < kRowsA + kRowsB; ++r) {
      const float* x = &from_file[r * kIn];
      const float largest = std::fabs(*std::max_element(
          x, x + kIn, [](float a, float b) { return std::fabs(a) < std::fabs(b); }));
      for (int64_t c = 0; c < kIn; ++c) {
        const float scale = largest / 448;
        ASSERT_EQ(got[r * kIn + c], from_e4m3(to_e4m3(x[c] / scale)) * scale) << from;
      }
    }
    for (const auto use :
         {LinearSpec::Use::head, LinearSpec::Use::table, LinearSpec::Use::router}) {
      list_.linears[0].use = use;
      ASSERT_EQ(error_of(tensors(from, from), DType::fp8_e4m3), "");
      EXPECT_EQ(rows(), from_file);
      EXPECT_FALSE(linear_.scale);
    }
  }
  list_.linears[0].use = LinearSpec::Use::head;  // but stored as fp8 it stays so
  ASSERT_EQ(error_of(stored()), "");
  EXPECT_EQ(rows(), meant());
}

TEST_F(Fp8WeightsTest, OnePartOfTwoIsFp8) {
  auto files = stored();
  files[1] = tensors("F8_E4M3", "BF16")[1];
  ASSERT_EQ(error_of(files), "");
  EXPECT_EQ(linear_.data.dtype, DType::f32);
  std::vector<float> want = meant();
  for (size_t i = 0; i < b_.size(); ++i) want[a_.size() + i] = through_bf16(b_[i]);
  EXPECT_EQ(rows(), want);
}

TEST_F(Fp8WeightsTest, AnyAlignmentAndAnyNumberOfThreads) {
  const std::vector<float> want = meant();
  for (int pad = 0; pad < 4; ++pad) {
    ASSERT_TRUE(load(stored(), {}, 1 + pad, pad).ok());
    EXPECT_EQ(rows(), want) << pad;
  }
}

TEST_F(Fp8WeightsTest, FaultsNameFileAndTensor) {
  auto files = stored();
  files[6].name = "a.scale";
  EXPECT_EQ(error_of(files),
            "model.safetensors: tensor a.weight_scale, which F8_E4M3 a.weight needs, is missing");
  files[6].name = "a.weight_scale_inv";
  EXPECT_EQ(error_of(files),
            "model.safetensors: tensor a.weight_scale_inv: scales of blocks are not supported");
  files = stored();
  files[7].shape = {1, kRowsB};
  EXPECT_EQ(error_of(files),
            "model.safetensors: tensor b.weight_scale: shape [1, 130], expected [1] or [130, 1]");
  files = stored();
  files[6].dtype = "I32";
  EXPECT_EQ(error_of(files),
            "model.safetensors: tensor a.weight_scale: dtype I32, expected F32, F16 or BF16");
  for (const float bad : {-1.0f, INFINITY, NAN}) {
    files = stored();
    files[6].bytes = as("F32", {bad});
    EXPECT_EQ(error_of(files),
              fmt::format("model.safetensors: tensor a.weight_scale: has {}, expected finite "
                          "scales from 0",
                          bad));
  }
  for (const auto dtype : {std::optional<DType>(), std::optional(DType::f32)}) {
    files = stored();
    files[1].bytes[777] = char(0xff);
    EXPECT_EQ(error_of(files, dtype),
              "model.safetensors: tensor b.weight: has a NaN, expected numbers");
  }
  files = stored();
  files[6].bytes = as("F32", {1e6});
  EXPECT_THAT(error_of(files, DType::f16), HasSubstr("tensor a.weight: 500000 is beyond f16"));
  EXPECT_EQ(error_of(files), "");
  list_.linears[0].use = LinearSpec::Use::table;
  EXPECT_EQ(error_of(stored()),
            "model.safetensors: tensor a.weight: dtype F8_E4M3, expected F32, F16 or BF16");
  list_.linears[0].use = LinearSpec::Use::mlp;
  b_[777] = INFINITY;
  EXPECT_THAT(error_of(tensors("F32", "F32"), DType::fp8_e4m3),
              HasSubstr("tensor b.weight: inf is beyond fp8_e4m3"));
}

TEST_F(WeightsTest, WordsForDTypes) {
  EXPECT_EQ(*parse_weight_dtype("auto"), std::nullopt);
  EXPECT_EQ(*parse_weight_dtype("bf16"), DType::bf16);
  EXPECT_EQ(*parse_weight_dtype("fp8"), DType::fp8_e4m3);
  EXPECT_THAT(std::string(message_of(parse_weight_dtype("int8").status())),
              HasSubstr("model.dtype: \"int8\", expected auto, f32, f16, bf16 or fp8"));
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
  const auto plain = rope_frequencies(rope, 128, 4096);
  rope.type = RopeConfig::Type::llama3;
  rope.factor = 8;
  const auto scaled = rope_frequencies(rope, 128, 4096);
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
