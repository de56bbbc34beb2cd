#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <random>
#include <span>
#include <vector>

#include "kernels/simt/launch.h"
#include "kernels/tensor.h"

namespace sluice::simt {

// Names of bf16 and f16 for typed tests.
template <class T>
constexpr DType dtype_of() {
  return std::is_same_v<T, Bf16> ? DType::bf16 : DType::f16;
}

// Runs `body` with threads lowest first, highest first, and twice in random order.
template <class Body>
void in_all_orders(const Body& body) {
  for (const EmulatorOptions& o : {EmulatorOptions{Order::forward, 0, 2},
                                   {Order::reverse, 0, 2},
                                   {Order::random, 1, 2},
                                   {Order::random, 2, 3}}) {
    emulator_options() = o;
    body();
  }
  emulator_options() = {};
}

// Memory of exactly the size asked for, so that ASan sees every step beyond; 16-byte aligned.
// Filled with NaN, which whatever is not written stays.
template <class T>
class Array {
 public:
  explicit Array(size_t size) : data_(size) {
    if (size > 0) std::memset(static_cast<void*>(data_.data()), 0xff, size * sizeof(T));
  }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  size_t size() const { return data_.size(); }
  T* data() { return data_.data(); }
  const T* data() const { return data_.data(); }
  Tensor tensor(DType dtype, std::initializer_list<int64_t> dims) {
    return Tensor::of(data_.data(), dtype, dims);
  }
  bool same_bits(const Array& o) const {
    return size() == o.size() && std::memcmp(data_.data(), o.data_.data(), size() * sizeof(T)) == 0;
  }

 private:
  std::vector<T> data_;
};

// What every array of random numbers is made from beside its own seed: SLUICE_TEST_SEED, else 0. On
// a GPU the tests run with several.
inline uint32_t run_seed() {
  static const char* text = std::getenv("SLUICE_TEST_SEED");
  return text == nullptr ? 0 : uint32_t(std::strtoul(text, nullptr, 10)) * 0x9e3779b9u;
}

// Uniform in [-scale, scale], rounded to T; the f32 values as they were rounded.
template <class T>
void fill(Array<T>& to, uint32_t seed, float scale = 1) {
  std::mt19937 random(seed + run_seed());
  std::uniform_real_distribution<float> uniform(-scale, scale);
  for (size_t i = 0; i < to.size(); ++i) from_float(to[i], uniform(random));
}

// ||got - want|| / ||want||; NaN where anything is.
class Error {
 public:
  void add(double got, double want) {
    difference_ += (got - want) * (got - want);
    size_ += want * want;
  }
  double relative() const { return std::sqrt(difference_ / size_); }

 private:
  double difference_ = 0, size_ = 0;
};

}  // namespace sluice::simt
