#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/float16.h"
#include "base/float8.h"
#include "kernels/checked_ops.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/pack.h"
#include "kernels/tolerance.h"

namespace sluice {

// A CPU device behind CheckedOps.
struct TestDevice {
  explicit TestDevice(const std::string& isa, int threads = 2)
      : device(make_cpu_device({threads, isa}).value()), ops(device->ops()) {}

  std::unique_ptr<Device> device;
  CheckedOps ops;
};

// Every instruction set; one that the chip lacks is skipped by name, not left out.
class EachIsa : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const auto isa = cpu::choose_isa(GetParam());
    if (!isa.ok()) GTEST_SKIP() << "NOT TESTED HERE: this chip has no " << GetParam();
    test_ = std::make_unique<TestDevice>(GetParam());
  }
  CheckedOps& ops() { return test_->ops; }
  Device& device() { return *test_->device; }
  // Products with such weights round their other side to bf16.
  bool rounds_x(DType weights) const {
    if (GetParam() == "amx") return weights == DType::bf16 || weights == DType::fp8_e4m3;
    return GetParam() == "avx512bf16" && weights == DType::bf16;
  }

  std::unique_ptr<TestDevice> test_;
};

inline auto all_isas() {
  return testing::Values("portable", "avx2", "avx512", "avx512bf16", "amx");
}
#define SLUICE_EACH_ISA(Suite) \
  INSTANTIATE_TEST_SUITE_P(Isa, Suite, all_isas(), [](const auto& info) { return info.param; })

// Rows of floats, `stride` apart, with a canary between and behind them.
class Matrix {
 public:
  static constexpr float kCanary = -12345.678f;

  Matrix(int64_t rows, int64_t cols, int64_t stride = 0)
      : rows_(rows), cols_(cols), stride_(stride ? stride : cols) {
    data_.assign(rows * stride_ + 16, kCanary);
  }
  Matrix& randomize(std::mt19937& rng, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) at(r, c) = normal(rng);
    }
    return *this;
  }
  float& at(int64_t r, int64_t c) { return data_[r * stride_ + c]; }
  float at(int64_t r, int64_t c) const { return data_[r * stride_ + c]; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  Tensor tensor() {
    Tensor t = Tensor::of(data_.data(), DType::f32, {rows_, cols_});
    t.stride[0] = stride_;
    return t;
  }
  Tensor vector() { return Tensor::of(data_.data(), DType::f32, {rows_ * cols_}); }
  bool canaries_live() const {
    for (int64_t i = 0; i < int64_t(data_.size()); ++i) {
      const bool inside = i < rows_ * stride_ && i % stride_ < cols_;
      if (!inside && data_[i] != kCanary) return false;
    }
    return true;
  }
  // Equal as f32 values, row by row.
  bool same_rows(const Matrix& other, int64_t mine, int64_t theirs, int64_t count) const {
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = 0; c < cols_; ++c) {
        if (!(at(mine + r, c) == other.at(theirs + r, c))) return false;
      }
    }
    return true;
  }

 private:
  int64_t rows_, cols_, stride_;
  std::vector<float> data_;
};

inline constexpr DType kWeightTypes[] = {DType::f32, DType::bf16, DType::f16, DType::fp8_e4m3};

inline Tensor i32(std::vector<int32_t>& v) {
  return Tensor::of(v.data(), DType::i32, {int64_t(v.size())});
}
inline Tensor f32(std::vector<float>& v) {
  return Tensor::of(v.data(), DType::f32, {int64_t(v.size())});
}

inline double error_of(const Matrix& got, const std::vector<double>& exact) {
  std::vector<float> flat;
  for (int64_t r = 0; r < got.rows(); ++r) {
    for (int64_t c = 0; c < got.cols(); ++c) flat.push_back(got.at(r, c));
  }
  return relative_rms(flat.data(), exact.data(), int64_t(flat.size()));
}

// A cache whose blocks, heads and slots are all further apart than they need be.
struct Cache {
  Cache(DType type, int64_t blocks, int64_t heads, int64_t size, int64_t dim)
      : type(type), bytes(blocks * (2 * heads * size * (dim + 2) + 24) * 4, 0xff) {
    const int64_t plane = heads * size * (dim + 2);
    view.k = Tensor::of(bytes.data(), type, {blocks, heads, size, dim});
    view.k.stride = {2 * plane + 24, size * (dim + 2), dim + 2, 1};
    view.v = view.k;
    view.v.data = bytes.data() + plane * bits_of(type) / 8;
  }
  float at(const Tensor& t, int64_t slot, int64_t head, int64_t d) const {
    const int64_t i =
        slot / t.shape[2] * t.stride[0] + head * t.stride[1] + slot % t.shape[2] * t.stride[2] + d;
    if (type == DType::fp8_e4m3) return from_e4m3(t.as<uint8_t>()[i]);
    return type == DType::bf16 ? from_bf16(t.as<uint16_t>()[i]) : t.as<float>()[i];
  }
  DType type;
  std::vector<uint8_t> bytes;
  KvView view;
};

// A packed layer and the values it holds after conversion.
struct Layer {
  Layer(Ops& ops, Device& device, DType type, int64_t out, int64_t in, std::mt19937& rng,
        bool with_bias = false)
      : values(out, in), bias(1, out) {
    values.randomize(rng, 1 / std::sqrt(float(in)));
    memory = device.allocate(ops.weight_bytes(type, out, in), Memory::device);
    weight = ops.make_weight(memory.get(), type, out, in);
    for (int64_t row = 0, step = 1; row < out; row += step, step = step * 3 + 1) {
      const int64_t count = std::min(step, out - row);
      ops.pack_rows(weight, row, values.tensor().rows(row, count));
    }
    if (with_bias) weight.bias = bias.randomize(rng).vector();
    for (int64_t r = 0; r < out; ++r) {
      const float scale = scale_of(&values.at(r, 0), in);
      for (int64_t c = 0; c < in; ++c) values.at(r, c) = stored(values.at(r, c), type, scale);
    }
  }
  // Of a row in fp8.
  static float scale_of(const float* row, int64_t n) {
    float largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(row[i]));
    return largest / 448;
  }
  static float stored(float x, DType type, float scale = 1) {
    if (type == DType::fp8_e4m3) return from_e4m3(to_e4m3(x / scale)) * scale;
    if (type == DType::bf16) return from_bf16(to_bf16(x));
    if (type == DType::f16) return from_f16(to_f16(x));
    return x;
  }
  std::vector<double> apply(const Matrix& x) const {
    std::vector<double> y;
    for (int64_t r = 0; r < x.rows(); ++r) {
      for (int64_t n = 0; n < values.rows(); ++n) {
        double sum = weight.bias ? bias.at(0, n) : 0;
        for (int64_t k = 0; k < values.cols(); ++k) sum += double(x.at(r, k)) * values.at(n, k);
        y.push_back(sum);
      }
    }
    return y;
  }

  Matrix values, bias;
  Device::Buffer memory;
  Weight weight;
};

}  // namespace sluice
