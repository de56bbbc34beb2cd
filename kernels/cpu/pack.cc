#include "kernels/cpu/pack.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/float16.h"
#include "base/float8.h"
#include "kernels/quantize.h"

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

// e4m3 without its scale.
struct E4m3 {
  using T = uint8_t;
  static float get(T x) { return from_e4m3(x); }
  static T put(float x) { return to_e4m3(x); }
};
template <class To>
constexpr bool kPairs = std::is_same_v<To, Bf16> || std::is_same_v<To, E4m3>;

// Where (row, k) lies, in elements from the tile's start: two neighbours k, k + 1 of a row are
// `Pair` apart, and a pair of inputs takes 32 elements.
template <class To>
constexpr int64_t kInPair = kPairs<To> ? 1 : kTileCols;
template <class To>
constexpr int64_t kAcross = kPairs<To> ? 2 : 1;

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
          if constexpr (std::is_same_v<To, From> && kPairs<To>) {
            std::memcpy(to, from + k, 2 * sizeof(*to));
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
      CHECK(!"pack_rows takes f32, f16, bf16 or fp8_e4m3");
  }
}

// The rows as f32: a tile's at a time, so that its memory is written in one go.
template <class Each>
void each_tile_widened(int64_t first_row, const Tensor& src, const Tensor& scale, Each&& each) {
  const int64_t end = first_row + src.shape[0];
  std::vector<float> wide(size_t(kTileCols * src.shape[1]));
  for (int64_t row = first_row; row < end;) {
    const int64_t count = std::min(end, (row / kTileCols + 1) * kTileCols) - row;
    const int64_t at = row - first_row;
    widen_rows(wide.data(), src.rows(at, count), scale ? scale.rows(at, count) : scale);
    each(row, Tensor::of(wide.data(), DType::f32, {count, src.shape[1]}));
    row += count;
  }
}

void pack_e4m3(const Weight& dst, int64_t first_row, const Tensor& src, const Tensor& src_scale) {
  const int64_t in = dst.in_features();
  float* scale = dst.scale.as<float>();
  if (src.dtype == DType::fp8_e4m3) {
    std::memcpy(scale + first_row, src_scale.data, size_t(src.shape[0]) * sizeof(float));
    return pack<E4m3, E4m3>(dst.data.as<uint8_t>(), in, first_row, src);
  }
  std::vector<uint8_t> codes(size_t(kTileCols * in));
  each_tile_widened(first_row, src, src_scale, [&](int64_t row, const Tensor& wide) {
    for (int64_t r = 0; r < wide.shape[0]; ++r)
      quantize_row(codes.data() + r * in, scale + row + r, wide.row<const float>(r), in);
    pack<E4m3, E4m3>(dst.data.as<uint8_t>(), in, row,
                     Tensor::of(codes.data(), DType::fp8_e4m3, {wide.shape[0], in}));
  });
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
    case DType::fp8_e4m3:
      return WeightType::e4m3;
    default:
      CHECK(!"linear layers are f32, f16, bf16 or fp8_e4m3 here");
  }
  return WeightType::f32;
}

void pack_rows(const Weight& dst, int64_t first_row, const Tensor& src, const Tensor& src_scale) {
  const int64_t in = dst.in_features();
  CHECK(src.rank == 2 && src.shape[1] == in);
  CHECK(first_row >= 0 && first_row + src.shape[0] <= dst.out_features());
  const WeightType type = weight_type(dst.data.dtype);
  if (type == WeightType::e4m3) return pack_e4m3(dst, first_row, src, src_scale);
  if (src.dtype == DType::fp8_e4m3) {
    return each_tile_widened(first_row, src, src_scale, [&](int64_t row, const Tensor& wide) {
      pack_rows(dst, row, wide, {});
    });
  }
  switch (type) {
    case WeightType::f32:
      return pack_from<F32>(dst.data.as<float>(), in, first_row, src);
    case WeightType::f16:
      return pack_from<F16>(dst.data.as<uint16_t>(), in, first_row, src);
    case WeightType::bf16:
      return pack_from<Bf16>(dst.data.as<uint16_t>(), in, first_row, src);
    case WeightType::e4m3:
      break;  // above
  }
}

void unpack_row(float* out, const Weight& packed, int64_t row) {
  const int64_t in = packed.in_features();
  const WeightType type = weight_type(packed.data.dtype);
  const char* tile = packed.data.as<char>() + row / kTileCols * tile_bytes(type, in);
  const int64_t col = row % kTileCols;
  switch (type) {
    case WeightType::f32:
      return unpack<F32>(out, reinterpret_cast<const float*>(tile), in, col);
    case WeightType::f16:
      return unpack<F16>(out, reinterpret_cast<const uint16_t*>(tile), in, col);
    case WeightType::bf16:
      return unpack<Bf16>(out, reinterpret_cast<const uint16_t*>(tile), in, col);
    case WeightType::e4m3:
      unpack<E4m3>(out, reinterpret_cast<const uint8_t*>(tile), in, col);
      for (int64_t k = 0; k < in; ++k) out[k] *= packed.scale.as<const float>()[row];
  }
}

}  // namespace sluice::cpu
