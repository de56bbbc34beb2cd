// Products of mixtures of experts with many rows: each row by its own expert's weights, on tensor
// cores.
//
// First one block sorts the rows by expert and cuts each expert's into tiles of 64: a list that
// lies on the device, so that nobody waits for the host and a captured step can have one. Then a
// block of threads takes a tile and 128 rows of its expert's weights:
//
//   S[64 rows, 128] = X[64, k] W[128, k]^T
//
// Both come by steps of 64 bytes of a weight row, two or three steps ahead; each of four warps has
// all rows and 32 of the columns. Weights in fp8 are widened on their way to the tensor cores, in
// an order of k that suits them (paged_kv.h), and the finished sum gets its output's scale. A row's
// sum goes through k in one order, whoever shares its tile and wherever it lies in it: its bits
// depend on itself and the weights alone. So the sort need not be stable.
//
// Gated: 64 of the 128 are gates and the others their ups, and what is written is silu(gate) * up,
// of both halves rounded as the plain ops would leave them.
#pragma once

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/paged_kv.h"

namespace sluice::cuda {

constexpr int kMostGroups = 512;
constexpr int kGroupThreads = kMostGroups;  // one for each

constexpr int kGroupedWarps = 4;
constexpr int kGroupedThreads = 32 * kGroupedWarps;
constexpr int kGroupedRows = 64;
constexpr int kGroupedCols = 32 * kGroupedWarps;
// Of k, and how many steps are there at a time: as much as leaves room for
// three blocks on an H200.
template <class W>
constexpr int kGroupedStep = 64 / int(sizeof(W));
template <class W>
constexpr int kGroupedStages = sizeof(W) == 1 ? 3 : 4;

// Rows order[first] .. order[first + count - 1] are of this expert; none: there is no such tile.
struct alignas(16) GroupedTile {
  int32_t expert, first, count, unused;
};

struct GroupParams {
  GroupedTile* tiles;      // [num_tiles], which are enough however rows are shared out
  int32_t* order;          // [rows]
  const int32_t* experts;  // [rows]
  int32_t rows, num_experts, num_tiles;
};

struct GroupShared {
  uint32_t count[kMostGroups];
  uint32_t next[kMostGroups];  // where the expert's next row goes in `order`; before: its first
  uint32_t first_tile[kMostGroups];
};

// In lane l: the sum over the lanes before it.
SIMT_DEVICE uint32_t sum_before(uint32_t v) {
  const int lane = simt::lane_id();
  uint32_t sum = v;
  SIMT_UNROLL
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = simt::shuffle(sum, lane >= step ? lane - step : lane);
    if (lane >= step) sum += other;
  }
  return sum - v;
}

SIMT_KERNEL(kGroupThreads, 1)
group_rows_kernel(GroupParams p) {
  simt::wait_for_earlier();
  auto& shared = simt::shared<GroupShared>();
  const int thread = simt::thread_id();
  shared.count[thread] = 0;
  simt::sync_block();
  for (int i = thread; i < p.rows; i += kGroupThreads)
    simt::atomic_add_shared(&shared.count[p.experts[i]], 1);
  simt::sync_block();
  if (simt::warp_id() == 0) {
    constexpr int kEach = kMostGroups / 32;  // experts of a lane, one after the other
    const int begin = thread * kEach;
    uint32_t rows = 0, tiles = 0;
    for (int e = begin; e < begin + kEach; ++e) {
      rows += shared.count[e];
      tiles += (shared.count[e] + kGroupedRows - 1) / kGroupedRows;
    }
    rows = sum_before(rows), tiles = sum_before(tiles);
    for (int e = begin; e < begin + kEach; ++e) {
      shared.next[e] = rows, shared.first_tile[e] = tiles;
      rows += shared.count[e];
      tiles += (shared.count[e] + kGroupedRows - 1) / kGroupedRows;
    }
  }
  simt::sync_block();
  const int first = int(shared.next[thread]);
  simt::sync_block();  // `next` moves on
  for (int i = thread; i < p.rows; i += kGroupThreads)
    p.order[simt::atomic_add_shared(&shared.next[p.experts[i]], 1)] = i;
  if (thread < p.num_experts) {
    const int count = int(shared.count[thread]);
    GroupedTile* tile = p.tiles + shared.first_tile[thread];
    for (int at = 0; at < count; at += kGroupedRows, ++tile) {
      const int left = count - at;
      *tile = {thread, first + at, left < kGroupedRows ? left : kGroupedRows, 0};
    }
  }
  const int last = p.num_experts - 1;
  const int end =
      int(shared.first_tile[last]) + (int(shared.count[last]) + kGroupedRows - 1) / kGroupedRows;
  for (int t = end + thread; t < p.num_tiles; t += kGroupThreads) p.tiles[t] = {0, 0, 0, 0};
}

// Out row i = x row i / per_x by its expert's weights. W: T, or E4m3. Widths and strides are
// multiples of 8, and k of 16 bytes of weights.
template <class T, class W>
struct GroupedParams {
  T* out;
  const T* x;
  const W* w;          // [experts, width, k]; gated: [experts, 2 * width, k]
  const float* scale;  // of each row of w, if E4m3
  const GroupedTile* tiles;
  const int32_t* order;
  int64_t out_stride, x_stride;
  int32_t per_x, width, k;
  int32_t parts;  // blocks of columns to a tile
  bool gated;

  SIMT_DEVICE int cols() const { return gated ? kGroupedCols / 2 : kGroupedCols; }
  // The row of w for column `col` of a tile whose first output is `first_col`; -1: there is none.
  SIMT_DEVICE int64_t weight_row(int expert, int first_col, int col) const {
    const bool up = col >= cols();
    const int output = first_col + (up ? col - cols() : col);
    if (output >= width) return -1;
    return (int64_t{expert} * (gated ? 2 : 1) + (up ? 1 : 0)) * width + output;
  }
};

// Rows of x. For fp8 a lane takes 8 bytes of them at a time: their padding keeps 16 lanes apart.
template <class T, class W>
struct GroupedRows {
  static constexpr int kPadding = sizeof(W) == 1 ? 16 : 8;
  T at[kGroupedRows][kGroupedStep<W> + kPadding];
};

template <class T, class W>
struct alignas(128) GroupedShared {
  struct Stage {
    GroupedRows<T, W> x;
    Tile<W, kGroupedCols, kGroupedStep<W>> w;
  };
  union {
    Stage stages[kGroupedStages<W>];
    Tile<T, kGroupedRows, kGroupedCols> out;  // once the stages have been read
  };
  int32_t rows[kGroupedRows];
};

// What a thread copies of a matrix of kRows rows in each step: 16 bytes of some of them.
template <class T, int kRows, int kStep>
struct GroupedSource {
  static constexpr int kWidth = 16 / int(sizeof(T)), kOfRow = kStep / kWidth;  // threads to a row
  static constexpr int kApart = kGroupedThreads / kOfRow, kCount = kRows / kApart;
  const T* from[kCount];
  uint32_t there = 0;  // bit i: there is such a row; others point to where one may
  int row, at;         // the first of the rows, and the place within a step

  // offset_of(row): where it lies from `base` on; below 0: nowhere.
  template <class OffsetOf>
  SIMT_DEVICE GroupedSource(const T* base, const OffsetOf& offset_of)
      : row(simt::thread_id() / kOfRow), at(simt::thread_id() % kOfRow * kWidth) {
    SIMT_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const int64_t offset = offset_of(row + i * kApart);
      from[i] = base + at + (offset < 0 ? 0 : offset);
      if (offset >= 0) there |= 1u << i;
    }
  }

  // From place `first` of k on. Rows that there are not, and what is past k, are zeros and not
  // read.
  template <class Rows>
  SIMT_DEVICE void fetch(Rows& to, int first, int k) const {
    SIMT_UNROLL
    for (int i = 0; i < kCount; ++i)
      simt::cp_async_16(&to.at[row + i * kApart][at], from[i] + first,
                        first + at < k && (there >> i & 1) != 0);
  }
};

// 16 rows and 16 of k as an operand a, in the order of k in which the weights come.
template <class T, class W>
SIMT_DEVICE void load_rows_a(uint32_t (&r)[4], const GroupedRows<T, W>& x, int row, int k) {
  const int lane = simt::lane_id();
  if constexpr (sizeof(W) == 1) {
    struct alignas(8) Pairs {
      uint32_t first, second;
    };
    SIMT_UNROLL
    for (int i = 0; i < 2; ++i) {
      const T* at = &x.at[row + lane / 4 + i * 8][k + key_dim<W>(0, lane % 4)];
      const Pairs v = *reinterpret_cast<const Pairs*>(at);
      r[i] = v.first, r[i + 2] = v.second;
    }
  } else {
    simt::ldmatrix_x4(r, &x.at[row + lane % 16][k + lane / 16 * 8]);
  }
}

using GroupedSums = float[kGroupedRows / 16][4][4];  // 16 rows x 8 columns each

template <class T, class W>
SIMT_DEVICE void grouped_step(const typename GroupedShared<T, W>::Stage& stage, GroupedSums& sums) {
  SIMT_UNROLL
  for (int k = 0; k < kGroupedStep<W>; k += 32) {
    uint32_t b[2][2][4];
    SIMT_UNROLL
    for (int n = 0; n < 2; ++n) load_keys_b(T{}, b[n], stage.w, simt::warp_id() * 32 + n * 16, k);
    SIMT_UNROLL
    for (int i = 0; i < 2; ++i) {
      uint32_t a[kGroupedRows / 16][4];
      SIMT_UNROLL
      for (int m = 0; m < kGroupedRows / 16; ++m) load_rows_a(a[m], stage.x, m * 16, k + i * 16);
      SIMT_UNROLL
      for (int m = 0; m < kGroupedRows / 16; ++m) {
        SIMT_UNROLL
        for (int n = 0; n < 4; ++n)
          simt::mma(T{}, sums[m][n], a[m], b[n / 2][i][n % 2 * 2], b[n / 2][i][n % 2 * 2 + 1]);
      }
    }
  }
}

// The sums as T, to shared memory; the caller's barrier publishes them.
template <class T, class W>
SIMT_DEVICE void grouped_round(const GroupedParams<T, W>& p, int expert, int first_col,
                               const GroupedSums& sums, Tile<T, kGroupedRows, kGroupedCols>& out) {
  const int row = simt::lane_id() / 4, col = simt::warp_id() * 32 + simt::lane_id() % 4 * 2;
  SIMT_UNROLL
  for (int n = 0; n < 4; ++n) {
    float scale[2] = {1, 1};
    if constexpr (sizeof(W) == 1) {
      SIMT_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int64_t of = p.weight_row(expert, first_col, n * 8 + col + c);
        if (of >= 0) scale[c] = p.scale[of];
      }
    }
    SIMT_UNROLL
    for (int m = 0; m < kGroupedRows / 16; ++m) {
      SIMT_UNROLL
      for (int r = 0; r < 2; ++r) {
        T* to = &out.at[m * 16 + r * 8 + row][n * 8 + col];
        *reinterpret_cast<uint32_t*>(to) =
            simt::pack(T{}, sums[m][n][2 * r] * scale[0], sums[m][n][2 * r + 1] * scale[1]);
      }
    }
  }
}

template <class T, class W>
SIMT_DEVICE void grouped_store(const GroupedParams<T, W>& p, int count, int first_col,
                               const GroupedShared<T, W>& shared) {
  const int chunks = p.cols() / 8;
  for (int i = simt::thread_id(); i < count * chunks; i += kGroupedThreads) {
    const int row = i / chunks, col = i % chunks * 8;
    if (first_col + col >= p.width) continue;
    T* to = p.out + shared.rows[row] * p.out_stride + first_col + col;
    const T* from = &shared.out.at[row][col];
    if (!p.gated) {
      simt::store_16(to, simt::load_16(from));
      continue;
    }
    float gate[8], up[8];
    load<8>(gate, from), load<8>(up, from + kGroupedCols / 2);
    SIMT_UNROLL
    for (int c = 0; c < 8; ++c) gate[c] = activate<Gate::silu>(gate[c]) * up[c];
    store<8>(to, gate);
  }
}

template <class T, class W>
SIMT_KERNEL(kGroupedThreads, 3)
grouped_matmul_kernel(GroupedParams<T, W> p) {
  simt::wait_for_earlier();
  constexpr int kStep = kGroupedStep<W>, kStages = kGroupedStages<W>;
  auto& shared = simt::shared<GroupedShared<T, W>>();
  const auto tile =
      __builtin_bit_cast(GroupedTile, simt::load_16(&p.tiles[simt::block_id() / p.parts]));
  if (tile.count == 0) return;
  const int first_col = simt::block_id() % p.parts * p.cols();
  if (simt::thread_id() < tile.count)
    shared.rows[simt::thread_id()] = p.order[tile.first + simt::thread_id()];
  simt::sync_block();
  const GroupedSource<T, kGroupedRows, kStep> x(p.x, [&](int row) {
    return row < tile.count ? shared.rows[row] / p.per_x * p.x_stride : -1;
  });
  const GroupedSource<W, kGroupedCols, kStep> w(p.w, [&](int col) {
    const int64_t row = p.weight_row(tile.expert, first_col, col);
    return row < 0 ? -1 : row * p.k;
  });
  const auto fetch = [&](int step) {
    auto& stage = shared.stages[step % kStages];
    x.fetch(stage.x, step * kStep, p.k);
    w.fetch(stage.w, step * kStep, p.k);
  };

  GroupedSums sums = {};
  const int num_steps = (p.k + kStep - 1) / kStep;
  SIMT_UNROLL
  for (int s = 0; s < kStages - 1; ++s) {
    fetch(s);
    simt::cp_async_commit();
  }
  for (int s = 0; s < num_steps; ++s) {
    simt::cp_async_wait<kStages - 2>();
    simt::sync_block();  // step s has landed for all, and nobody reads the one before any more
    if (s + kStages - 1 < num_steps) fetch(s + kStages - 1);
    simt::cp_async_commit();
    grouped_step<T, W>(shared.stages[s % kStages], sums);
  }
  simt::cp_async_wait<0>();
  simt::sync_block();  // `out` lies over the stages
  grouped_round(p, tile.expert, first_col, sums, shared.out);
  simt::sync_block();
  grouped_store(p, tile.count, first_col, shared);
}

}  // namespace sluice::cuda
