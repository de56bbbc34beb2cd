#include "kernels/cpu/attention_cache.h"
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

// Takes `slope` from the scores of one query for each token by which a key is further from it;
// `first` is what the first key's position is ahead of the query's. Exact in f32 up to 2^24 tokens.
void add_alibi(float* s, int vectors, float slope, int first) {
  float steps[kLanes];
  for (int i = 0; i < kLanes; ++i) steps[i] = float(first + i);
  V ahead = load(steps);
  const V factor = set1(slope), width = set1(float(kLanes));
  for (int v = 0; v < vectors; ++v, ahead = add(ahead, width)) {
    store(s + v * kLanes, fma(factor, ahead, load(s + v * kLanes)));
  }
}

// Scores of one query become weights; visible keys are [low, high). Updates the running maximum
// and sum, and scales the running output where the maximum moved. The first key is `ahead` of the
// query.
void soften(const AttentionArgs& a, float* s, int vectors, int low, int high, float slope,
            int ahead, float* max_, float* sum, float* out, int64_t dp) {
  if (high <= low) {
    for (int v = 0; v < vectors; ++v) store(s + v * kLanes, zero());
    return;
  }
  if (a.softcap > 0) {
    for (int v = 0; v < vectors; ++v) {
      store(s + v * kLanes, soft_cap(load(s + v * kLanes), a.softcap));
    }
  }
  if (a.alibi) add_alibi(s, vectors, slope, ahead);
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
                          (int64_t{p.kv_head} * a.of_kv_head + g) * a.q_head_stride;
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
  const bool few = rows <= kFewRows && a.dim % 16 == 0 && a.kv != KvType::e4m3;
  Rows here, next;
  locate(a, p, begin, first_visible, end, &here);
  for (; begin < end; begin += kKeyChunk) {
    next.count = 0;
    if (begin + kKeyChunk < end) locate(a, p, begin + kKeyChunk, 0, end, &next);
    const int vectors = (here.count + kLanes - 1) / kLanes;
    if (few && a.kv == KvType::bf16) {
      run_few_scores<true>(a, rows, b.q, dp, here, next, b.scores);
    } else if (few) {
      run_few_scores<false>(a, rows, b.q, dp, here, next, b.scores);
    } else {
      load_all_keys(a, here, next, b.keys, b.values);
      multiply(rows, vectors, b.q, dp, b.keys, kKeyChunk, a.dim, b.scores, kKeyChunk, false);
    }
    for (int r = 0; r < rows; ++r) {
      const int position = p.position + r / a.group;
      int low = a.window > 0 ? position - a.window + 1 - begin : 0;
      low = low > 0 ? low : 0;
      int high = position + 1 - begin;
      high = high < here.count ? high : here.count;
      const float slope = a.alibi ? a.alibi[p.kv_head * a.of_kv_head + r % a.group] : 0;
      soften(a, b.scores + r * kKeyChunk, vectors, low, high, slope, begin - position, b.max + r,
             b.sum + r, b.out + r * dp, dp);
    }
    if (few && a.kv == KvType::bf16) {
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
                  (int64_t{p.kv_head} * a.of_kv_head + g) * a.out_head_stride;
      const float f = a.value_scale / sum[r];
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
