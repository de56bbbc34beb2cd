// Paged causal attention of many tokens of a sequence at once, behind what is already in the cache:
// prompts, and chunks of them (SARATHI). After FlashAttention-2 (Dao, 2023): scores stay in
// registers, and rows are rescaled as their maxima grow.
//
// An item is (sequence, kv head, tile of queries). Its rows are pairs (token, query head of the
// group), so that all heads that share keys share their copies too. Eight warps of 16 rows; keys
// and values come by tiles of 64 tokens, the same for all warps, two stages ahead.
//
//   S[16 rows, 64 tokens] = Q[16, D] K^T          O[16, D] += P[16, 64] V[64, D]
//
// Tiles of the context begin at multiples of their size: what a row sums up, and in which order,
// depends on its own position only, not on how its prompt was cut.
#pragma once

#include "kernels/cuda/paged_kv.h"

namespace sluice::cuda {

struct alignas(16) PrefillItem {
  int32_t sequence, kv_head;
  int32_t first_row;  // of the sequence's rows, which are query tokens times heads of the group
  int32_t unused;
};

template <class T, class Kv>
struct PrefillParams : PagedAttention<T, Kv> {
  const int32_t* cu_q;  // [sequences + 1]: where a sequence's tokens lie in q and out
  const PrefillItem* items;
  float* lse;  // [tokens, heads], in units of log2; may be null
};

constexpr int kPrefillWarps = 8;
constexpr int kPrefillThreads = 32 * kPrefillWarps;
constexpr int kPrefillRows = 16 * kPrefillWarps;
constexpr int kPrefillStages = 2;

// Tokens of the context that are computed at once. Heads of more than 128 have registers for half
// as many, and none for the queries, which stay in shared memory.
template <int D>
constexpr int kPrefillTile = D > 128 ? 32 : 64;

template <class T, class Kv, int D>
struct alignas(128) PrefillShared {
  struct Stage {
    Tile<Kv, kPrefillTile<D>, D> k, v;
  };
  Stage stages[kPrefillStages];
  Tile<T, kPrefillRows, D> q;
};

// What the block's rows are, and which part of the context any of them sees.
struct PrefillRows {
  int32_t sequence, kv_head;
  int32_t first_row, num_rows;   // of the sequence; those of this item
  int32_t seq_len, num_queries;  // tokens
  int32_t first_token;           // row of q and out of the sequence's first query
  int32_t begin, end;            // of the context
  const int32_t* blocks;         // of the sequence
};

template <class T, class Kv>
SIMT_DEVICE PrefillRows prefill_rows(const PrefillParams<T, Kv>& p, const PrefillItem& item) {
  PrefillRows r;
  r.sequence = item.sequence, r.kv_head = item.kv_head, r.first_row = item.first_row;
  r.first_token = p.cu_q[item.sequence];
  r.blocks = p.blocks_of(item.sequence);
  r.num_queries = p.cu_q[item.sequence + 1] - r.first_token;
  r.seq_len = p.seq_lens[item.sequence];
  const int left = r.num_queries * p.group - r.first_row;
  r.num_rows = left < kPrefillRows ? left : kPrefillRows;
  const int before = r.seq_len - r.num_queries;
  r.end = before + (r.first_row + r.num_rows - 1) / p.group + 1;
  const int first_end = before + r.first_row / p.group + 1;
  r.begin = p.scores.window > 0 && first_end > p.scores.window ? first_end - p.scores.window : 0;
  return r;
}

// A tile of the context, from token `first` on. Sixteen lie in one block at least.
template <class T, class Kv, int D>
SIMT_DEVICE void prefill_fetch(const PrefillParams<T, Kv>& p, const PrefillRows& rows, int first,
                               typename PrefillShared<T, Kv, D>::Stage& stage) {
  constexpr int kParts = kPrefillTile<D> / 16, kThreads = kPrefillThreads / kParts;
  const int part = simt::thread_id() / kThreads, thread = simt::thread_id() % kThreads;
  const int token = first + part * 16;
  int64_t at = int64_t{rows.kv_head / p.kv.share} * p.kv.head_stride;
  if (token < rows.end && token + 16 > rows.begin) {
    const int block = rows.blocks[token >> p.kv.block_shift];
    at += int64_t{block} * p.kv.block_stride + int64_t{token & ((1 << p.kv.block_shift) - 1)} * D;
  }
  auto& k = reinterpret_cast<Tile<Kv, 16, D>&>(stage.k.at[part * 16]);
  auto& v = reinterpret_cast<Tile<Kv, 16, D>&>(stage.v.at[part * 16]);
  fetch_rows<kThreads>(k, p.kv.k + at, rows.begin - token, rows.end - token, thread);
  fetch_rows<kThreads>(v, p.kv.v + at, rows.begin - token, rows.end - token, thread);
}

// The block's queries, to shared memory, in the order that keys want; the caller's barrier
// publishes them. Rows that there are not are zeros.
template <class T, class Kv, int D>
SIMT_DEVICE void prefill_load_q(const PrefillParams<T, Kv>& p, const PrefillRows& rows,
                                Tile<T, kPrefillRows, D>& q) {
  constexpr int kSteps = D / 16;
  for (int at = simt::thread_id(); at < kPrefillRows * kSteps; at += kPrefillThreads) {
    const int row = at / kSteps, col = at % kSteps * 16;
    simt::Vec4 a, b;
    if (row < rows.num_rows) {
      const int token = (rows.first_row + row) / p.group, head = (rows.first_row + row) % p.group;
      const T* from = p.q + int64_t{rows.first_token + token} * p.q_stride +
                      (int64_t{rows.kv_head} * p.group + head) * D + col;
      a = simt::load_16(from), b = simt::load_16(from + 8);
    }
    // Pair i of lane `quad` lies at 8 * i + 2 * quad, whichever dims that are.
    const bool as_it_is = key_dim<Kv>(1, 0) == 8;
    simt::store_16(&q.at[row][col], as_it_is ? a : simt::Vec4{a.x, a.z, b.x, b.z});
    simt::store_16(&q.at[row][col + 8], as_it_is ? b : simt::Vec4{a.y, a.w, b.y, b.w});
  }
}

// A warp's queries as operands a: in registers where there are enough of them.
template <class T, int D, bool kInRegisters = (D <= 128)>
struct PrefillQueries {
  uint32_t r[D / 16][4];

  SIMT_DEVICE explicit PrefillQueries(const Tile<T, kPrefillRows, D>& tile) {
    SIMT_UNROLL
    for (int k = 0; k < D / 16; ++k) load_a(r[k], tile, simt::warp_id() * 16, k * 16);
  }
  SIMT_DEVICE void get(int k, uint32_t (&a)[4]) const {
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = r[k][i];
  }
};
template <class T, int D>
struct PrefillQueries<T, D, false> {
  const Tile<T, kPrefillRows, D>& tile;

  SIMT_DEVICE explicit PrefillQueries(const Tile<T, kPrefillRows, D>& q) : tile(q) {}
  SIMT_DEVICE void get(int k, uint32_t (&a)[4]) const {
    load_a(a, tile, simt::warp_id() * 16, k * 16);
  }
};

// A lane has rows lane / 4 and lane / 4 + 8 of its warp.
template <int D>
struct PrefillState {
  float max[2], sum[2];
  float out[D / 8][4];  // value_dim() 2 * (lane % 4) and the next of each half, for both rows
  int end[2];           // of the context that the rows see
};

// The query head of a lane's row r (0, 1).
template <class T, class Kv>
SIMT_DEVICE int prefill_head(const PrefillParams<T, Kv>& p, const PrefillRows& rows, int r) {
  const int row = simt::warp_id() * 16 + simt::lane_id() / 4 + r * 8;
  return rows.kv_head * p.group + (rows.first_row + row) % p.group;
}

template <class T, class Kv, int D>
SIMT_DEVICE void prefill_tile(const PrefillParams<T, Kv>& p, const PrefillRows& rows,
                              const typename PrefillShared<T, Kv, D>::Stage& stage,
                              const PrefillQueries<T, D>& q, int first, PrefillState<D>& state) {
  constexpr int kTokens = kPrefillTile<D>;
  const int lane = simt::lane_id();
  float s[kTokens / 8][4] = {};
  SIMT_UNROLL
  for (int k = 0; k < D / 16; k += 2) {
    uint32_t a[2][4];
    q.get(k, a[0]), q.get(k + 1, a[1]);
    SIMT_UNROLL
    for (int n = 0; n < kTokens / 16; ++n) {
      uint32_t b[2][4];
      load_keys_b(T{}, b, stage.k, n * 16, k * 16);
      SIMT_UNROLL
      for (int i = 0; i < 2; ++i) {
        simt::mma(T{}, s[2 * n], a[i], b[i][0], b[i][1]);
        simt::mma(T{}, s[2 * n + 1], a[i], b[i][2], b[i][3]);
      }
    }
  }
  SIMT_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int begin = p.scores.window > 0 ? state.end[r] - p.scores.window : 0;
    float top = state.max[r];
    SIMT_UNROLL
    for (int n = 0; n < kTokens / 8; ++n) {
      SIMT_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int token = first + n * 8 + lane % 4 * 2 + c;
        float& v = s[n][2 * r + c];
        v = token >= begin && token < state.end[r] ? p.scores(v) : simt::neg_infinity();
        top = simt::max(top, v);
      }
    }
    // A loop of its own: who has no such biases does not pay for them.
    if (p.alibi != nullptr) {
      const float slope = p.slope(prefill_head(p, rows, r));
      top = state.max[r];
      SIMT_UNROLL
      for (int n = 0; n < kTokens / 8; ++n) {
        SIMT_UNROLL
        for (int c = 0; c < 2; ++c) {
          const int token = first + n * 8 + lane % 4 * 2 + c;
          s[n][2 * r + c] += slope * float(token - (state.end[r] - 1));
          top = simt::max(top, s[n][2 * r + c]);
        }
      }
    }
    top = simt::max(top, simt::shuffle_xor(top, 1));
    top = simt::max(top, simt::shuffle_xor(top, 2));
    const float shrink = simt::exp2_approx(state.max[r] - finite(top));
    state.max[r] = top;
    float sum = 0;
    SIMT_UNROLL
    for (int n = 0; n < kTokens / 8; ++n) {
      SIMT_UNROLL
      for (int c = 0; c < 2; ++c) {
        float& v = s[n][2 * r + c];
        v = simt::exp2_approx(v - finite(top));
        sum += v;
      }
    }
    state.sum[r] = state.sum[r] * shrink + sum;  // over the four lanes of a row: at the end
    SIMT_UNROLL
    for (int d = 0; d < D / 8; ++d) {
      state.out[d][2 * r] *= shrink;
      state.out[d][2 * r + 1] *= shrink;
    }
  }
  SIMT_UNROLL
  for (int n = 0; n < kTokens / 16; ++n) {
    // Scores of 16 tokens as they came out are an operand a as it goes in.
    const uint32_t a[4] = {simt::pack(T{}, s[2 * n][0], s[2 * n][1]),
                           simt::pack(T{}, s[2 * n][2], s[2 * n][3]),
                           simt::pack(T{}, s[2 * n + 1][0], s[2 * n + 1][1]),
                           simt::pack(T{}, s[2 * n + 1][2], s[2 * n + 1][3])};
    SIMT_UNROLL
    for (int d = 0; d < D / 16; d += 2) {
      uint32_t b[2][4];
      load_values_b(T{}, b, stage.v, n * 16, d * 16);
      SIMT_UNROLL
      for (int i = 0; i < 2; ++i) {
        simt::mma(T{}, state.out[2 * (d + i)], a, b[i][0], b[i][1]);
        simt::mma(T{}, state.out[2 * (d + i) + 1], a, b[i][2], b[i][3]);
      }
    }
  }
}

template <class T, class Kv, int D>
SIMT_DEVICE void prefill_store(const PrefillParams<T, Kv>& p, const PrefillRows& rows,
                               const PrefillState<D>& state) {
  const int lane = simt::lane_id();
  SIMT_UNROLL
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += simt::shuffle_xor(sum, 1);
    sum += simt::shuffle_xor(sum, 2);
    const int row = simt::warp_id() * 16 + lane / 4 + r * 8;
    if (row >= rows.num_rows) continue;
    const int64_t token = rows.first_token + (rows.first_row + row) / p.group;
    const int head = prefill_head(p, rows, r);
    if (p.lse != nullptr && lane % 4 == 0)
      p.lse[token * p.num_kv_heads * p.group + head] = state.max[r] + simt::log2_approx(sum);
    const float scale = simt::reciprocal(sum) * p.value_scale;
    T* out = p.out + token * p.out_stride + int64_t{head} * D;
    SIMT_UNROLL
    for (int d = 0; d < D / 16; ++d) {
      SIMT_UNROLL
      for (int i = 0; i < 2; ++i) {
        // Two dims that lie side by side: of one half, or one of each.
        const bool of_one = value_dim<Kv>(0, 1) == 1;
        const float first = state.out[2 * d + (of_one ? i : 0)][2 * r + (of_one ? 0 : i)];
        const float second = state.out[2 * d + (of_one ? i : 1)][2 * r + (of_one ? 1 : i)];
        *reinterpret_cast<uint32_t*>(out + d * 16 + key_dim<Kv>(i, lane % 4)) =
            simt::pack(T{}, first * scale, second * scale);
      }
    }
  }
}

template <class T, class Kv, int D>
SIMT_KERNEL(kPrefillThreads, 1)
attention_prefill_kernel(PrefillParams<T, Kv> p) {
  simt::wait_for_earlier();
  using Shared = PrefillShared<T, Kv, D>;
  auto& shared = simt::shared<Shared>();
  const auto item = __builtin_bit_cast(PrefillItem, simt::load_16(&p.items[simt::block_id()]));
  const PrefillRows rows = prefill_rows(p, item);
  prefill_load_q<T, Kv, D>(p, rows, shared.q);
  simt::sync_block();
  const PrefillQueries<T, D> q(shared.q);

  PrefillState<D> state;
  const int row = rows.first_row + simt::warp_id() * 16 + simt::lane_id() / 4;
  SIMT_UNROLL
  for (int r = 0; r < 2; ++r) {
    state.max[r] = simt::neg_infinity(), state.sum[r] = 0;
    state.end[r] = rows.seq_len - rows.num_queries + (row + r * 8) / p.group + 1;
  }
  SIMT_UNROLL
  for (int d = 0; d < D / 8; ++d) {
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) state.out[d][i] = 0;
  }

  constexpr int kTokens = kPrefillTile<D>;
  const int first = rows.begin / kTokens * kTokens;
  const int num_tiles = (rows.end - first + kTokens - 1) / kTokens;
  prefill_fetch<T, Kv, D>(p, rows, first, shared.stages[0]);
  simt::cp_async_commit();
  for (int t = 0; t < num_tiles; ++t) {
    const int at = first + t * kTokens;
    if (t + 1 < num_tiles)
      prefill_fetch<T, Kv, D>(p, rows, at + kTokens, shared.stages[(t + 1) % kPrefillStages]);
    simt::cp_async_commit();
    simt::cp_async_wait<1>();
    simt::sync_block();  // everybody's part of tile t has landed
    prefill_tile<T, Kv, D>(p, rows, shared.stages[t % kPrefillStages], q, at, state);
    simt::sync_block();  // nobody reads tile t any more: the next fetch overwrites it
  }
  simt::cp_async_wait<0>();
  prefill_store<T, Kv, D>(p, rows, state);
}

}  // namespace sluice::cuda
