#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/check.h"

namespace sluice {

enum class DType : uint8_t { f32, f16, bf16, i32, i64, u8, u32, u64, fp8_e4m3, int8, int4 };

// Bits an element takes; int4 packs two to a byte.
constexpr int bits_of(DType t) {
  switch (t) {
    case DType::i64:
    case DType::u64:
      return 64;
    case DType::f32:
    case DType::i32:
    case DType::u32:
      return 32;
    case DType::f16:
    case DType::bf16:
      return 16;
    case DType::u8:
    case DType::fp8_e4m3:
    case DType::int8:
      return 8;
    case DType::int4:
      return 4;
  }
  return 0;
}

constexpr const char* name_of(DType t) {
  constexpr const char* names[] = {"f32", "f16", "bf16",     "i32",  "i64", "u8",
                                   "u32", "u64", "fp8_e4m3", "int8", "int4"};
  return names[static_cast<int>(t)];
}

// A view: pointer, type, shape. Owns nothing, copies freely, always row-major with a contiguous
// last dimension. Rank 4 is enough for everything we run. `data == nullptr` means absent.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  std::array<int64_t, 4> shape{};
  std::array<int64_t, 4> stride{};  // in elements

  // A dense tensor over `data`.
  static Tensor of(void* data, DType dtype, std::initializer_list<int64_t> dims) {
    Tensor t;
    t.data = data;
    t.dtype = dtype;
    CHECK(dims.size() <= 4);
    for (const int64_t d : dims) t.shape[t.rank++] = d;
    int64_t step = 1;
    for (int i = t.rank - 1; i >= 0; --i) {
      t.stride[i] = step;
      step *= t.shape[i];
    }
    return t;
  }

  explicit operator bool() const { return data != nullptr; }

  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  bool contiguous() const {
    int64_t step = 1;
    for (int i = rank - 1; i >= 0; --i) {
      if (shape[i] > 1 && stride[i] != step) return false;
      step *= shape[i];
    }
    return true;
  }

  // Row i of dim 0, typed. The caller knows the dtype.
  template <class T>
  T* row(int64_t i) const {
    return static_cast<T*>(data) + i * stride[0];
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }

  // Slice of dim 0: [begin, begin + count).
  Tensor rows(int64_t begin, int64_t count) const {
    Tensor t = *this;
    t.data = static_cast<char*>(data) + begin * stride[0] * bits_of(dtype) / 8;
    t.shape[0] = count;
    return t;
  }
  // Slice of the last dim: [begin, begin + count). Rows keep their stride.
  Tensor cols(int64_t begin, int64_t count) const {
    Tensor t = *this;
    t.data = static_cast<char*>(data) + begin * bits_of(dtype) / 8;
    t.shape[rank - 1] = count;
    return t;
  }
  // Splits the last dim into [heads, dim]; any row stride.
  Tensor heads(int64_t dim) const {
    Tensor t = *this;
    CHECK(rank < 4 && shape[rank - 1] % dim == 0);
    t.shape[rank - 1] = shape[rank - 1] / dim;
    t.stride[rank - 1] = dim;
    t.shape[rank] = dim;
    t.stride[rank] = 1;
    ++t.rank;
    return t;
  }
};

// A linear layer's parameters in the layout its device's matmul wants (packed at load). `data` has
// the logical shape [out_features, in_features]; the bytes behind it are the device's business.
struct Weight {
  Tensor data;   // [out_features, in_features]
  Tensor scale;  // f32 [out_features], of each output's weights; absent unless data is fp8_e4m3
  Tensor bias;   // [out_features], of its device's activations' type; absent if none

  int64_t out_features() const { return data.shape[0]; }
  int64_t in_features() const { return data.shape[1]; }
};

}  // namespace sluice
