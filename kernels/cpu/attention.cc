#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

// Paged causal attention for a few query tokens and one KV head, by online softmax (Milakov and
// Gimelshein 2018; Dao et al. 2022) over chunks of keys.
//
// Chunks and spans begin at multiples of their size in the sequence, whatever the block size and
// wherever the queries begin; scores sum over the head's dims, outputs over key positions, both in
// ascending order and in single chains. A query's bits are therefore the same as a decode row and
// inside any prefill chunk: keys past it contribute exact zeros.
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

// All sizes in floats; dp = padded(dim).
struct Buffers {
  float* q;          // [kMaxQueryRows][dp], scaled
  float* keys;       // [dp][kKeyChunk]
  float* values;     // [kKeyChunk][dp]
  float* scores;     // [kMaxQueryRows][kKeyChunk]
  float* out;        // [kMaxQueryRows][dp], of one span
  float* max;        // [kMaxQueryRows]
  float* sum;        // [kMaxQueryRows]
  float* total_out;  // the same over the spans so far
  float* total_max;
  float* total_sum;
};

size_t attention_scratch(int dim) {
  const int64_t dp = padded(dim);
  return size_t(3 * kMaxQueryRows * dp + 2 * kKeyChunk * dp + kMaxQueryRows * kKeyChunk +
                4 * kMaxQueryRows);
}

Buffers cut(float* scratch, int dim) {
  const int64_t dp = padded(dim), rows = kMaxQueryRows * dp;
  Buffers b;
  b.q = scratch;
  b.out = b.q + rows;
  b.total_out = b.out + rows;
  b.keys = b.total_out + rows;
  b.values = b.keys + kKeyChunk * dp;
  b.scores = b.values + kKeyChunk * dp;
  b.max = b.scores + kMaxQueryRows * kKeyChunk;
  b.sum = b.max + kMaxQueryRows;
  b.total_max = b.sum + kMaxQueryRows;
  b.total_sum = b.total_max + kMaxQueryRows;
  return b;
}

// c[Rows][Vectors * kLanes] = (+=) a[Rows][k] * b[k][...].
template <int Rows, int Vectors>
void micro(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t k, float* c,
           int64_t c_stride, bool resume) {
  V acc[Rows][Vectors];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) {
      acc[i][j] = resume ? load(c + i * c_stride + j * kLanes) : zero();
    }
  }
  for (; k > 0; --k, ++a, b += b_stride) {
    V w[Vectors];
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) w[j] = load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const V x = set1(a[i * a_stride]);
#pragma GCC unroll 16
      for (int j = 0; j < Vectors; ++j) acc[i][j] = fma(x, w[j], acc[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) store(c + i * c_stride + j * kLanes, acc[i][j]);
  }
}

template <int Rows = kRows, int Vectors = kVectors>
[[gnu::always_inline]] inline void run_micro(int rows, int vectors, const float* a,
                                             int64_t a_stride, const float* b, int64_t b_stride,
                                             int64_t k, float* c, int64_t c_stride, bool resume) {
  if (rows == Rows && vectors == Vectors) {
    micro<Rows, Vectors>(a, a_stride, b, b_stride, k, c, c_stride, resume);
    return;
  }
  if constexpr (Vectors > 1) {
    if (rows == Rows) {
      run_micro<Rows, Vectors - 1>(rows, vectors, a, a_stride, b, b_stride, k, c, c_stride, resume);
      return;
    }
  }
  if constexpr (Rows > 1) {
    run_micro<Rows - 1, kVectors>(rows, vectors, a, a_stride, b, b_stride, k, c, c_stride, resume);
  }
}

// c[rows][vectors * kLanes] = (+=) a[rows][k] * b[k][...], any size.
void multiply(int rows, int vectors, const float* a, int64_t a_stride, const float* b,
              int64_t b_stride, int64_t k, float* c, int64_t c_stride, bool resume) {
  const int row_tiles = (rows + kRows - 1) / kRows;
  for (int v = 0; v < vectors; v += kVectors) {
    const int width = vectors - v < kVectors ? vectors - v : kVectors;
    for (int t = 0, row = 0; t < row_tiles; ++t) {
      const int n = (rows - row + row_tiles - t - 1) / (row_tiles - t);
      run_micro(n, width, a + row * a_stride, a_stride, b + v * kLanes, b_stride, k,
                c + row * c_stride + v * kLanes, c_stride, resume);
      row += n;
    }
  }
}

// Addresses of the K and V rows of up to kKeyChunk positions from `begin` on. Entries past count
// repeat the last one: kernels may compute with them, nobody uses what comes out.
struct Rows {
  int count;
  const char* k[kKeyChunk];
  const char* v[kKeyChunk];
};

void locate(const AttentionArgs& a, const AttentionPiece& p, int begin, int end, Rows* rows) {
  const int64_t size = a.bf16 ? 2 : 4;
  rows->count = end - begin < kKeyChunk ? end - begin : kKeyChunk;
  int block = begin / a.block_size, slot = begin % a.block_size;
  for (int i = 0; i < rows->count;) {
    const int64_t id = p.blocks[block++];
    const char* k = (const char*)a.k + (id * a.k_block + p.kv_head * a.k_head) * size;
    const char* v = (const char*)a.v + (id * a.v_block + p.kv_head * a.v_head) * size;
    for (; slot < a.block_size && i < rows->count; ++slot, ++i) {
      rows->k[i] = k + slot * a.k_slot * size;
      rows->v[i] = v + slot * a.v_slot * size;
    }
    slot = 0;
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

// values[j][d] = V row j, zero past dim.
void load_values(const AttentionArgs& a, const Rows& rows, const Rows& next, float* values) {
  const int64_t dp = padded(a.dim);
  const int bytes = a.dim * (a.bf16 ? 2 : 4);
  for (int j = 0; j < rows.count; ++j) {
    if (j < next.count) prefetch_row(next.v[j], bytes);
    float* to = values + j * dp;
    int d = 0;
    if (a.bf16) {
      const uint16_t* from = (const uint16_t*)rows.v[j];
      for (; d + kLanes <= a.dim; d += kLanes) store(to + d, load_bf16(from + d));
      if (d < a.dim) {
        uint16_t last[kLanes] = {};
        __builtin_memcpy(last, from + d, (a.dim - d) * 2);
        store(to + d, load_bf16(last));
        d += kLanes;
      }
    } else {
      const float* from = (const float*)rows.v[j];
      for (; d + kLanes <= a.dim; d += kLanes) store(to + d, load(from + d));
      if (d < a.dim) {
        store(to + d, load_n(from + d, a.dim - d));
        d += kLanes;
      }
    }
    for (; d < dp; d += kLanes) store(to + d, zero());
  }
}

// cap * tanh(s / cap), by tanh(x) = 1 - 2 / (e^2x + 1).
[[gnu::always_inline]] inline V soft_cap(V s, float cap) {
  const V e = exp(mul(s, set1(2 / cap)));
  const V t = sub(set1(1.0f), div(set1(2.0f), add(e, set1(1.0f))));
  return mul(t, set1(cap));
}

// Scores of one query become weights; visible keys are [low, high). Updates the running maximum
// and sum, and scales the running output where the maximum moved.
void soften(const AttentionArgs& a, float* s, int vectors, int low, int high, float* max_,
            float* sum, float* out, int64_t dp) {
  if (high <= low) {
    for (int v = 0; v < vectors; ++v) store(s + v * kLanes, zero());
    return;
  }
  if (a.softcap > 0) {
    for (int v = 0; v < vectors; ++v) {
      store(s + v * kLanes, soft_cap(load(s + v * kLanes), a.softcap));
    }
  }
  for (int j = 0; j < low; ++j) s[j] = kNone;
  for (int j = high; j < vectors * kLanes; ++j) s[j] = kNone;
  V m = load(s);
  for (int v = 1; v < vectors; ++v) m = max(load(s + v * kLanes), m);
  const float chunk_max = reduce_max(m), old_max = *max_;
  const float new_max = chunk_max > old_max ? chunk_max : old_max;
  const V top = set1(new_max);
  V total = zero();
  for (int v = 0; v < vectors; ++v) {
    const V e = exp(sub(load(s + v * kLanes), top));
    store(s + v * kLanes, e);
    total = add(total, e);
  }
  const float added = reduce_add(total);
  if (new_max != old_max) {
    float shrink[kLanes];
    const V f = exp(set1(old_max - new_max));
    store(shrink, f);
    for (int64_t d = 0; d < dp; d += kLanes) store(out + d, mul(load(out + d), f));
    *sum *= shrink[0];
    *max_ = new_max;
  }
  *sum += added;
}

void load_queries(const AttentionArgs& a, const AttentionPiece& p, float* q) {
  const int64_t dp = padded(a.dim);
  for (int t = 0; t < p.count; ++t) {
    for (int g = 0; g < a.group; ++g, q += dp) {
      const float* from = a.q + (p.token_begin + t) * a.q_stride +
                          (int64_t{p.kv_head} * a.group + g) * a.q_head_stride;
      for (int d = 0; d < a.dim; ++d) q[d] = from[d] * a.scale;
    }
  }
}

// One span from nothing: b.max, b.sum and b.out of every query row.
void run_span(const AttentionArgs& a, const AttentionPiece& p, int span, const Buffers& b) {
  const int64_t dp = padded(a.dim);
  const int rows = p.count * a.group;
  for (int r = 0; r < rows; ++r) {
    b.max[r] = kNone;
    b.sum[r] = 0;
  }
  for (int64_t i = 0; i < rows * dp; i += kLanes) store(b.out + i, zero());
  const int first_visible = a.window > 0 && p.position >= a.window ? p.position - a.window + 1 : 0;
  const int span_first = span * kKeySpan, span_last = span_first + kKeySpan;
  const int end = p.position + p.count < span_last ? p.position + p.count : span_last;
  int begin = first_visible / kKeyChunk * kKeyChunk;
  begin = begin > span_first ? begin : span_first;
  if (begin >= end) return;
  const bool few = rows <= kFewRows && a.dim % 16 == 0;
  Rows here, next;
  locate(a, p, begin, end, &here);
  for (; begin < end; begin += kKeyChunk) {
    next.count = 0;
    if (begin + kKeyChunk < end) locate(a, p, begin + kKeyChunk, end, &next);
    const int vectors = (here.count + kLanes - 1) / kLanes;
    if (few && a.bf16) {
      run_few_scores<true>(a, rows, b.q, dp, here, next, b.scores);
    } else if (few) {
      run_few_scores<false>(a, rows, b.q, dp, here, next, b.scores);
    } else {
      a.bf16 ? load_keys<true>(a, here, next, b.keys) : load_keys<false>(a, here, next, b.keys);
      multiply(rows, vectors, b.q, dp, b.keys, kKeyChunk, a.dim, b.scores, kKeyChunk, false);
    }
    for (int r = 0; r < rows; ++r) {
      const int position = p.position + r / a.group;
      int low = a.window > 0 ? position - a.window + 1 - begin : 0;
      low = low > 0 ? low : 0;
      int high = position + 1 - begin;
      high = high < here.count ? high : here.count;
      soften(a, b.scores + r * kKeyChunk, vectors, low, high, b.max + r, b.sum + r, b.out + r * dp,
             dp);
    }
    if (few && a.bf16) {
      run_few_values<true>(a, rows, b.scores, here, next, b.out, dp);
    } else if (few) {
      run_few_values<false>(a, rows, b.scores, here, next, b.out, dp);
    } else {
      load_values(a, here, next, b.values);
      multiply(rows, int((a.dim + kLanes - 1) / kLanes), b.scores, kKeyChunk, b.values, dp,
               here.count, b.out, dp, true);
    }
    here = next;
  }
}

// total = total joined with one span's result.
void join(int rows, int64_t dp, const AttentionPartial& s, const Buffers& b) {
  for (int r = 0; r < rows; ++r) {
    if (s.max[r] == kNone) continue;  // saw no key
    const float top = s.max[r] > b.total_max[r] ? s.max[r] : b.total_max[r];
    const V f = exp(set1(b.total_max[r] - top)), g = exp(set1(s.max[r] - top));
    float old_factor[kLanes], new_factor[kLanes];
    store(old_factor, f);
    store(new_factor, g);
    float* total = b.total_out + r * dp;
    for (int64_t d = 0; d < dp; d += kLanes) {
      store(total + d, fma(load(total + d), f, mul(load(s.out + r * dp + d), g)));
    }
    b.total_sum[r] = b.total_sum[r] * old_factor[0] + s.sum[r] * new_factor[0];
    b.total_max[r] = top;
  }
}

void clear_total(int rows, int64_t dp, const Buffers& b) {
  for (int r = 0; r < rows; ++r) {
    b.total_max[r] = kNone;
    b.total_sum[r] = 0;
  }
  for (int64_t i = 0; i < rows * dp; i += kLanes) store(b.total_out + i, zero());
}

void write_out(const AttentionArgs& a, const AttentionPiece& p, const float* sum,
               const float* out) {
  const int64_t dp = padded(a.dim);
  for (int t = 0, r = 0; t < p.count; ++t) {
    for (int g = 0; g < a.group; ++g, ++r) {
      float* to = a.out + (p.token_begin + t) * a.out_stride +
                  (int64_t{p.kv_head} * a.group + g) * a.out_head_stride;
      const float f = 1.0f / sum[r];
      for (int d = 0; d < a.dim; ++d) to[d] = out[r * dp + d] * f;
    }
  }
}

void attention(const AttentionArgs& a, const AttentionPiece& p, float* scratch) {
  const Buffers b = cut(scratch, a.dim);
  const int rows = p.count * a.group;
  load_queries(a, p, b.q);
  if (p.span_end - p.span_begin == 1) {  // joining it to nothing would not change a bit
    run_span(a, p, p.span_begin, b);
    write_out(a, p, b.sum, b.out);
    return;
  }
  clear_total(rows, padded(a.dim), b);
  for (int span = p.span_begin; span < p.span_end; ++span) {
    run_span(a, p, span, b);
    join(rows, padded(a.dim), {b.max, b.sum, b.out}, b);
  }
  write_out(a, p, b.total_sum, b.total_out);
}

void attention_span(const AttentionArgs& a, const AttentionPiece& p, float* scratch,
                    const AttentionPartial& partial) {
  Buffers b = cut(scratch, a.dim);
  b.max = partial.max;
  b.sum = partial.sum;
  b.out = partial.out;
  load_queries(a, p, b.q);
  run_span(a, p, p.span_begin, b);
}

void attention_join(const AttentionArgs& a, const AttentionPiece& p,
                    const AttentionPartial* partials, float* scratch) {
  const Buffers b = cut(scratch, a.dim);
  const int rows = p.count * a.group;
  clear_total(rows, padded(a.dim), b);
  for (int i = 0; i < p.span_end - p.span_begin; ++i) join(rows, padded(a.dim), partials[i], b);
  write_out(a, p, b.total_sum, b.total_out);
}

}  // namespace

void fill_attention(Kernels* k) {
  k->attention_scratch = attention_scratch;
  k->attention = attention;
  k->attention_span = attention_span;
  k->attention_join = attention_join;
}

}  // namespace sluice::cpu::SLUICE_ISA
