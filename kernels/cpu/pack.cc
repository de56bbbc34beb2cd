#include "kernels/cpu/pack.h"

#include <algorithm>
#include <bit>

#include <cstring>

#include "base/check.h"
#include "base/float16.h"

namespace sluice::cpu {
namespace {

struct F32 {
  using T = float;
  static float get(T x) { return x; }
  static T put(float x) { return x; }
};
struct F16 {
  using T = uint16_t;
  static float get(T x) { return from_f16(x); }
  static T put(float x) { return to_f16(x); }
};
struct Bf16 {
  using T = uint16_t;
  static float get(T x) { return from_bf16(x); }
  static T put(float x) { return to_bf16(x); }
};

// Where (row, k) lies, in elements from the tile's start: two neighbours k, k + 1 of a row are
// `Pair` apart, and a pair of inputs takes 32 elements.
template <class To>
constexpr int64_t kInPair = std::is_same_v<To, Bf16> ? 1 : kTileCols;
template <class To>
constexpr int64_t kAcross = std::is_same_v<To, Bf16> ? 2 : 1;

template <class To, class From>
void pack(typename To::T* dst, int64_t in, int64_t first_row, const Tensor& src) {
  const int64_t tile = (in + 1) / 2 * 2 * kTileCols;
  // Row by row within a tile of outputs and a stretch of inputs that stays in L1.
  constexpr int64_t kStretch = 512;
  const int64_t end = first_row + src.shape[0];
  for (int64_t tile_row = first_row; tile_row < end;) {
    const int64_t tile_end = std::min(end, (tile_row / kTileCols + 1) * kTileCols);
    for (int64_t k0 = 0; k0 < in; k0 += kStretch) {
      const int64_t k1 = std::min(in, k0 + kStretch);
      for (int64_t row = tile_row; row < tile_end; ++row) {
        const auto* from = src.row<const typename From::T>(row - first_row);
        auto* to = dst + row / kTileCols * tile + row % kTileCols * kAcross<To> + k0 * kTileCols;
        int64_t k = k0;
        for (; k + 1 < k1; k += 2, to += 2 * kTileCols) {
          if constexpr (std::is_same_v<To, From> && std::is_same_v<To, Bf16>) {
            std::memcpy(to, from + k, 4);
          } else if constexpr (std::is_same_v<To, From>) {
            to[0] = from[k];
            to[kInPair<To>] = from[k + 1];
          } else {
            to[0] = To::put(From::get(from[k]));
            to[kInPair<To>] = To::put(From::get(from[k + 1]));
          }
        }
        if (k < k1) to[0] = To::put(From::get(from[k]));
      }
    }
    tile_row = tile_end;
  }
}

template <class To>
void pack_from(typename To::T* dst, int64_t in, int64_t first_row, const Tensor& src) {
  switch (src.dtype) {
    case DType::f32:
      return pack<To, F32>(dst, in, first_row, src);
    case DType::f16:
      return pack<To, F16>(dst, in, first_row, src);
    case DType::bf16:
      return pack<To, Bf16>(dst, in, first_row, src);
    default:
      CHECK(!"pack_rows takes f32, f16 or bf16");
  }
}

template <class From>
void unpack(float* out, const typename From::T* tile, int64_t in, int64_t col) {
  const auto* from = tile + col * kAcross<From>;
  for (int64_t k = 0; k < in; ++k) {
    out[k] = From::get(from[k / 2 * 2 * kTileCols + (k & 1) * kInPair<From>]);
  }
}

}  // namespace

WeightType weight_type(DType t) {
  switch (t) {
    case DType::f32:
      return WeightType::f32;
    case DType::f16:
      return WeightType::f16;
    case DType::bf16:
      return WeightType::bf16;
    default:
      CHECK(!"linear layers are f32, f16 or bf16 here");
  }
  return WeightType::f32;
}

void pack_rows(const Tensor& dst, int64_t first_row, const Tensor& src) {
  const int64_t in = dst.shape[1];
  CHECK(src.rank == 2 && src.shape[1] == in);
  CHECK(first_row >= 0 && first_row + src.shape[0] <= dst.shape[0]);
  switch (weight_type(dst.dtype)) {
    case WeightType::f32:
      return pack_from<F32>(dst.as<float>(), in, first_row, src);
    case WeightType::f16:
      return pack_from<F16>(dst.as<uint16_t>(), in, first_row, src);
    case WeightType::bf16:
      return pack_from<Bf16>(dst.as<uint16_t>(), in, first_row, src);
  }
}

void unpack_row(float* out, const Tensor& packed, int64_t row) {
  const int64_t in = packed.shape[1];
  const WeightType type = weight_type(packed.dtype);
  const char* tile = packed.as<char>() + row / kTileCols * tile_bytes(type, in);
  const int64_t col = row % kTileCols;
  switch (type) {
    case WeightType::f32:
      return unpack<F32>(out, reinterpret_cast<const float*>(tile), in, col);
    case WeightType::f16:
      return unpack<F16>(out, reinterpret_cast<const uint16_t*>(tile), in, col);
    case WeightType::bf16:
      return unpack<Bf16>(out, reinterpret_cast<const uint16_t*>(tile), in, col);
  }
}

}  // namespace sluice::cpu
