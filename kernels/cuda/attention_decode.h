// Paged attention of the newest tokens of sequences (decode), for any context length in one launch.
// Split over the context as in Flash-Decoding (Dao et al., 2023), over PagedAttention's block
// tables (Kwon et al., SOSP'23).
//
// An item is (sequence, kv head, chunk of the context). A block takes items block_id, block_id +
// num_blocks, ..; how many there are is read from the device, so a captured graph stays right as
// contexts grow. Where chunks begin depends on nothing but the position: a sequence's result has
// the same bits alone and in any batch.
//
// Inside an item: four warps; a tile is 64 tokens, 16 to a warp. A warp copies, multiplies and
// accumulates its own 16 tokens only, so the main loop has no barrier of the block. Operands are
// swapped, so that the padded dimension is 8 rows and not 16:
//
//   S^T[16 tokens, rows] = K[16, D] Q^T[D, rows]      rows = query heads that share this kv head
//   O^T[D, rows]        += V^T[D, 16] P^T[16, rows]
//
// A sequence of several chunks leaves partial results; the block that draws the last ticket merges
// them in the order of chunks, and sets the ticket back for the next launch.
#pragma once

#include "kernels/cuda/paged_kv.h"

namespace sluice::cuda {

struct alignas(16) DecodeItem {
  int32_t sequence, kv_head;
  int32_t chunk;        // of the context, from its begin
  int32_t first_chunk;  // of those that the sequence's window leaves; the last holds its last token
};

template <class T, class Kv>
struct DecodeParams : PagedAttention<T, Kv> {
  const int32_t* token_of;  // [sequences]: its row of q and out
  const DecodeItem* items;
  const int32_t* num_items;
  const int32_t* partial_of;  // [sequences]: of its first chunk's partial results, [chunk][head]
  float* partial_out;         // [*, D], not divided by the sum
  float* partial_stats;       // [*, 2]: maximum in units of log2, sum
  uint32_t* tickets;          // [sequences, num_kv_heads], all 0 between launches
  float* lse;                 // [sequences, heads], in units of log2; may be null
};

constexpr int kDecodeWarps = 4;
constexpr int kDecodeThreads = 32 * kDecodeWarps;
constexpr int kDecodeTile = 16 * kDecodeWarps;  // tokens
// Of an item. Block ids of a chunk's tiles are held one to a lane.
constexpr int kDecodeChunk = 512;
static_assert(kDecodeChunk % kDecodeTile == 0 && kDecodeChunk / kDecodeTile <= 32);

// kRows: query heads of an item, padded; 8 or 16.
template <class Kv, int D, int kRows>
struct alignas(128) DecodeShared {
  static constexpr int kStages = D * sizeof(Kv) > 256 ? 2 : 3;
  struct Stage {
    Tile<Kv, 16, D> k, v;
  };
  struct Warp {
    union {
      Stage stages[kStages];
      float out[kRows][D + 4];  // after the last tile
    };
    float max[kRows], sum[kRows];
  };
  Warp warp[kDecodeWarps];
  uint32_t is_last;
};

// The tokens [begin, end) that are visible to the item, and how this warp comes by its own.
template <class Kv>
struct DecodeSource {
  const Kv* k;  // of this kv head in block 0
  const Kv* v;
  int64_t block_stride;
  int32_t block_shift;
  int32_t block_of_lane;  // lane i: of this warp's tokens in tile i
  int32_t first;          // this warp's first token in tile 0
  int32_t begin, end;
  int32_t kv_head, seq_len;  // of the item
};

template <class Kv, int D, int kRows>
SIMT_DEVICE void decode_fetch(const DecodeSource<Kv>& src, int tile,
                              typename DecodeShared<Kv, D, kRows>::Stage& stage) {
  const int token = src.first + tile * kDecodeTile;
  const int64_t block = simt::shuffle(src.block_of_lane, tile);
  const int slot = token & ((1 << src.block_shift) - 1);
  const int64_t at = block * src.block_stride + int64_t{slot} * D;
  const int begin = src.begin - token, end = src.end - token;
  fetch_rows<32>(stage.k, src.k + at, begin, end, simt::lane_id());
  fetch_rows<32>(stage.v, src.v + at, begin, end, simt::lane_id());
}

// Running softmax of a warp: a lane has rows 8 * r + 2 * (lane % 4) and the next, for each r.
template <int D, int kRows>
struct DecodeState {
  float max[kRows / 8][2], sum[kRows / 8][2];
  float out[kRows / 8][D / 16][4];  // value_dim() 0 and 1 of lane / 4 of each 16, rows as above
};

// A lane's scores of rows `row` and the next, of token `token` and of the one eight further.
template <class T, class Kv>
SIMT_DEVICE void decode_alibi(const DecodeParams<T, Kv>& p, float (&s)[4], int row, int token,
                              const DecodeSource<Kv>& src) {
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) {
    if (row + i % 2 >= p.group) continue;
    const float slope = p.slope(src.kv_head * p.group + row + i % 2);
    s[i] += slope * float(token + i / 2 * 8 - (src.seq_len - 1));
  }
}

template <class T, class Kv, int D, int kRows>
SIMT_DEVICE void decode_tile(const DecodeParams<T, Kv>& p,
                             const typename DecodeShared<Kv, D, kRows>::Stage& stage,
                             const uint32_t (&q)[kRows / 8][D / 16][2], int first,
                             const DecodeSource<Kv>& src, DecodeState<D, kRows>& state) {
  const int lane = simt::lane_id();
  float s[kRows / 8][4] = {};
  SIMT_UNROLL
  for (int k = 0; k < D / 16; k += 2) {
    uint32_t a[2][4];
    load_keys_a(T{}, a, stage.k, 0, k * 16);
    SIMT_UNROLL
    for (int r = 0; r < kRows / 8; ++r) {
      simt::mma(T{}, s[r], a[0], q[r][k][0], q[r][k][1]);
      simt::mma(T{}, s[r], a[1], q[r][k + 1][0], q[r][k + 1][1]);
    }
  }
  uint32_t weights[kRows / 8][2];
  SIMT_UNROLL
  for (int r = 0; r < kRows / 8; ++r) {
    // Values 0 and 1 are of token lane / 4, 2 and 3 of the one eight further.
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int token = first + lane / 4 + i / 2 * 8;
      const bool visible = token >= src.begin && token < src.end;
      s[r][i] = visible ? p.scores(s[r][i]) : simt::neg_infinity();
    }
    if (p.alibi != nullptr) decode_alibi(p, s[r], r * 8 + lane % 4 * 2, first + lane / 4, src);
    SIMT_UNROLL
    for (int c = 0; c < 2; ++c) {
      float top = simt::max(s[r][c], s[r][c + 2]);
      SIMT_UNROLL
      for (int mask = 4; mask < 32; mask *= 2) top = simt::max(top, simt::shuffle_xor(top, mask));
      top = simt::max(top, state.max[r][c]);
      const float shrink = simt::exp2_approx(state.max[r][c] - finite(top));
      state.max[r][c] = top;
      s[r][c] = simt::exp2_approx(s[r][c] - finite(top));
      s[r][c + 2] = simt::exp2_approx(s[r][c + 2] - finite(top));
      state.sum[r][c] = state.sum[r][c] * shrink + s[r][c] + s[r][c + 2];  // lanes: at the end
      SIMT_UNROLL
      for (int d = 0; d < D / 16; ++d) {
        state.out[r][d][c] *= shrink;
        state.out[r][d][c + 2] *= shrink;
      }
    }
    // The layout in which S^T came out is the transpose of the one P^T goes in.
    weights[r][0] = simt::movmatrix_trans(simt::pack(T{}, s[r][0], s[r][1]));
    weights[r][1] = simt::movmatrix_trans(simt::pack(T{}, s[r][2], s[r][3]));
  }
  SIMT_UNROLL
  for (int d = 0; d < D / 16; d += 2) {
    uint32_t a[2][4];
    load_values_a(T{}, a, stage.v, 0, d * 16);
    SIMT_UNROLL
    for (int r = 0; r < kRows / 8; ++r) {
      simt::mma(T{}, state.out[r][d], a[0], weights[r][0], weights[r][1]);
      simt::mma(T{}, state.out[r][d + 1], a[1], weights[r][0], weights[r][1]);
    }
  }
}

// All tiles of the chunk that this warp has tokens in.
template <class T, class Kv, int D, int kRows>
SIMT_DEVICE void decode_warp(const DecodeParams<T, Kv>& p, const DecodeSource<Kv>& src,
                             const uint32_t (&q)[kRows / 8][D / 16][2],
                             typename DecodeShared<Kv, D, kRows>::Warp& mine,
                             DecodeState<D, kRows>& state) {
  constexpr int kStages = DecodeShared<Kv, D, kRows>::kStages;
  const int num_tiles =
      src.end > src.first ? (src.end - src.first + kDecodeTile - 1) / kDecodeTile : 0;
  // Of this warp's tiles, those that end before the window begins: they are not even fetched.
  const int before = src.begin > src.first ? (src.begin - src.first) / kDecodeTile : 0;
  // One group an iteration, empty ones too: then "all but kStages - 2" names tile t.
  for (int t = before; t < before + kStages - 1; ++t) {
    if (t < num_tiles) decode_fetch<Kv, D, kRows>(src, t, mine.stages[t % kStages]);
    simt::cp_async_commit();
  }
  for (int t = before; t < num_tiles; ++t) {
    simt::cp_async_wait<kStages - 2>();
    // Every lane's part of tile t has landed, and every lane is done with tile t - 1, whose stage
    // the next fetch overwrites.
    simt::sync_warp();
    const int ahead = t + kStages - 1;
    if (ahead < num_tiles) decode_fetch<Kv, D, kRows>(src, ahead, mine.stages[ahead % kStages]);
    simt::cp_async_commit();
    decode_tile<T, Kv, D, kRows>(p, mine.stages[t % kStages], q, src.first + t * kDecodeTile, src,
                                 state);
  }
  simt::cp_async_wait<0>();
}

// A warp's sums, to shared memory; the caller's barrier publishes them.
template <class Kv, int D, int kRows>
SIMT_DEVICE void decode_publish(typename DecodeShared<Kv, D, kRows>::Warp& mine,
                                const DecodeState<D, kRows>& state) {
  const int lane = simt::lane_id();
  simt::sync_warp();  // `out` lies over stages that other lanes may still read
  SIMT_UNROLL
  for (int r = 0; r < kRows / 8; ++r) {
    SIMT_UNROLL
    for (int c = 0; c < 2; ++c) {
      const int row = r * 8 + lane % 4 * 2 + c;
      float sum = state.sum[r][c];
      SIMT_UNROLL
      for (int mask = 4; mask < 32; mask *= 2) sum += simt::shuffle_xor(sum, mask);
      if (lane < 4) mine.max[row] = state.max[r][c], mine.sum[row] = sum;
      SIMT_UNROLL
      for (int d = 0; d < D / 16; ++d) {
        mine.out[row][d * 16 + value_dim<Kv>(0, lane / 4)] = state.out[r][d][c];
        mine.out[row][d * 16 + value_dim<Kv>(1, lane / 4)] = state.out[r][d][c + 2];
      }
    }
  }
}

// Adds partial results up; their maxima keep the orders of magnitude apart.
struct Merge {
  float max = simt::neg_infinity(), sum = 0;
  simt::Float4 out;

  SIMT_DEVICE void add(float other_max, float other_sum, const simt::Float4& other) {
    const float top = simt::max(max, other_max);
    const float keep = simt::exp2_approx(max - finite(top));
    const float take = simt::exp2_approx(other_max - finite(top));
    max = top;
    sum = sum * keep + other_sum * take;
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) out.v[i] = out.v[i] * keep + other.v[i] * take;
  }
};

// Four columns of the result of one query head.
template <class T, class Kv, int D>
SIMT_DEVICE void decode_store(const DecodeParams<T, Kv>& p, int sequence, int head, int col,
                              const Merge& m) {
  if (p.lse != nullptr && col == 0) {
    p.lse[sequence * p.num_kv_heads * p.group + head] = m.max + simt::log2_approx(m.sum);
  }
  const float scale = simt::reciprocal(m.sum) * p.value_scale;
  auto* words = reinterpret_cast<uint32_t*>(p.out + int64_t{p.token_of[sequence]} * p.out_stride +
                                            int64_t{head} * D + col);
  words[0] = simt::pack(T{}, m.out.v[0] * scale, m.out.v[1] * scale);
  words[1] = simt::pack(T{}, m.out.v[2] * scale, m.out.v[3] * scale);
}

// The warps' sums become the item's: the result where it is the only one, else a partial one.
template <class T, class Kv, int D, int kRows>
SIMT_DEVICE void decode_merge_warps(const DecodeParams<T, Kv>& p, const DecodeItem& item,
                                    bool alone, const DecodeShared<Kv, D, kRows>& shared) {
  constexpr int kThreadsPerRow = D / 4, kRowsAtOnce = kDecodeThreads / kThreadsPerRow;
  const int col = simt::thread_id() % kThreadsPerRow * 4;
  // The last threads have no row where D / 4 does not divide them.
  if (simt::thread_id() >= kRowsAtOnce * kThreadsPerRow) return;
  for (int row = simt::thread_id() / kThreadsPerRow; row < p.group; row += kRowsAtOnce) {
    Merge m;
    SIMT_UNROLL
    for (int w = 0; w < kDecodeWarps; ++w)
      m.add(shared.warp[w].max[row], shared.warp[w].sum[row],
            simt::load_float4(&shared.warp[w].out[row][col]));
    const int head = item.kv_head * p.group + row;
    if (alone) {
      decode_store<T, Kv, D>(p, item.sequence, head, col, m);
      continue;
    }
    const int64_t at = int64_t{p.partial_of[item.sequence]} +
                       (item.chunk - item.first_chunk) * p.num_kv_heads * p.group + head;
    simt::store_float4(&p.partial_out[at * D + col], m.out);
    if (col == 0) p.partial_stats[at * 2] = m.max, p.partial_stats[at * 2 + 1] = m.sum;
  }
}

// The chunks' sums become the result, in the order of chunks, whoever was last.
template <class T, class Kv, int D>
SIMT_DEVICE void decode_merge_chunks(const DecodeParams<T, Kv>& p, const DecodeItem& item,
                                     int num_chunks) {
  constexpr int kThreadsPerRow = D / 4, kRowsAtOnce = kDecodeThreads / kThreadsPerRow;
  const int col = simt::thread_id() % kThreadsPerRow * 4;
  if (simt::thread_id() >= kRowsAtOnce * kThreadsPerRow) return;
  for (int row = simt::thread_id() / kThreadsPerRow; row < p.group; row += kRowsAtOnce) {
    const int head = item.kv_head * p.group + row;
    Merge m;
    for (int c = 0; c < num_chunks; ++c) {
      const int64_t at = int64_t{p.partial_of[item.sequence]} + c * p.num_kv_heads * p.group + head;
      m.add(p.partial_stats[at * 2], p.partial_stats[at * 2 + 1],
            simt::load_float4(&p.partial_out[at * D + col]));
    }
    decode_store<T, Kv, D>(p, item.sequence, head, col, m);
  }
}

template <class T, class Kv, int D, int kRows>
SIMT_DEVICE void decode_item(const DecodeParams<T, Kv>& p, const DecodeItem& item,
                             DecodeShared<Kv, D, kRows>& shared) {
  const int lane = simt::lane_id(), warp = simt::warp_id();
  const int seq_len = p.seq_lens[item.sequence];
  const int chunk_begin = item.chunk * kDecodeChunk, chunk_end = chunk_begin + kDecodeChunk;
  const int window_begin = p.scores.window > 0 ? seq_len - p.scores.window : 0;
  DecodeSource<Kv> src;
  // Alone a division would take registers that the largest heads do not have.
  const int64_t head_at = p.kv.share == 1 ? item.kv_head * p.kv.head_stride
                                          : item.kv_head / p.kv.share * p.kv.head_stride;
  src.k = p.kv.k + head_at;
  src.v = p.kv.v + head_at;
  src.block_stride = p.kv.block_stride;
  src.block_shift = p.kv.block_shift;
  src.first = chunk_begin + warp * 16;
  src.begin = window_begin > chunk_begin ? window_begin : chunk_begin;
  src.end = seq_len < chunk_end ? seq_len : chunk_end;
  src.kv_head = item.kv_head, src.seq_len = seq_len;
  src.block_of_lane = 0;
  if (const int token = src.first + lane * kDecodeTile; token < src.end) {
    src.block_of_lane = p.blocks_of(item.sequence)[token >> p.kv.block_shift];
  }

  uint32_t q[kRows / 8][D / 16][2];
  const T* q_heads =
      p.q + int64_t{p.token_of[item.sequence]} * p.q_stride + int64_t{item.kv_head} * p.group * D;
  SIMT_UNROLL
  for (int r = 0; r < kRows / 8; ++r) {
    const int row = r * 8 + lane / 4;
    SIMT_UNROLL
    for (int k = 0; k < D / 16; ++k) {
      SIMT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const T* at = q_heads + row * D + k * 16 + key_dim<Kv>(i, lane % 4);
        q[r][k][i] = row < p.group ? *reinterpret_cast<const uint32_t*>(at) : 0u;
      }
    }
  }
  DecodeState<D, kRows> state;
  SIMT_UNROLL
  for (int r = 0; r < kRows / 8; ++r) {
    SIMT_UNROLL
    for (int c = 0; c < 2; ++c) state.max[r][c] = simt::neg_infinity(), state.sum[r][c] = 0;
    SIMT_UNROLL
    for (int d = 0; d < D / 16; ++d) {
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) state.out[r][d][i] = 0;
    }
  }
  decode_warp<T, Kv, D, kRows>(p, src, q, shared.warp[warp], state);
  decode_publish<Kv, D, kRows>(shared.warp[warp], state);
  simt::sync_block();

  const int num_chunks = (seq_len + kDecodeChunk - 1) / kDecodeChunk - item.first_chunk;
  decode_merge_warps<T, Kv, D, kRows>(p, item, num_chunks == 1, shared);
  if (num_chunks > 1) {
    simt::sync_block();  // all of the block's partial results, before the ticket
    if (simt::thread_id() == 0) {
      uint32_t* ticket = &p.tickets[item.sequence * p.num_kv_heads + item.kv_head];
      shared.is_last = simt::atomic_add_acq_rel(ticket, 1) == uint32_t(num_chunks - 1);
      if (shared.is_last) *ticket = 0;
    }
    simt::sync_block();
    if (shared.is_last) decode_merge_chunks<T, Kv, D>(p, item, num_chunks);
  }
  simt::sync_block();  // the next item overwrites shared memory
}

template <class T, class Kv, int D, int kRows>
SIMT_KERNEL(kDecodeThreads, D > 128 ? 1 : 2)
attention_decode_kernel(DecodeParams<T, Kv> p) {
  simt::wait_for_earlier();
  auto& shared = simt::shared<DecodeShared<Kv, D, kRows>>();
  const int num_items = *p.num_items;
  for (int i = simt::block_id(); i < num_items; i += simt::num_blocks()) {
    const auto item = __builtin_bit_cast(DecodeItem, simt::load_16(&p.items[i]));
    decode_item<T, Kv, D, kRows>(p, item, shared);
  }
}

}  // namespace sluice::cuda
