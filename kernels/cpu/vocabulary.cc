#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

// Passes over one row of logits. NaN compares false everywhere, so it counts as -inf.
namespace sluice::cpu::SLUICE_ISA {
namespace {

float row_max(const float* x, int64_t n) {
  const V low = set1(-__builtin_inff());
  V m[4] = {low, low, low, low};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) m[j] = max(load(x + i + j * kLanes), m[j]);
  }
  float best = reduce_max(max(max(m[0], m[1]), max(m[2], m[3])));
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

int64_t next_above(const float* x, int64_t begin, int64_t n, float bound) {
  const V b = set1(bound);
  int64_t i = begin;
  for (; i + kLanes <= n; i += kLanes) {
    const uint32_t bits = bits_gt(load(x + i), b);
    if (bits) return i + __builtin_ctz(bits);
  }
  for (; i < n; ++i) {
    if (x[i] > bound) return i;
  }
  return n;
}

int64_t next_at_least(const float* x, int64_t begin, int64_t n, float bound) {
  const V b = set1(bound);
  int64_t i = begin;
  for (; i + kLanes <= n; i += kLanes) {
    const uint32_t bits = bits_ge(load(x + i), b);
    if (bits) return i + __builtin_ctz(bits);
  }
  for (; i < n; ++i) {
    if (x[i] >= bound) return i;
  }
  return n;
}

int64_t next_between(const float* x, int64_t begin, int64_t n, float low, float high) {
  const V l = set1(low), h = set1(high);
  int64_t i = begin;
  for (; i + kLanes <= n; i += kLanes) {
    const V v = load(x + i);
    const uint32_t bits = bits_ge(v, l) & bits_gt(h, v);
    if (bits) return i + __builtin_ctz(bits);
  }
  for (; i < n; ++i) {
    if (x[i] >= low && x[i] < high) return i;
  }
  return n;
}

void drop_below(float* x, int64_t n, float bound) {
  const V b = set1(bound);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const V v = load(x + i);
    store(x + i, keep_where_ge(v, v, b));
  }
  for (; i < n; ++i) {
    if (!(x[i] >= bound)) x[i] = 0;
  }
}

float sum_exp(float* out, const float* x, int64_t n, float maximum, float factor) {
  const V top = set1(maximum), scale = set1(factor);
  V s[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const V e = exp(mul(sub(load(x + i + j * kLanes), top), scale));
      s[j] = add(s[j], e);
      if (out) store(out + i + j * kLanes, e);
    }
  }
  float sum = reduce_add(add(add(s[0], s[1]), add(s[2], s[3])));
  while (i < n) {
    const int count = n - i < kLanes ? int(n - i) : kLanes;
    float e[kLanes];
    store(e, exp(mul(sub(load_n(x + i, count), top), scale)));
    for (int j = 0; j < count; ++j, ++i) {
      sum += e[j];
      if (out) out[i] = e[j];
    }
  }
  return sum;
}

int64_t mass_at_least(const float* x, int64_t n, float bound, float* sum) {
  const V b = set1(bound);
  V s = zero();
  int64_t i = 0, count = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const V v = load(x + i);
    count += __builtin_popcount(bits_ge(v, b));
    s = add(s, keep_where_ge(v, v, b));
  }
  float total = reduce_add(s);
  for (; i < n; ++i) {
    if (x[i] >= bound) {
      ++count;
      total += x[i];
    }
  }
  *sum = total;
  return count;
}

}  // namespace

void fill_vocabulary(Kernels* k) {
  k->row_max = row_max;
  k->next_above = next_above;
  k->next_at_least = next_at_least;
  k->next_between = next_between;
  k->drop_below = drop_below;
  k->sum_exp = sum_exp;
  k->mass_at_least = mass_at_least;
}

}  // namespace sluice::cpu::SLUICE_ISA
