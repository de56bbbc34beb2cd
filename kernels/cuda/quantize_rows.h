// Activations for products in fp8: each row on its own, so that a row's result does not depend on
// its batch.
#pragma once

#include "base/float8.h"
#include "kernels/cuda/vector.h"

namespace sluice::cuda {

constexpr int kQuantizeThreads = 256;
constexpr int kQuantizeStep = 16;  // elements a thread takes at a time, and codes it writes

// out [rows, dim] * scale [rows] ~ x, where scale = the largest magnitude / 448. A row with a NaN
// keeps it; one with an infinity is NaN or infinite throughout.
template <class T>
struct QuantizeRowsParams {
  uint8_t* out;  // e4m3; rows of `dim`, on borders of 16 bytes
  float* scale;
  const T* x;
  int64_t x_stride;
  int32_t dim;  // a multiple of kQuantizeStep
};

struct QuantizeRowsShared {
  float of_warp[kQuantizeThreads / 32];
};

template <int kVector, class T>
SIMT_DEVICE void load_step(float (&to)[kQuantizeStep], const T* from) {
  SIMT_UNROLL
  for (int i = 0; i < kQuantizeStep; i += kVector) {
    float part[kVector];
    load<kVector>(part, from + i);
    SIMT_UNROLL
    for (int k = 0; k < kVector; ++k) to[i + k] = part[k];
  }
}

template <class T, int kVector>
SIMT_KERNEL(kQuantizeThreads, 1)
quantize_rows_kernel(QuantizeRowsParams<T> p) {
  auto& shared = simt::shared<QuantizeRowsShared>();
  const int64_t row = simt::block_id();
  const T* x = p.x + row * p.x_stride;
  constexpr int kStride = kQuantizeThreads * kQuantizeStep;
  float v[kQuantizeStep];
  float largest = 1e-30f;  // a row of zeros has a scale too, whose inverse is finite
  for (int i = simt::thread_id() * kQuantizeStep; i < p.dim; i += kStride) {
    load_step<kVector>(v, x + i);
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
    load_step<kVector>(v, x + i);
    SIMT_UNROLL
    for (int k = 0; k < kQuantizeStep; ++k) v[k] *= inverse;
    simt::store_16(
        p.out + row * p.dim + i,
        {simt::pack_e4m3(v[0], v[1], v[2], v[3]), simt::pack_e4m3(v[4], v[5], v[6], v[7]),
         simt::pack_e4m3(v[8], v[9], v[10], v[11]), simt::pack_e4m3(v[12], v[13], v[14], v[15])});
  }
}

}  // namespace sluice::cuda
