// Activations for products in fp8: each row on its own, so that a row's result does not depend on
// its batch. Rows that are stored, or that come out of what would have stored them.
#pragma once

#include "base/float8.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/vector.h"

namespace sluice::cuda {

constexpr int kQuantizeThreads = 256;
constexpr int kQuantizeStep = 16;  // elements a thread takes at a time, and codes it writes

template <class T>
SIMT_DEVICE float rounded_to(float v) {
  T stored;
  simt::from_float(stored, v);
  return simt::to_float(stored);
}

// Three kinds of rows. begin() once by every thread of the block that has the row, then load() of
// kQuantizeStep elements as often as wanted: in pieces of kVector, 8 where that many are aligned.
//
// As they are stored: x [rows, dim].
template <class T, int kVector>
struct StoredRows {
  const T* x;
  int64_t x_stride;

  SIMT_DEVICE void begin(int64_t row, int, BlockSum<kQuantizeThreads>&) { x += row * x_stride; }
  SIMT_DEVICE void load(float (&to)[kQuantizeStep], int at) const {
    SIMT_UNROLL
    for (int i = 0; i < kQuantizeStep; i += kVector) {
      float part[kVector];
      cuda::load<kVector>(part, x + at + i);
      SIMT_UNROLL
      for (int k = 0; k < kVector; ++k) to[i + k] = part[k];
    }
  }
};

// What rms_norm_kernel writes of rows without inner ones, to the bit.
template <class T, int kVector>
struct NormedRows {
  T* residual;
  const T* x;           // null: no addition
  const float* weight;  // [dim]
  int64_t residual_stride, x_stride;
  float eps;
  float scale;  // of the row

  SIMT_DEVICE void begin(int64_t row, int dim, BlockSum<kQuantizeThreads>& shared) {
    residual += row * residual_stride;
    if (x != nullptr) x += row * x_stride;
    scale = add_and_norm<kQuantizeThreads, kVector>(residual, x, dim, eps, shared);
  }
  SIMT_DEVICE void load(float (&to)[kQuantizeStep], int at) const {
    const StoredRows<T, kVector> stored{residual, 0};
    stored.load(to, at);
    SIMT_UNROLL
    for (int k = 0; k < kQuantizeStep; ++k) to[k] = rounded_to<T>(to[k] * (scale * weight[at + k]));
  }
};

// What gate_mul_kernel writes, of x [rows, 2 * dim].
template <class T, Gate kGate, int kVector>
struct GatedRows {
  const T* x;
  int64_t x_stride;
  const T* up;  // of the row

  SIMT_DEVICE void begin(int64_t row, int dim, BlockSum<kQuantizeThreads>&) {
    x += row * x_stride;
    up = x + dim;
  }
  SIMT_DEVICE void load(float (&to)[kQuantizeStep], int at) const {
    const StoredRows<T, kVector> gates{x, 0}, factors{up, 0};
    float factor[kQuantizeStep];
    gates.load(to, at);
    factors.load(factor, at);
    SIMT_UNROLL
    for (int k = 0; k < kQuantizeStep; ++k)
      to[k] = rounded_to<T>(activate<kGate>(to[k]) * factor[k]);
  }
};

// out [rows, dim] * scale [rows] ~ the rows, where scale = the largest magnitude / 448. A row with
// a NaN keeps it; one with an infinity is NaN or infinite throughout.
template <class Rows>
struct QuantizeRowsParams {
  Rows rows;
  uint8_t* out;  // e4m3; rows of `dim`, on borders of 16 bytes
  float* scale;
  int32_t dim;  // a multiple of kQuantizeStep
};

struct QuantizeRowsShared {
  BlockSum<kQuantizeThreads> sum;
  float of_warp[kQuantizeThreads / 32];
};

template <class Rows>
SIMT_KERNEL(kQuantizeThreads, 1)
quantize_rows_kernel(QuantizeRowsParams<Rows> p) {
  simt::wait_for_earlier();
  auto& shared = simt::shared<QuantizeRowsShared>();
  const int64_t row = simt::block_id();
  Rows rows = p.rows;
  rows.begin(row, p.dim, shared.sum);
  constexpr int kStride = kQuantizeThreads * kQuantizeStep;
  float v[kQuantizeStep];
  float largest = 1e-30f;  // a row of zeros has a scale too, whose inverse is finite
  for (int i = simt::thread_id() * kQuantizeStep; i < p.dim; i += kStride) {
    rows.load(v, i);
    SIMT_UNROLL
    for (int k = 0; k < kQuantizeStep; ++k) largest = simt::max(largest, simt::max(v[k], -v[k]));
  }
  largest = simt::warp_max(largest);
  if (simt::lane_id() == 0) shared.of_warp[simt::warp_id()] = largest;
  simt::sync_block();
  SIMT_UNROLL
  for (int w = 0; w < kQuantizeThreads / 32; ++w) largest = simt::max(largest, shared.of_warp[w]);
  if (simt::thread_id() == 0) p.scale[row] = largest / kMaxE4m3;
  const float inverse = kMaxE4m3 / largest;
  for (int i = simt::thread_id() * kQuantizeStep; i < p.dim; i += kStride) {
    rows.load(v, i);
    SIMT_UNROLL
    for (int k = 0; k < kQuantizeStep; ++k) v[k] *= inverse;
    simt::store_16(
        p.out + row * p.dim + i,
        {simt::pack_e4m3(v[0], v[1], v[2], v[3]), simt::pack_e4m3(v[4], v[5], v[6], v[7]),
         simt::pack_e4m3(v[8], v[9], v[10], v[11]), simt::pack_e4m3(v[12], v[13], v[14], v[15])});
  }
}

}  // namespace sluice::cuda
