// RMSNorm of rows, with or without the addition before it. Region of DeepSpeed-Inference (Aminabadi
// et al., SC'22): the residual is read and written once for both. And LayerNorm (Ba et al. 2016).
#pragma once

#include "kernels/cuda/vector.h"

namespace sluice::cuda {

// Rows are [outer, inner] of dim elements each, so that the heads of a token are rows as well.
// residual += x, rounded to T, where x is there; out = residual * rsqrt(mean(residual^2) + eps) *
// weight. `out` may be the residual where x is absent.
template <class T>
struct RmsNormParams {
  T* out;
  T* residual;          // read only where x is null
  const T* x;           // null: no addition
  const float* weight;  // [dim]
  int64_t out_outer, out_inner, residual_outer, residual_inner, x_outer, x_inner;  // elements
  int32_t num_inner;
  int32_t dim;
  float eps;
};

template <int kThreads>
struct BlockSum {
  float of_warp[kThreads / 32];
};

// Of all threads, in one order; everybody gets it.
template <int kThreads>
SIMT_DEVICE float block_sum(float v, BlockSum<kThreads>& shared) {
  v = simt::warp_sum(v);
  if constexpr (kThreads == 32) return v;
  if (simt::lane_id() == 0) shared.of_warp[simt::warp_id()] = v;
  simt::sync_block();
  float sum = 0;
  SIMT_UNROLL
  for (int w = 0; w < kThreads / 32; ++w) sum += shared.of_warp[w];
  return sum;
}

// residual[dim] += x, where x is there, by all threads of a block; 1 over the root of the mean of
// its squares for everybody. Threads write in steps of kVector elements and wait for each other
// behind.
template <int kThreads, int kVector, class T>
SIMT_DEVICE float add_and_norm(T* residual, const T* x, int dim, float eps,
                               BlockSum<kThreads>& shared) {
  constexpr int kStep = kThreads * kVector;
  float squares = 0;
  for (int i = simt::thread_id() * kVector; i < dim; i += kStep) {
    float v[kVector];
    load<kVector>(v, residual + i);
    if (x != nullptr) {
      float add[kVector];
      load<kVector>(add, x + i);
      SIMT_UNROLL
      for (int k = 0; k < kVector; ++k) v[k] += add[k];
      store<kVector>(residual + i, v);
      load<kVector>(v, residual + i);  // as rounded: who reads the residual later sees the same
    }
    SIMT_UNROLL
    for (int k = 0; k < kVector; ++k) squares += v[k] * v[k];
  }
  return simt::rsqrt(block_sum<kThreads>(squares, shared) / float(dim) + eps);
}

// A block takes a row. kVector: elements of one access; rows, strides and dim are multiples of it.
template <class T, int kThreads, int kVector>
SIMT_KERNEL(kThreads, 1)
rms_norm_kernel(RmsNormParams<T> p) {
  simt::wait_for_earlier();
  auto& shared = simt::shared<BlockSum<kThreads>>();
  const int64_t outer = simt::block_id() / p.num_inner, inner = simt::block_id() % p.num_inner;
  T* residual = p.residual + outer * p.residual_outer + inner * p.residual_inner;
  const T* x = p.x != nullptr ? p.x + outer * p.x_outer + inner * p.x_inner : nullptr;
  T* out = p.out + outer * p.out_outer + inner * p.out_inner;
  constexpr int kStep = kThreads * kVector;
  const float scale = add_and_norm<kThreads, kVector>(residual, x, p.dim, p.eps, shared);
  for (int i = simt::thread_id() * kVector; i < p.dim; i += kStep) {
    float v[kVector];
    load<kVector>(v, residual + i);  // this thread's own
    SIMT_UNROLL
    for (int k = 0; k < kVector; ++k) v[k] *= scale * p.weight[i + k];
    store<kVector>(out + i, v);
  }
}

// out [rows, dim] = (x - mean) * rsqrt(variance + eps) * weight + bias; out may be x.
template <class T>
struct LayerNormParams {
  T* out;
  const T* x;
  const float* weight;  // [dim]
  const float* bias;    // [dim]; may be null
  int64_t out_stride, x_stride;
  int32_t dim;
  float eps;
};

template <int kThreads>
struct LayerNormShared {
  BlockSum<kThreads> mean, squares;  // one each: nobody waits for the first to be read
};

// A block takes a row and reads it three times: the mean comes before the squares around it.
template <class T, int kThreads, int kVector>
SIMT_KERNEL(kThreads, 1)
layer_norm_kernel(LayerNormParams<T> p) {
  simt::wait_for_earlier();
  auto& shared = simt::shared<LayerNormShared<kThreads>>();
  const T* x = p.x + simt::block_id() * p.x_stride;
  T* out = p.out + simt::block_id() * p.out_stride;
  constexpr int kStep = kThreads * kVector;
  float sum = 0;
  for (int i = simt::thread_id() * kVector; i < p.dim; i += kStep) {
    float v[kVector];
    load<kVector>(v, x + i);
    SIMT_UNROLL
    for (int k = 0; k < kVector; ++k) sum += v[k];
  }
  const float mean = block_sum<kThreads>(sum, shared.mean) / float(p.dim);
  float squares = 0;
  for (int i = simt::thread_id() * kVector; i < p.dim; i += kStep) {
    float v[kVector];
    load<kVector>(v, x + i);
    SIMT_UNROLL
    for (int k = 0; k < kVector; ++k) squares += (v[k] - mean) * (v[k] - mean);
  }
  const float scale =
      simt::rsqrt(block_sum<kThreads>(squares, shared.squares) / float(p.dim) + p.eps);
  for (int i = simt::thread_id() * kVector; i < p.dim; i += kStep) {
    float v[kVector];
    load<kVector>(v, x + i);  // this thread's own
    SIMT_UNROLL
    for (int k = 0; k < kVector; ++k) {
      v[k] = (v[k] - mean) * scale * p.weight[i + k];
      if (p.bias != nullptr) v[k] += p.bias[i + k];
    }
    store<kVector>(out + i, v);
  }
}

}  // namespace sluice::cuda
