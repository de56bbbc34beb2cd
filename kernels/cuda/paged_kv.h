// What the attention kernels share: the paged cache as they see it, tiles of it in shared memory,
// and the fragments that tensor cores take from them.
#pragma once

#include "kernels/simt/simt.h"

namespace sluice::cuda {

// One layer of the cache, of Kv: the activations' T, or E4m3. Rows of one head are contiguous in a
// block: 16 aligned tokens of a block of at least 16 are one piece.
template <class Kv>
struct PagedKv {
  const Kv* k;
  const Kv* v;
  int64_t block_stride, head_stride;  // elements; the same for keys and values
  int32_t block_shift;                // log2 of the block size, at least 4
  // KV heads, as the kernels count them, that are one in the cache: where more query heads read one
  // than a kernel takes at once.
  int32_t share = 1;
};

struct AttentionScores {
  // As AttnParams has them.
  static AttentionScores of(float scale, int window, float softcap) {
    constexpr float kLog2E = 1.4426950408889634f;
    return {scale * kLog2E, softcap * kLog2E, softcap > 0 ? scale / softcap : 0, window};
  }

  float scale_log2;          // softmax scale * log2(e)
  float softcap_log2;        // > 0: of softcap * log2(e), where scores become softcap *
                             // tanh(score / softcap)
  float scale_over_softcap;  // softmax scale / softcap
  int32_t window;            // > 0: a query sees only the last `window` positions, itself included

  // A score for exp2.
  SIMT_DEVICE float operator()(float dot) const {
    return softcap_log2 > 0 ? softcap_log2 * simt::tanh(dot * scale_over_softcap)
                            : dot * scale_log2;
  }
};

// What both attentions are given of a step and a layer.
template <class T, class Kv>
struct PagedAttention {
  const T* q;
  T* out;
  int64_t q_stride, out_stride;  // elements from token to token; heads are D apart
  PagedKv<Kv> kv;
  const int32_t* block_tables;  // [sequences, num_tables, *table_stride]
  const int32_t* table_stride;  // read on the device: contexts grow under a captured launch
  const int32_t* seq_lens;      // [sequences], the new tokens included
  int32_t num_kv_heads;
  int32_t group;           // query heads to a kv head
  AttentionScores scores;  // with the scale of cached keys
  float value_scale;       // of cached values
  const float* alibi;      // [heads], as AttnParams has them; may be null
  int32_t table = 0, num_tables = 1;

  SIMT_DEVICE const int32_t* blocks_of(int sequence) const {
    return block_tables + (int64_t{sequence} * num_tables + table) * *table_stride;
  }
  // What a token's score for exp2 loses by head `head`, for each token between it and its query.
  SIMT_DEVICE float slope(int head) const { return alibi[head] * 1.4426950408889634f; }
};

// Rows of D elements and 16 bytes of padding: the eight rows of an ldmatrix lie in different banks,
// for every D that is a multiple of 32.
template <class T, int kRows, int D>
struct Tile {
  static_assert(D % 32 == 0);
  static constexpr int kStride = D + 16 / int(sizeof(T));
  T at[kRows][kStride];
};

// Starts the copies of `kRows` rows that lie one after the other from `src` on, by `kThreads`
// threads of which this is number `thread`. Rows outside [begin, end) become zeros and are not
// read: what nobody wrote, or whose block is somebody else's by now, may be NaN, and 0 * NaN is not
// 0.
template <int kThreads, class T, int kRows, int D>
SIMT_DEVICE void fetch_rows(Tile<T, kRows, D>& tile, const T* src, int begin, int end, int thread) {
  constexpr int kWidth = 16 / int(sizeof(T)), kChunks = D / kWidth;  // of 16 bytes, to a row
  SIMT_UNROLL
  for (int i = 0; i < (kRows * kChunks + kThreads - 1) / kThreads; ++i) {
    const int at = i * kThreads + thread, row = at / kChunks, col = at % kChunks * kWidth;
    // Short rows of small elements leave threads over.
    if (kRows * kChunks % kThreads != 0 && row >= kRows) break;
    simt::cp_async_16(&tile.at[row][col], src + row * D + col, row >= begin && row < end);
  }
}

// Fragments of 16 rows x 16 columns from (row, col) on. As operand a of mma: the matrix itself.
template <class T, int kRows, int D>
SIMT_DEVICE void load_a(uint32_t (&r)[4], const Tile<T, kRows, D>& tile, int row, int col) {
  const int lane = simt::lane_id();
  simt::ldmatrix_x4(r, &tile.at[row + lane % 16][col + lane / 16 * 8]);
}
// As operand a: the transposed matrix, so that its rows are the tile's columns.
template <class T, int kRows, int D>
SIMT_DEVICE void load_a_trans(uint32_t (&r)[4], const Tile<T, kRows, D>& tile, int row, int col) {
  const int lane = simt::lane_id();
  simt::ldmatrix_x4_trans(r, &tile.at[row + lane % 8 + lane / 16 * 8][col + lane / 8 % 2 * 8]);
}
// As two operands b: r[0], r[1] for the eight columns of the result that the tile's rows row .. row
// + 7 make, r[2], r[3] for the eight rows after them.
template <class T, int kRows, int D>
SIMT_DEVICE void load_b(uint32_t (&r)[4], const Tile<T, kRows, D>& tile, int row, int col) {
  const int lane = simt::lane_id();
  simt::ldmatrix_x4(r, &tile.at[row + lane % 8 + lane / 16 * 8][col + lane / 8 % 2 * 8]);
}
// As two operands b: r[0], r[1] for the tile's columns col .. col + 7, r[2], r[3] for the next.
template <class T, int kRows, int D>
SIMT_DEVICE void load_b_trans(uint32_t (&r)[4], const Tile<T, kRows, D>& tile, int row, int col) {
  const int lane = simt::lane_id();
  simt::ldmatrix_x4_trans(r, &tile.at[row + lane % 16][col + lane / 16 * 8]);
}

// Keys and values as operands: 16 tokens and 32 dims at a time, two fragments of 16 dims. Of 8-bit
// elements an instruction that moves pairs of bytes moves two dims where it would move one, so
// dims come in another order, without a byte moved for it: products over dims want their other
// operand in the order of key_dim(), and what is computed of values comes in that of value_dim().

// The first of pair i (0, 1) of a lane's dims that are multiplied with each other, of 16; quad:
// lane % 4.
template <class Kv>
SIMT_DEVICE int key_dim(int i, int quad) {
  return sizeof(Kv) == 1 ? 4 * quad + 2 * i : 8 * i + 2 * quad;
}
// The dim, of 16, that is number n (0 .. 7) of half `half` of a result.
template <class Kv>
SIMT_DEVICE int value_dim(int half, int n) {
  return sizeof(Kv) == 1 ? 2 * n + half : 8 * half + n;
}

template <class T, int kRows, int D>
SIMT_DEVICE void load_keys_a(T, uint32_t (&r)[2][4], const Tile<T, kRows, D>& tile, int row,
                             int col) {
  load_a(r[0], tile, row, col), load_a(r[1], tile, row, col + 16);
}
template <class T, int kRows, int D>
SIMT_DEVICE void load_keys_b(T, uint32_t (&r)[2][4], const Tile<T, kRows, D>& tile, int row,
                             int col) {
  load_b(r[0], tile, row, col), load_b(r[1], tile, row, col + 16);
}
template <class T, int kRows, int D>
SIMT_DEVICE void load_values_a(T, uint32_t (&r)[2][4], const Tile<T, kRows, D>& tile, int row,
                               int col) {
  load_a_trans(r[0], tile, row, col), load_a_trans(r[1], tile, row, col + 16);
}
template <class T, int kRows, int D>
SIMT_DEVICE void load_values_b(T, uint32_t (&r)[2][4], const Tile<T, kRows, D>& tile, int row,
                               int col) {
  load_b_trans(r[0], tile, row, col), load_b_trans(r[1], tile, row, col + 16);
}

// Of 8-bit elements a matrix of an ldmatrix is 8 tokens x 16 dims. A lane's register holds four
// dims of one token; transposed, two dims of one token and the same of the next.
template <class T, int kRows, int D>
SIMT_DEVICE void load_keys_a(T, uint32_t (&r)[2][4], const Tile<simt::E4m3, kRows, D>& tile,
                             int row, int col) {
  const int lane = simt::lane_id();
  uint32_t codes[4];
  simt::ldmatrix_x4(codes, &tile.at[row + lane % 16][col + lane / 16 * 16]);
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) {
    r[i / 2][i % 2] = simt::widen_e4m3<0, 1>(T{}, codes[i]);
    r[i / 2][i % 2 + 2] = simt::widen_e4m3<2, 3>(T{}, codes[i]);
  }
}
template <class T, int kRows, int D>
SIMT_DEVICE void load_keys_b(T, uint32_t (&r)[2][4], const Tile<simt::E4m3, kRows, D>& tile,
                             int row, int col) {
  const int lane = simt::lane_id();
  uint32_t codes[4];
  simt::ldmatrix_x4(codes, &tile.at[row + lane % 8 + lane / 16 * 8][col + lane / 8 % 2 * 16]);
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) {
    r[i % 2][i / 2 * 2] = simt::widen_e4m3<0, 1>(T{}, codes[i]);
    r[i % 2][i / 2 * 2 + 1] = simt::widen_e4m3<2, 3>(T{}, codes[i]);
  }
}
template <class T, int kRows, int D>
SIMT_DEVICE void load_values_a(T, uint32_t (&r)[2][4], const Tile<simt::E4m3, kRows, D>& tile,
                               int row, int col) {
  const int lane = simt::lane_id();
  uint32_t codes[4];
  simt::ldmatrix_x4_trans(codes, &tile.at[row + lane % 8 + lane / 16 * 8][col + lane / 8 % 2 * 16]);
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) {
    r[i % 2][i / 2 * 2] = simt::widen_e4m3<0, 2>(T{}, codes[i]);
    r[i % 2][i / 2 * 2 + 1] = simt::widen_e4m3<1, 3>(T{}, codes[i]);
  }
}
template <class T, int kRows, int D>
SIMT_DEVICE void load_values_b(T, uint32_t (&r)[2][4], const Tile<simt::E4m3, kRows, D>& tile,
                               int row, int col) {
  const int lane = simt::lane_id();
  uint32_t codes[4];
  simt::ldmatrix_x4_trans(codes, &tile.at[row + lane % 16][col + lane / 16 * 16]);
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) {
    r[i / 2][i % 2] = simt::widen_e4m3<0, 2>(T{}, codes[i]);
    r[i / 2][i % 2 + 2] = simt::widen_e4m3<1, 3>(T{}, codes[i]);
  }
}

// What to subtract before exp2: a row that saw nothing yet has the maximum -inf, and -inf - -inf is
// no number.
SIMT_DEVICE float finite(float max) { return max == simt::neg_infinity() ? 0.0f : max; }

}  // namespace sluice::cuda
