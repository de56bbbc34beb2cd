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
  k->add = add_rows;
  k->silu_mul = silu_mul;
  k->rope = rope;
  k->to_bf16 = to_bf16;
  k->from_f16 = from_f16;
}

}  // namespace sluice::cpu::SLUICE_ISA
