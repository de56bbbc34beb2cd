#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

// Elementwise ops and the norm, a row at a time.
namespace sluice::cpu::SLUICE_ISA {
namespace {

// Four running sums, then one: the order is the row's length and nothing else.
float sum_of_squares(const float* x, int64_t d) {
  V s[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= d; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const V v = load(x + i + j * kLanes);
      s[j] = fma(v, v, s[j]);
    }
  }
  for (; i < d; i += kLanes) {
    const V v = d - i < kLanes ? load_n(x + i, int(d - i)) : load(x + i);
    s[0] = fma(v, v, s[0]);
  }
  return reduce_add(add(add(s[0], s[1]), add(s[2], s[3])));
}

void rms_norm(float* out, const float* x, const float* weight, int64_t d, float eps) {
  const float mean = sum_of_squares(x, d) / float(d);
  const V scale = set1(1.0f / __builtin_sqrtf(mean + eps));
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) {
    store(out + i, mul(mul(load(x + i), scale), load(weight + i)));
  }
  if (i < d) {
    const int n = int(d - i);
    store_n(out + i, mul(mul(load_n(x + i, n), scale), load_n(weight + i, n)), n);
  }
}

float sum_of(const float* x, int64_t d) {
  V s[2] = {zero(), zero()};
  int64_t i = 0;
  for (; i + 2 * kLanes <= d; i += 2 * kLanes) {
    s[0] = add(s[0], load(x + i));
    s[1] = add(s[1], load(x + i + kLanes));
  }
  for (; i < d; i += kLanes) {
    s[0] = add(s[0], d - i < kLanes ? load_n(x + i, int(d - i)) : load(x + i));
  }
  return reduce_add(add(s[0], s[1]));
}

// body(vector, n) gives the new first n lanes of each vector of out, from x; n is kLanes but at the
// end.
template <class Body>
[[gnu::always_inline]] inline void each_vector(float* out, const float* x, int64_t d, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) store(out + i, body(load(x + i), i, kLanes));
  if (i < d) {
    const int n = int(d - i);
    store_n(out + i, body(load_n(x + i, n), i, n), n);
  }
}

[[gnu::always_inline]] inline V load_up_to(const float* x, int n) {
  return n == kLanes ? load(x) : load_n(x, n);
}

// The mean first, then the squares around it: squares of a large mean would drown the variance.
void layer_norm(float* out, const float* x, const float* weight, const float* bias, int64_t d,
                float eps) {
  const V mean = set1(sum_of(x, d) / float(d));
  each_vector(out, x, d, [&](V v, int64_t, int) { return sub(v, mean); });
  const V scale = set1(1.0f / __builtin_sqrtf(sum_of_squares(out, d) / float(d) + eps));
  each_vector(out, out, d, [&](V v, int64_t i, int n) {
    const V y = mul(mul(v, scale), load_up_to(weight + i, n));
    return bias ? add(y, load_up_to(bias + i, n)) : y;
  });
}

void add_rows(float* out, const float* a, const float* b, int64_t d) {
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) store(out + i, add(load(a + i), load(b + i)));
  if (i < d) {
    const int n = int(d - i);
    store_n(out + i, add(load_n(a + i, n), load_n(b + i, n)), n);
  }
}

void silu_mul(float* out, const float* gate, const float* up, int64_t d) {
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) store(out + i, mul(silu(load(gate + i)), load(up + i)));
  if (i < d) {
    const int n = int(d - i);
    store_n(out + i, mul(silu(load_n(gate + i, n)), load_n(up + i, n)), n);
  }
}

// x * Phi(x) = max(x, 0) - |x| * Phi(-|x|), with Abramowitz and Stegun's 7.1.26 for the tail:
// within 1e-7 of x, and no difference of two nearly equal numbers.
[[gnu::always_inline]] inline V gelu_of(V x) {
  const V size = max(x, sub(zero(), x));
  const V t = div(set1(1.0f), fma(size, set1(0.3275911f * 0.70710678f), set1(1.0f)));
  V p = set1(1.061405429f);
  p = fma(p, t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  const V tail = mul(mul(mul(p, t), set1(0.5f)), exp(mul(mul(size, size), set1(-0.5f))));
  return sub(max(x, zero()), mul(size, tail));
}

// x / 2 * (1 + tanh(u)) = x / (1 + e^-2u).
[[gnu::always_inline]] inline V gelu_tanh_of(V x) {
  constexpr float kRootOf2OverPi = 0.7978845608028654f;
  const V cube = mul(mul(x, x), x);
  const V u = mul(fma(cube, set1(0.044715f), x), set1(kRootOf2OverPi));
  return div(x, add(set1(1.0f), exp(mul(u, set1(-2.0f)))));
}

void gelu_mul(float* out, const float* gate, const float* up, int64_t d) {
  each_vector(out, gate, d,
              [&](V g, int64_t i, int n) { return mul(gelu_tanh_of(g), load_up_to(up + i, n)); });
}

void silu_row(float* x, int64_t d) {
  each_vector(x, x, d, [](V v, int64_t, int) { return silu(v); });
}

void gelu(float* x, int64_t d) {
  each_vector(x, x, d, [](V v, int64_t, int) { return gelu_of(v); });
}

void gelu_tanh(float* x, int64_t d) {
  each_vector(x, x, d, [](V v, int64_t, int) { return gelu_tanh_of(v); });
}

void relu(float* x, int64_t d) {
  each_vector(x, x, d, [](V v, int64_t, int) { return max(v, zero()); });
}

void scale(float* x, int64_t d, float factor, float softcap) {
  const V f = set1(factor);
  if (softcap > 0) {
    each_vector(x, x, d, [&](V v, int64_t, int) { return soft_cap(mul(v, f), softcap); });
  } else {
    each_vector(x, x, d, [&](V v, int64_t, int) { return mul(v, f); });
  }
}

void rope(float* x, const float* cos, const float* sin, int64_t half) {
  float* y = x + half;
  for (int64_t i = 0; i < half; i += kLanes) {
    const int n = half - i < kLanes ? int(half - i) : kLanes;
    const bool whole = n == kLanes;
    const V a = whole ? load(x + i) : load_n(x + i, n);
    const V b = whole ? load(y + i) : load_n(y + i, n);
    const V c = whole ? load(cos + i) : load_n(cos + i, n);
    const V s = whole ? load(sin + i) : load_n(sin + i, n);
    const V p = sub(mul(a, c), mul(b, s)), q = add(mul(b, c), mul(a, s));
    if (whole) {
      store(x + i, p);
      store(y + i, q);
    } else {
      store_n(x + i, p, n);
      store_n(y + i, q, n);
    }
  }
}

void to_bf16(uint16_t* out, const float* x, int64_t d) {
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) store_bf16(out + i, load(x + i));
  if (i < d) {
    const int n = int(d - i);
    uint16_t last[kLanes];
    store_bf16(last, load_n(x + i, n));
    __builtin_memcpy(out + i, last, n * sizeof(uint16_t));
  }
}

void from_f16(float* out, const uint16_t* x, int64_t d) {
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes) store(out + i, load_f16(x + i));
  if (i < d) {
    const int n = int(d - i);
    uint16_t last[kLanes] = {};
    __builtin_memcpy(last, x + i, n * sizeof(uint16_t));
    store_n(out + i, load_f16(last), n);
  }
}

}  // namespace

void fill_rows(Kernels* k) {
  k->rms_norm = rms_norm;
  k->layer_norm = layer_norm;
  k->add = add_rows;
  k->silu_mul = silu_mul;
  k->gelu_mul = gelu_mul;
  k->silu = silu_row;
  k->gelu = gelu;
  k->gelu_tanh = gelu_tanh;
  k->relu = relu;
  k->scale = scale;
  k->rope = rope;
  k->to_bf16 = to_bf16;
  k->from_f16 = from_f16;
}

}  // namespace sluice::cpu::SLUICE_ISA
