// Products with few rows (decode), which are as fast as the weights can be read: out [n, m] =
// x [n, k] * w [m, k]^T.
//
// Operands are swapped, so that the padded dimension is 8 tokens and not 16: out^T[16, 8] =
// w[16, k] * x^T[k, 8]. A sum does not care in which order it takes k as long as both operands take
// the same: a lane reads 16 bytes of a weight row, which are its part of two mma with k permuted,
// so neither weights nor tokens pass through shared memory.
//
// A block of eight warps takes 16 or 32 rows of weights. Its warps share k between them, and add up
// what they found in the order of k. How a sum is split depends on m and k alone: a token's result
// has the same bits alone and in any company, also beyond the few rows that this is fast for.
#pragma once

#include "kernels/cuda/elementwise.h"

namespace sluice::cuda {

template <class T, class Out>
struct SkinnyParams {
  Out* out;
  const T* x;
  const T* w;
  const T* bias;  // [m]; may be null
  int64_t out_stride, x_stride, w_stride;
  int32_t n, m, k;  // k: a multiple of 8. Gated: m is that of `out`, w has twice as many
  Gate activation;  // not where gated

  SIMT_DEVICE float bias_of(int row) const {
    return bias != nullptr ? simt::to_float(bias[row]) : 0;
  }
};

constexpr int kSkinnyWarps = 8;
constexpr int kSkinnyThreads = 32 * kSkinnyWarps;
constexpr int kSkinnyStep = 32;  // of k: what a warp reads of its rows at once

// kGroups: of 16 weight rows. kTiles: of 8 tokens.
template <int kGroups, int kTiles>
struct SkinnyShared {
  static constexpr int kSlices = kSkinnyWarps / kGroups;  // of k
  static constexpr int kRows = 16 * kGroups;
  // Rows of four more than 32: lanes that write one value each meet no other's bank.
  float partial[kSlices][8 * kTiles][kRows + 4];

  SIMT_DEVICE float sum(int token, int row) const {
    float total = 0;
    SIMT_UNROLL
    for (int s = 0; s < kSlices; ++s) total += partial[s][token][row];
    return total;
  }
};

// A lane's rows lane / 4 and lane / 4 + 8 of a group, and tokens lane / 4 of each tile, from one of
// four places within a step.
template <class T, int kTiles>
struct SkinnySource {
  const T* w[2];       // null: past the last row
  const T* x[kTiles];  // null: past the last token
};

template <class T, int kTiles>
struct SkinnyStep {
  simt::Vec4 w[2], x[kTiles];

  SIMT_DEVICE void load(const SkinnySource<T, kTiles>& from, int step, int end) {
    SIMT_UNROLL
    for (int i = 0; i < 2; ++i) w[i] = get(from.w[i], step, end);
    SIMT_UNROLL
    for (int t = 0; t < kTiles; ++t) x[t] = get(from.x[t], step, end);
  }
  SIMT_DEVICE void multiply(float (&sum)[kTiles][4]) const {
    const uint32_t first[4] = {w[0].x, w[1].x, w[0].y, w[1].y};
    const uint32_t second[4] = {w[0].z, w[1].z, w[0].w, w[1].w};
    SIMT_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      simt::mma(T{}, sum[t], first, x[t].x, x[t].y);
      simt::mma(T{}, sum[t], second, x[t].z, x[t].w);
    }
  }

 private:
  static SIMT_DEVICE simt::Vec4 get(const T* from, int step, int end) {
    return from != nullptr && step < end ? simt::load_16(from + int64_t{step} * kSkinnyStep)
                                         : simt::Vec4{};
  }
};

// This warp's slice of k, steps [begin, end), of which this lane has those before own_end. Two sets
// of steps: one is on its way while the other is multiplied.
template <class T, int kTiles>
SIMT_DEVICE void skinny_slice(const SkinnySource<T, kTiles>& from, int begin, int end, int own_end,
                              float (&sum)[kTiles][4]) {
  constexpr int kAhead = kTiles == 1 ? 4 : kTiles == 2 ? 3 : 1;  // as registers allow
  SkinnyStep<T, kTiles> now[kAhead], next[kAhead];
  SIMT_UNROLL
  for (int i = 0; i < kAhead; ++i) now[i].load(from, begin + i, own_end);
  for (int step = begin; step < end; step += kAhead) {
    SIMT_UNROLL
    for (int i = 0; i < kAhead; ++i) next[i].load(from, step + kAhead + i, own_end);
    SIMT_UNROLL
    for (int i = 0; i < kAhead; ++i) now[i].multiply(sum);
    SIMT_UNROLL
    for (int i = 0; i < kAhead; ++i) now[i] = next[i];
  }
}

// Leaves this block's partial sums in shared memory. row_of(group): its first row of weights.
template <class T, class Out, int kGroups, int kTiles, class RowOf>
SIMT_DEVICE void skinny_partials(const SkinnyParams<T, Out>& p, int num_rows, int first_token,
                                 const RowOf& row_of, SkinnyShared<kGroups, kTiles>& shared) {
  constexpr int kSlices = SkinnyShared<kGroups, kTiles>::kSlices;
  const int group = simt::warp_id() % kGroups, slice = simt::warp_id() / kGroups;
  const int lane = simt::lane_id(), at = lane % 4 * 8;
  SkinnySource<T, kTiles> from;
  SIMT_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int row = row_of(group) + lane / 4 + 8 * i;
    from.w[i] = row < num_rows ? p.w + row * p.w_stride + at : nullptr;
  }
  SIMT_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    const int token = first_token + 8 * t + lane / 4;
    from.x[t] = token < p.n ? p.x + token * p.x_stride + at : nullptr;
  }
  const int steps = (p.k + kSkinnyStep - 1) / kSkinnyStep;
  const int own_steps = (p.k - at + kSkinnyStep - 1) / kSkinnyStep;  // the last one may be a part
  const int begin = steps * slice / kSlices, end = steps * (slice + 1) / kSlices;
  float sum[kTiles][4] = {};
  skinny_slice<T, kTiles>(from, begin, end, end < own_steps ? end : own_steps, sum);
  SIMT_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i)
      shared.partial[slice][8 * t + lane % 4 * 2 + i % 2][group * 16 + lane / 4 + i / 2 * 8] =
          sum[t][i];
  }
  simt::sync_block();
}

SIMT_DEVICE void skinny_store(float& to, float v) { to = v; }
template <class T>
SIMT_DEVICE void skinny_store(T& to, float v) {
  simt::from_float(to, v);
}

// Block i has rows from i % blocks-per-tokens on, and tokens from i / that on.
template <class T, class Out, int kGroups, int kTiles>
SIMT_KERNEL(kSkinnyThreads, 2)
skinny_matmul_kernel(SkinnyParams<T, Out> p) {
  simt::wait_for_earlier();
  using Shared = SkinnyShared<kGroups, kTiles>;
  auto& shared = simt::shared<Shared>();
  const int row_blocks = (p.m + Shared::kRows - 1) / Shared::kRows;
  const int first_row = simt::block_id() % row_blocks * Shared::kRows;
  const int first_token = simt::block_id() / row_blocks * 8 * kTiles;
  skinny_partials<T, Out, kGroups, kTiles>(
      p, p.m, first_token, [&](int group) { return first_row + 16 * group; }, shared);
  for (int i = simt::thread_id(); i < Shared::kRows * 8 * kTiles; i += kSkinnyThreads) {
    const int row = first_row + i % Shared::kRows, token = i / Shared::kRows;
    if (row >= p.m || first_token + token >= p.n) continue;
    const float sum = shared.sum(token, i % Shared::kRows) + p.bias_of(row);
    skinny_store(p.out[(first_token + token) * p.out_stride + row], activate(p.activation, sum));
  }
}

// out = silu(gate) * up, of 16 columns to a block: one group of its warps has their gates, the
// other their ups. The fourth fused region of DeepSpeed-Inference (Aminabadi et al., SC'22): both
// halves are rounded to T as the plain ops would leave them, but never written.
template <class T, int kTiles>
SIMT_KERNEL(kSkinnyThreads, 2)
skinny_silu_mul_kernel(SkinnyParams<T, T> p) {
  simt::wait_for_earlier();
  auto& shared = simt::shared<SkinnyShared<2, kTiles>>();
  const int row_blocks = (p.m + 15) / 16;
  const int first_row = simt::block_id() % row_blocks * 16;
  const int first_token = simt::block_id() / row_blocks * 8 * kTiles;
  skinny_partials<T, T, 2, kTiles>(
      p, 2 * p.m, first_token, [&](int group) { return first_row + group * p.m; }, shared);
  for (int i = simt::thread_id(); i < 16 * 8 * kTiles; i += kSkinnyThreads) {
    const int row = first_row + i % 16, token = i / 16;
    if (row >= p.m || first_token + token >= p.n) continue;
    T gate, up;
    simt::from_float(gate, shared.sum(token, i % 16) + p.bias_of(row));
    simt::from_float(up, shared.sum(token, 16 + i % 16) + p.bias_of(p.m + row));
    const float value = activate<Gate::silu>(simt::to_float(gate)) * simt::to_float(up);
    simt::from_float(p.out[(first_token + token) * p.out_stride + row], value);
  }
}

}  // namespace sluice::cuda
