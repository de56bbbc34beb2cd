#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

// How attention reads the paged cache: where the rows of a chunk lie, a widened copy of them for
// many query rows, and the sums themselves for few. Part of attention.cc, compiled with it.
namespace sluice::cpu::SLUICE_ISA {
namespace {

#if defined(SLUICE_ISA_AVX512)
constexpr int kRows = 6, kVectors = 4, kGroups = 4;
#elif defined(SLUICE_ISA_AVX2)
constexpr int kRows = 6, kVectors = 2, kGroups = 2;
#else
constexpr int kRows = 3, kVectors = 4, kGroups = 2;
#endif
// Up to this many query rows work on the cache itself; more on a widened, transposed copy.
constexpr int kFewRows = 4;
const float kNone = -__builtin_inff();

constexpr int64_t padded(int64_t dim) { return (dim + 31) / 32 * 32; }

// Addresses of the K and V rows of up to kKeyChunk positions from `begin` on. Entries past count
// repeat the last one, and those before `first`, which no query sees, that of `first`: kernels may
// compute with them, nobody uses what comes out. The blocks before `first` may be somebody else's.
struct Rows {
  int count;
  const char* k[kKeyChunk];
  const char* v[kKeyChunk];
};

void locate(const AttentionArgs& a, const AttentionPiece& p, int begin, int first, int end,
            Rows* rows) {
  const int64_t size = kv_bytes(a.kv);
  rows->count = end - begin < kKeyChunk ? end - begin : kKeyChunk;
  const int skipped = first > begin ? first - begin : 0;
  int block = (begin + skipped) / a.block_size, slot = (begin + skipped) % a.block_size;
  for (int i = skipped; i < rows->count;) {
    const int64_t id = p.blocks[block++];
    const char* k = (const char*)a.k + (id * a.k_block + p.kv_head * a.k_head) * size;
    const char* v = (const char*)a.v + (id * a.v_block + p.kv_head * a.v_head) * size;
    for (; slot < a.block_size && i < rows->count; ++slot, ++i) {
      rows->k[i] = k + slot * a.k_slot * size;
      rows->v[i] = v + slot * a.v_slot * size;
    }
    slot = 0;
  }
  for (int i = 0; i < skipped; ++i) {
    rows->k[i] = rows->k[skipped];
    rows->v[i] = rows->v[skipped];
  }
  for (int i = rows->count; i < kKeyChunk; ++i) {
    rows->k[i] = rows->k[rows->count - 1];
    rows->v[i] = rows->v[rows->count - 1];
  }
}

[[gnu::always_inline]] inline void prefetch_row(const char* row, int bytes) {
  for (int i = 0; i < bytes; i += 64) prefetch(row + i);
}

// keys[d][j] = K row j, dim d; kLanes rows at a time. Asks for the next chunk.
template <bool kBf16>
void load_keys(const AttentionArgs& a, const Rows& rows, const Rows& next, float* keys) {
  const int bytes = a.dim * (kBf16 ? 2 : 4);
  for (int j = 0; j < rows.count; j += kLanes) {
    for (int i = j; i < j + kLanes && i < next.count; ++i) prefetch_row(next.k[i], bytes);
    float* to = keys + j;
    for (int at = 0; at < bytes; at += 16, to += (kBf16 ? 8 : 4) * kKeyChunk) {
      V w[4];
      if (at + 16 <= bytes) {
        load_words(rows.k + j, at, w);
      } else {
        char tails[kLanes][16] = {};
        const char* tail_rows[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          __builtin_memcpy(tails[i], rows.k[j + i] + at, bytes - at);
          tail_rows[i] = tails[i];
        }
        load_words(tail_rows, 0, w);
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if constexpr (kBf16) {
          store(to + 2 * i * kKeyChunk, low_halves(w[i]));
          store(to + (2 * i + 1) * kKeyChunk, high_halves(w[i]));
        } else {
          store(to + i * kKeyChunk, w[i]);
        }
      }
    }
  }
}

// Scores of kQueries rows against a chunk of keys, straight from the cache; dim is a multiple of 8.
// Groups of keys advance together: each has one chain of sums a query.
template <int kQueries, bool kBf16>
void few_scores(const AttentionArgs& a, const float* q, int64_t dp, const Rows& rows,
                const Rows& next, float* scores) {
  const int bytes = a.dim * (kBf16 ? 2 : 4);
  constexpr int kKeys = kGroups * kLanes, kSteps = kBf16 ? 8 : 4;
  for (int j = 0; j < rows.count; j += kKeys) {
    V acc[kGroups][kQueries];
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 4
      for (int i = 0; i < kQueries; ++i) acc[g][i] = zero();
    }
    int ask = j;  // the next chunk's rows, shared out over the loop
    const int ask_end = j + kKeys < next.count ? j + kKeys : next.count;
    const int asks = (kKeys * 16 + bytes - 1) / bytes;
    const float* x = q;
    for (int at = 0; at < bytes; at += 16, x += kSteps) {
      for (int i = 0; i < asks && ask < ask_end; ++i) prefetch_row(next.k[ask++], bytes);
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) {
        V w[4];
        load_words(rows.k + j + g * kLanes, at, w);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const V even = kBf16 ? low_halves(w[i]) : w[i];
#pragma GCC unroll 4
          for (int r = 0; r < kQueries; ++r) {
            const float* v = x + r * dp + (kBf16 ? 2 * i : i);
            acc[g][r] = fma(set1(v[0]), even, acc[g][r]);
            if constexpr (kBf16) acc[g][r] = fma(set1(v[1]), high_halves(w[i]), acc[g][r]);
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 4
      for (int i = 0; i < kQueries; ++i) store(scores + i * kKeyChunk + j + g * kLanes, acc[g][i]);
    }
  }
}

// out += weights * values for kQueries rows, straight from the cache.
template <int kQueries, bool kBf16>
void few_values(const AttentionArgs& a, const float* weights, const Rows& rows, const Rows& next,
                float* out, int64_t dp) {
  const int bytes = a.dim * (kBf16 ? 2 : 4);
  for (int d = 0; d < a.dim; d += kVectors * kLanes) {
    const int left = (a.dim - d) / kLanes, vectors = left < kVectors ? left : kVectors;
    V acc[kQueries][kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kQueries; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        acc[i][v] = v < vectors ? load(out + i * dp + d + v * kLanes) : zero();
      }
    }
    for (int j = 0; j < rows.count; ++j) {
      if (d == 0 && j < next.count) prefetch_row(next.v[j], bytes);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        if (v >= vectors) break;
        const int64_t at = d + v * kLanes;
        const V x =
            kBf16 ? load_bf16((const uint16_t*)rows.v[j] + at) : load((const float*)rows.v[j] + at);
#pragma GCC unroll 4
        for (int i = 0; i < kQueries; ++i) {
          acc[i][v] = fma(set1(weights[i * kKeyChunk + j]), x, acc[i][v]);
        }
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kQueries; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        if (v < vectors) store(out + i * dp + d + v * kLanes, acc[i][v]);
      }
    }
  }
}

template <bool kBf16, int kQueries = kFewRows>
[[gnu::always_inline]] inline void run_few_scores(const AttentionArgs& a, int queries,
                                                  const float* q, int64_t dp, const Rows& rows,
                                                  const Rows& next, float* scores) {
  if (queries == kQueries) {
    few_scores<kQueries, kBf16>(a, q, dp, rows, next, scores);
  } else if constexpr (kQueries > 1) {
    run_few_scores<kBf16, kQueries - 1>(a, queries, q, dp, rows, next, scores);
  }
}

template <bool kBf16, int kQueries = kFewRows>
[[gnu::always_inline]] inline void run_few_values(const AttentionArgs& a, int queries,
                                                  const float* weights, const Rows& rows,
                                                  const Rows& next, float* out, int64_t dp) {
  if (queries == kQueries) {
    few_values<kQueries, kBf16>(a, weights, rows, next, out, dp);
  } else if constexpr (kQueries > 1) {
    run_few_values<kBf16, kQueries - 1>(a, queries, weights, rows, next, out, dp);
  }
}

[[gnu::always_inline]] inline V load_as(const float* p) { return load(p); }
[[gnu::always_inline]] inline V load_as(const uint16_t* p) { return load_bf16(p); }
[[gnu::always_inline]] inline V load_as(const uint8_t* p) { return load_e4m3(p); }

// out[j][d] = row j, zero past dim. Asks for the next chunk's rows.
template <class T>
void widen_rows(int dim, int count, const char* const* rows, int next_count,
                const char* const* next, float* out) {
  const int64_t dp = padded(dim);
  for (int j = 0; j < count; ++j, out += dp) {
    if (j < next_count) prefetch_row(next[j], dim * int(sizeof(T)));
    const T* from = (const T*)rows[j];
    int d = 0;
    for (; d + kLanes <= dim; d += kLanes) store(out + d, load_as(from + d));
    if (d < dim) {
      T last[kLanes] = {};
      __builtin_memcpy(last, from + d, (dim - d) * sizeof(T));
      store(out + d, load_as(last));
      d += kLanes;
    }
    for (; d < dp; d += kLanes) store(out + d, zero());
  }
}

void load_values(const AttentionArgs& a, const Rows& rows, const Rows& next, float* values) {
  const auto widen = a.kv == KvType::f32    ? widen_rows<float>
                     : a.kv == KvType::bf16 ? widen_rows<uint16_t>
                                            : widen_rows<uint8_t>;
  widen(a.dim, rows.count, rows.v, next.count, next.v, values);
}

// `space`: as large as the values. Codes go there first, as floats by rows.
void load_all_keys(const AttentionArgs& a, const Rows& rows, const Rows& next, float* keys,
                   float* space) {
  if (a.kv == KvType::bf16) return load_keys<true>(a, rows, next, keys);
  if (a.kv == KvType::f32) return load_keys<false>(a, rows, next, keys);
  widen_rows<uint8_t>(a.dim, rows.count, rows.k, next.count, next.k, space);
  Rows wide, none;
  none.count = 0;
  wide.count = rows.count;
  for (int i = 0; i < kKeyChunk; ++i) {
    const int row = i < rows.count ? i : rows.count - 1;
    wide.k[i] = (const char*)(space + row * padded(a.dim));
  }
  load_keys<false>(a, wide, none, keys);
}

}  // namespace
}  // namespace sluice::cpu::SLUICE_ISA
