// Mixtures of experts: which experts a row goes to, their products, and the sum of what they say.
// A product reads its expert's weights once for a few rows, which is what decoding takes; for many
// there is grouped_matmul.h.
#pragma once

#include "kernels/cuda/vector.h"

namespace sluice::cuda {

constexpr int kExpertThreads = 256;
constexpr int kExpertWarps = kExpertThreads / 32;
constexpr int kMostExperts = 512;
constexpr int kOutputsOfWarp = 16;
constexpr int kRowsOfTile = 8;

struct RouteParams {
  int32_t* experts;     // [rows, k]
  float* weights;       // [rows, k]
  const float* logits;  // [rows, num_experts]
  int64_t logits_stride;
  int32_t rows, num_experts, k;
  bool normed;
};

// The better of two (logit, id): the larger, of equals the lower id.
SIMT_DEVICE bool before(float a, int a_id, float b, int b_id) {
  return a > b || (a == b && a_id < b_id);
}

// A warp takes a row; lane l has experts l, l + 32, ..
SIMT_KERNEL(kExpertThreads, 1)
route_kernel(RouteParams p) {
  simt::wait_for_earlier();
  const int row = simt::block_id() * kExpertWarps + simt::warp_id(), lane = simt::lane_id();
  if (row >= p.rows) return;
  constexpr int kEach = kMostExperts / 32;
  float logit[kEach];
  SIMT_UNROLL
  for (int i = 0; i < kEach; ++i) {
    const int e = i * 32 + lane;
    logit[i] = e < p.num_experts ? p.logits[row * p.logits_stride + e] : simt::neg_infinity();
  }
  float top = simt::neg_infinity(), last = 0, sum = 0, all = 0;
  int last_id = -1;
  for (int j = 0; j < p.k; ++j) {
    // The best of those that come after the one before.
    float best = simt::neg_infinity();
    int id = kMostExperts;
    SIMT_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const int e = i * 32 + lane;
      const bool left = e < p.num_experts && (j == 0 || before(last, last_id, logit[i], e));
      if (left && (id == kMostExperts || before(logit[i], e, best, id))) best = logit[i], id = e;
    }
    SIMT_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) {
      const float other = simt::shuffle_xor(best, mask);
      const int other_id = simt::shuffle_xor(id, mask);
      if (id == kMostExperts || (other_id < kMostExperts && before(other, other_id, best, id)))
        best = other, id = other_id;
    }
    if (id == kMostExperts) id = 0;  // nothing is left that is a number
    last = best, last_id = id;
    if (j == 0) top = best;
    const float weight = simt::exp(best - top);
    sum += weight;
    if (lane == 0) p.experts[row * p.k + j] = id, p.weights[row * p.k + j] = weight;
  }
  SIMT_UNROLL
  for (int i = 0; i < kEach; ++i)
    if (i * 32 + lane < p.num_experts) all += simt::exp(logit[i] - top);
  const float scale = simt::reciprocal(p.normed ? sum : simt::warp_sum(all));
  if (lane == 0)
    for (int j = 0; j < p.k; ++j) p.weights[row * p.k + j] *= scale;
}

// out row i = x row i / per_x by the weights of expert experts[i]. A block takes an expert and some
// of its outputs, a warp an output at a time. W: T, or E4m3.
template <class T, class W>
struct ExpertParams {
  T* out;
  const T* x;
  const W* w;          // [experts, width, in]
  const float* scale;  // [experts, width], of E4m3; null: 1
  const int32_t* experts;
  int64_t out_stride, x_stride;
  int32_t rows;
  int32_t per_x, width, in;
  int32_t parts;  // blocks to an expert
};

// Lane l gets the l-th of the next rows of `expert` from `at` on, which moves behind them; how many
// there are, at most kRowsOfTile.
SIMT_DEVICE int next_rows(const int32_t* experts, int rows, int expert, int& at, int& of_lane) {
  const int lane = simt::lane_id();
  int count = 0;
  while (at < rows && count < kRowsOfTile) {
    const uint32_t hits = simt::ballot(at + lane < rows && experts[at + lane] == expert);
    int bit = 0;
    for (; bit < 32 && count < kRowsOfTile; ++bit) {
      if ((hits >> bit & 1) == 0) continue;
      if (lane == count) of_lane = at + bit;
      ++count;
    }
    at += bit;
  }
  return count;
}

// Weights are read once for every kRowsOfTile rows; a row's sums are the same whoever shares them.
template <class T, class W, int kVector>
SIMT_KERNEL(kExpertThreads, 1)
expert_matmul_kernel(ExpertParams<T, W> p) {
  simt::wait_for_earlier();
  const int expert = simt::block_id() / p.parts, part = simt::block_id() % p.parts;
  const W* w = p.w + int64_t{expert} * p.width * p.in;
  int at = 0, mine = 0;
  for (int count; (count = next_rows(p.experts, p.rows, expert, at, mine)) > 0;) {
    const T* x[kRowsOfTile];
    SIMT_UNROLL
    for (int r = 0; r < kRowsOfTile; ++r) {
      const int row = simt::shuffle(mine, r < count ? r : 0);  // of no use: as the first
      x[r] = p.x + row / p.per_x * p.x_stride;
    }
    for (int o = part * kExpertWarps + simt::warp_id(); o < p.width; o += p.parts * kExpertWarps) {
      float sum[kRowsOfTile] = {};
      for (int i = simt::lane_id() * kVector; i < p.in; i += 32 * kVector) {
        float b[kVector];
        load<kVector>(b, w + int64_t{o} * p.in + i);
        SIMT_UNROLL
        for (int r = 0; r < kRowsOfTile; ++r) {
          if (r >= count) break;
          float a[kVector];
          load<kVector>(a, x[r] + i);
          SIMT_UNROLL
          for (int k = 0; k < kVector; ++k) sum[r] += a[k] * b[k];
        }
      }
      SIMT_UNROLL
      for (int r = 0; r < kRowsOfTile; ++r) {
        const int64_t row = simt::shuffle(mine, r);
        float all = simt::warp_sum(sum[r]);
        if (r >= count || simt::lane_id() != 0) continue;
        if (p.scale != nullptr) all *= p.scale[int64_t{expert} * p.width + o];
        simt::from_float(p.out[row * p.out_stride + o], all);
      }
    }
  }
}

// out row i = sum over j of weights[i, j] * x row i * k + j; with gate: out += sigmoid(gate[i]) *
// x.
template <class T>
struct MixParams {
  T* out;
  const T* x;
  const float* weights;  // [rows, k]; null: gated
  const float* gate;
  int64_t out_stride, x_stride, gate_stride;
  int32_t dim, k;
};

template <class T>
SIMT_KERNEL(kExpertThreads, 1)
mix_rows_kernel(MixParams<T> p) {
  simt::wait_for_earlier();
  const int64_t row = simt::block_id();
  T* out = p.out + row * p.out_stride;
  const T* x = p.x + row * p.k * p.x_stride;
  float share = 0;
  if (p.gate != nullptr) share = simt::reciprocal(1 + simt::exp(-p.gate[row * p.gate_stride]));
  for (int i = simt::thread_id(); i < p.dim; i += kExpertThreads) {
    float sum = p.gate != nullptr ? simt::to_float(out[i]) : 0;
    for (int j = 0; j < p.k; ++j) {
      const float weight = p.gate != nullptr ? share : p.weights[row * p.k + j];
      sum += weight * simt::to_float(x[j * p.x_stride + i]);
    }
    simt::from_float(out[i], sum);
  }
}

}  // namespace sluice::cuda
