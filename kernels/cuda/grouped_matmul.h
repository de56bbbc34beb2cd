// Products of mixtures of experts with many rows: each row by its own expert's weights, on tensor
// cores.
//
// First one block sorts the rows by expert and cuts each expert's into tiles of 64: a list that
// lies on the device, so that nobody waits for the host and a captured step can have one. Then a
// block of threads takes a tile and 128 rows of its expert's weights:
//
//   S[64 rows, 128] = X[64, k] W[128, k]^T
//
// Both come by steps of 32 of k, three steps ahead; each of four warps has all rows and 32 of the
// columns. A row's sum goes through k in one order, whoever shares its tile and wherever it lies in
// it: its bits depend on itself and the weights alone. So the sort need not be stable.
//
// Gated: 64 of the 128 are gates and the others their ups, and what is written is silu(gate) * up,
// of both halves rounded as the plain ops would leave them.
#pragma once

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/paged_kv.h"

namespace sluice::cuda {

constexpr int kGroupThreads = 1024;
constexpr int kMostGroups = 512;

constexpr int kGroupedWarps = 4;
constexpr int kGroupedThreads = 32 * kGroupedWarps;
constexpr int kGroupedRows = 64;
constexpr int kGroupedCols = 32 * kGroupedWarps;
constexpr int kGroupedStep = 32;  // of k
constexpr int kGroupedStages = 4;

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
  if (thread < kMostGroups) shared.count[thread] = 0;
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
  const int first = thread < kMostGroups ? int(shared.next[thread]) : 0;
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

// Out row i = x row i / per_x by its expert's weights. Widths, k and strides: multiples of 8.
template <class T>
struct GroupedParams {
  T* out;
  const T* x;
  const T* w;  // [experts, width, k]; gated: [experts, 2 * width, k]
  const GroupedTile* tiles;
  const int32_t* order;
  int64_t out_stride, x_stride;
  int32_t per_x, width, k;
  int32_t parts;  // blocks of columns to a tile
  bool gated;
};

template <class T>
struct alignas(128) GroupedShared {
  struct Stage {
    Tile<T, kGroupedRows, kGroupedStep> x;
    Tile<T, kGroupedCols, kGroupedStep> w;
  };
  union {
    Stage stages[kGroupedStages];
    Tile<T, kGroupedRows, kGroupedCols> out;  // once the stages have been read
  };
  int32_t rows[kGroupedRows];
};

// What a thread copies in each step: 16 bytes of every 32nd row.
template <class T>
struct GroupedSource {
  static constexpr int kOfRow = kGroupedStep / 8;  // threads to a row
  static constexpr int kApart = kGroupedThreads / kOfRow;
  static constexpr int kX = kGroupedRows / kApart, kW = kGroupedCols / kApart;
  const T* x[kX];
  const T* w[kW];
  uint32_t has_x = 0, has_w = 0;  // bit i: there is such a row; others point where one may
  int row, at;                    // the first of the rows, and the place within a step

  SIMT_DEVICE GroupedSource(const GroupedParams<T>& p, const GroupedTile& tile, int first_col,
                            const int32_t* rows)
      : row(simt::thread_id() / kOfRow), at(simt::thread_id() % kOfRow * 8) {
    SIMT_UNROLL
    for (int i = 0; i < kX; ++i) {
      const int r = row + i * kApart;
      x[i] = p.x + at;
      if (r >= tile.count) continue;
      x[i] += rows[r] / p.per_x * p.x_stride;
      has_x |= 1u << i;
    }
    SIMT_UNROLL
    for (int i = 0; i < kW; ++i) {
      const int r = row + i * kApart, ups = p.gated ? kGroupedCols / 2 : kGroupedCols;
      const int col = first_col + (r < ups ? r : r - ups);
      w[i] = p.w + at;
      if (col >= p.width) continue;
      const int64_t first = int64_t{tile.expert} * (p.gated ? 2 : 1) + (r < ups ? 0 : 1);
      w[i] += (first * p.width + col) * p.k;
      has_w |= 1u << i;
    }
  }

  // Rows that there are not, and what is past k, are zeros and not read.
  SIMT_DEVICE void fetch(typename GroupedShared<T>::Stage& stage, int first, int k) const {
    const bool inside = first + at < k;
    SIMT_UNROLL
    for (int i = 0; i < kX; ++i)
      simt::cp_async_16(&stage.x.at[row + i * kApart][at], x[i] + first,
                        inside && (has_x >> i & 1) != 0);
    SIMT_UNROLL
    for (int i = 0; i < kW; ++i)
      simt::cp_async_16(&stage.w.at[row + i * kApart][at], w[i] + first,
                        inside && (has_w >> i & 1) != 0);
  }
};

using GroupedSums = float[kGroupedRows / 16][4][4];  // 16 rows x 8 columns each

template <class T>
SIMT_DEVICE void grouped_step(const typename GroupedShared<T>::Stage& stage, GroupedSums& sums) {
  SIMT_UNROLL
  for (int k = 0; k < kGroupedStep; k += 16) {
    uint32_t a[kGroupedRows / 16][4], b[2][4];
    SIMT_UNROLL
    for (int n = 0; n < 2; ++n) load_b(b[n], stage.w, simt::warp_id() * 32 + n * 16, k);
    SIMT_UNROLL
    for (int m = 0; m < kGroupedRows / 16; ++m) load_a(a[m], stage.x, m * 16, k);
    SIMT_UNROLL
    for (int m = 0; m < kGroupedRows / 16; ++m) {
      SIMT_UNROLL
      for (int n = 0; n < 4; ++n)
        simt::mma(T{}, sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
  }
}

// The sums as T, to shared memory; the caller's barrier publishes them.
template <class T>
SIMT_DEVICE void grouped_round(const GroupedSums& sums, Tile<T, kGroupedRows, kGroupedCols>& out) {
  const int row = simt::lane_id() / 4, col = simt::warp_id() * 32 + simt::lane_id() % 4 * 2;
  SIMT_UNROLL
  for (int m = 0; m < kGroupedRows / 16; ++m) {
    SIMT_UNROLL
    for (int n = 0; n < 4; ++n) {
      SIMT_UNROLL
      for (int r = 0; r < 2; ++r)
        *reinterpret_cast<uint32_t*>(&out.at[m * 16 + r * 8 + row][n * 8 + col]) =
            simt::pack(T{}, sums[m][n][2 * r], sums[m][n][2 * r + 1]);
    }
  }
}

template <class T>
SIMT_DEVICE void grouped_store(const GroupedParams<T>& p, const GroupedTile& tile, int first_col,
                               const GroupedShared<T>& shared) {
  const int cols = p.gated ? kGroupedCols / 2 : kGroupedCols, chunks = cols / 8;
  for (int i = simt::thread_id(); i < tile.count * chunks; i += kGroupedThreads) {
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

template <class T>
SIMT_KERNEL(kGroupedThreads, 3)
grouped_matmul_kernel(GroupedParams<T> p) {
  simt::wait_for_earlier();
  auto& shared = simt::shared<GroupedShared<T>>();
  const auto tile =
      __builtin_bit_cast(GroupedTile, simt::load_16(&p.tiles[simt::block_id() / p.parts]));
  if (tile.count == 0) return;
  const int first_col = simt::block_id() % p.parts * (p.gated ? kGroupedCols / 2 : kGroupedCols);
  if (simt::thread_id() < tile.count)
    shared.rows[simt::thread_id()] = p.order[tile.first + simt::thread_id()];
  simt::sync_block();
  const GroupedSource<T> source(p, tile, first_col, shared.rows);

  GroupedSums sums = {};
  const int num_steps = (p.k + kGroupedStep - 1) / kGroupedStep;
  SIMT_UNROLL
  for (int s = 0; s < kGroupedStages - 1; ++s) {
    source.fetch(shared.stages[s], s * kGroupedStep, p.k);
    simt::cp_async_commit();
  }
  for (int s = 0; s < num_steps; ++s) {
    simt::cp_async_wait<kGroupedStages - 2>();
    simt::sync_block();  // step s has landed for all, and nobody reads the one before any more
    const int ahead = s + kGroupedStages - 1;
    if (ahead < num_steps)
      source.fetch(shared.stages[ahead % kGroupedStages], ahead * kGroupedStep, p.k);
    simt::cp_async_commit();
    grouped_step<T>(shared.stages[s % kGroupedStages], sums);
  }
  simt::cp_async_wait<0>();
  simt::sync_block();  // `out` lies over the stages
  grouped_round(sums, shared.out);
  simt::sync_block();
  grouped_store(p, tile, first_col, shared);
}

}  // namespace sluice::cuda
