// Rotary embedding and the write to the paged cache, in place on the rows of a QKV matmul. One
// block a token; a warp takes head after head. Region of DeepSpeed-Inference: norm, rotation and
// cache write read the row once.
#pragma once

#include "kernels/simt/simt.h"

namespace sluice::cuda {

// Where the heads of a token lie, and what is done with them: heads [0, num_heads) are queries,
// then num_kv_heads keys, then as many values; any of the three may be none. Kv: of the cache, T or
// E4m3.
template <class T, class Kv>
struct QkvRows {
  T* q;  // [tokens, num_heads, head_dim]
  T* k;  // [tokens, num_kv_heads, head_dim]
  const T* v;
  int64_t q_token, q_head, k_token, k_head, v_token, v_head;  // strides in elements
  int32_t num_heads, num_keys, num_values;
  int32_t head_dim, rotary_dim;  // rotary_dim: even; 0: nothing is rotated
  const float* q_norm;           // [head_dim]; null: no norm
  const float* k_norm;
  float eps;
  const float* cos_sin;      // [positions, rotary_dim]: cosines, then sines
  const int32_t* positions;  // [tokens]
  // The cache; null: keys and values stay where they are.
  Kv* k_cache;
  Kv* v_cache;
  float k_inverse, v_inverse;                      // what is stored in E4m3 is multiplied by
  int64_t block_stride, head_stride, slot_stride;  // elements; the same for keys and values
  int32_t block_size;
  const int32_t* slots;  // [tokens]
};

constexpr int kQkvThreads = 128;
constexpr int kMostHeadDim = 256;

// A warp's head: lane l has elements l, l + 32, ..
struct HeadValues {
  float v[kMostHeadDim / 32];
};

template <class T>
SIMT_DEVICE void load_head(HeadValues& h, const T* from, int dim) {
  SIMT_UNROLL
  for (int i = 0; i < kMostHeadDim / 32; ++i) {
    const int at = i * 32 + simt::lane_id();
    h.v[i] = at < dim ? simt::to_float(from[at]) : 0.0f;
  }
}

template <class T>
SIMT_DEVICE void store_head(T* to, const HeadValues& h, int dim) {
  SIMT_UNROLL
  for (int i = 0; i < kMostHeadDim / 32; ++i) {
    const int at = i * 32 + simt::lane_id();
    if (at < dim) simt::from_float(to[at], h.v[i]);
  }
}

// To the cache: rounded to T first, as the ops are when they run one after the other.
template <class T, class Kv>
SIMT_DEVICE void store_cached(Kv* to, const HeadValues& h, int dim, float inverse) {
  if constexpr (sizeof(Kv) == sizeof(T)) {
    store_head(to, h, dim);
  } else {
    SIMT_UNROLL
    for (int i = 0; i < kMostHeadDim / 32; ++i) {
      const int at = i * 32 + simt::lane_id();
      if (at >= dim) continue;
      T rounded;
      simt::from_float(rounded, h.v[i]);
      simt::from_float(to[at], simt::to_float(rounded) * inverse);
    }
  }
}

// Rounded to T between norm and rotation, as the ops are when they run one after the other.
template <class T>
SIMT_DEVICE void norm_head(HeadValues& h, const float* weight, float eps, int dim) {
  float squares = 0;
  SIMT_UNROLL
  for (int i = 0; i < kMostHeadDim / 32; ++i) squares += h.v[i] * h.v[i];
  const float scale = simt::rsqrt(simt::warp_sum(squares) / float(dim) + eps);
  SIMT_UNROLL
  for (int i = 0; i < kMostHeadDim / 32; ++i) {
    const int at = i * 32 + simt::lane_id();
    if (at >= dim) continue;
    T rounded;
    simt::from_float(rounded, h.v[i] * scale * weight[at]);
    h.v[i] = simt::to_float(rounded);
  }
}

// Pairs (j, j + rotary_dim / 2) lie in other lanes' hands where the half is no multiple of 32, so
// they meet in shared memory.
SIMT_DEVICE void rotate_head(HeadValues& h, const float* cos_sin, int rotary_dim,
                             float (&row)[kMostHeadDim]) {
  const int half = rotary_dim / 2;
  simt::sync_warp();  // the head before has been read
  SIMT_UNROLL
  for (int i = 0; i < kMostHeadDim / 32; ++i) {
    const int at = i * 32 + simt::lane_id();
    if (at < rotary_dim) row[at] = h.v[i];
  }
  simt::sync_warp();
  SIMT_UNROLL
  for (int i = 0; i < kMostHeadDim / 32; ++i) {
    const int at = i * 32 + simt::lane_id();
    if (at >= rotary_dim) continue;
    const int j = at < half ? at : at - half;
    const float cosine = cos_sin[j], sine = cos_sin[half + j];
    const float other = at < half ? -row[at + half] : row[at - half];
    h.v[i] = h.v[i] * cosine + other * sine;
  }
}

struct QkvShared {
  float row[kQkvThreads / 32][kMostHeadDim];
};

template <class T, class Kv>
SIMT_KERNEL(kQkvThreads, 1)
qkv_kernel(QkvRows<T, Kv> p) {
  simt::wait_for_earlier();
  auto& shared = simt::shared<QkvShared>();
  const int token = simt::block_id(), warp = simt::warp_id();
  const int num_rotated = p.num_heads + p.num_keys, num_all = num_rotated + p.num_values;
  const float* cos_sin =
      p.rotary_dim > 0 ? p.cos_sin + int64_t{p.positions[token]} * p.rotary_dim : nullptr;
  int64_t slot_at = 0;  // of the token, head 0
  if (p.k_cache != nullptr || p.v_cache != nullptr) {
    const int32_t slot = p.slots[token];
    slot_at = int64_t{slot / p.block_size} * p.block_stride +
              int64_t{slot % p.block_size} * p.slot_stride;
  }
  for (int head = warp; head < num_all; head += kQkvThreads / 32) {
    HeadValues h;
    if (head >= num_rotated) {
      const int at = head - num_rotated;
      load_head(h, p.v + token * p.v_token + at * p.v_head, p.head_dim);
      store_cached<T>(p.v_cache + slot_at + at * p.head_stride, h, p.head_dim, p.v_inverse);
      continue;
    }
    const bool query = head < p.num_heads;
    const int at = query ? head : head - p.num_heads;
    T* in_place =
        query ? p.q + token * p.q_token + at * p.q_head : p.k + token * p.k_token + at * p.k_head;
    load_head(h, in_place, p.head_dim);
    const float* norm = query ? p.q_norm : p.k_norm;
    if (norm != nullptr) norm_head<T>(h, norm, p.eps, p.head_dim);
    if (p.rotary_dim > 0) rotate_head(h, cos_sin, p.rotary_dim, shared.row[warp]);
    if (query || p.k_cache == nullptr) {
      store_head(in_place, h, p.head_dim);
    } else {
      store_cached<T>(p.k_cache + slot_at + at * p.head_stride, h, p.head_dim, p.k_inverse);
    }
  }
}

}  // namespace sluice::cuda
