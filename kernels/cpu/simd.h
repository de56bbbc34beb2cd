#pragma once

#include <cstddef>
#include <cstdint>

#if defined(SLUICE_ISA_AVX512) || defined(SLUICE_ISA_AVX2)
#include <immintrin.h>
#endif

// One vector vocabulary for every instruction set. Included only by the files that CMake compiles
// once per set, with SLUICE_ISA naming the namespace. Those files must define no inline function
// outside that namespace (no std:: templates either): the linker keeps one copy of an inline
// function, and it could be one with instructions the machine lacks. A test looks at the symbols.
//
// V holds kLanes floats. fma() is one rounding where the set has it and two in the portable set;
// compilation forbids contraction, so what is written is what is computed.
namespace sluice::cpu::SLUICE_ISA {

#if defined(SLUICE_ISA_AVX512)

using V = __m512;
inline constexpr int kLanes = 16;

[[gnu::always_inline]] inline V zero() { return _mm512_setzero_ps(); }
[[gnu::always_inline]] inline V set1(float x) { return _mm512_set1_ps(x); }
[[gnu::always_inline]] inline V load(const float* p) { return _mm512_loadu_ps(p); }
[[gnu::always_inline]] inline void store(float* p, V v) { _mm512_storeu_ps(p, v); }
// The first n < kLanes elements; the others are zero, and are not touched by a store.
[[gnu::always_inline]] inline V load_n(const float* p, int n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
[[gnu::always_inline]] inline void store_n(float* p, V v, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
[[gnu::always_inline]] inline V add(V a, V b) { return _mm512_add_ps(a, b); }
[[gnu::always_inline]] inline V sub(V a, V b) { return _mm512_sub_ps(a, b); }
[[gnu::always_inline]] inline V mul(V a, V b) { return _mm512_mul_ps(a, b); }
[[gnu::always_inline]] inline V div(V a, V b) { return _mm512_div_ps(a, b); }
[[gnu::always_inline]] inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
// The larger; b where either is NaN.
[[gnu::always_inline]] inline V max(V a, V b) { return _mm512_max_ps(a, b); }
[[gnu::always_inline]] inline V min(V a, V b) { return _mm512_min_ps(a, b); }
[[gnu::always_inline]] inline V round_nearest(V x) { return _mm512_roundscale_ps(x, 8); }
// x * 2^n for integral n in [-126, 127].
[[gnu::always_inline]] inline V scale_by_power(V x, V n) { return _mm512_scalef_ps(x, n); }
// `value` where x >= bound, else zero.
[[gnu::always_inline]] inline V keep_where_ge(V value, V x, V bound) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_GE_OQ), value);
}
// One bit per lane.
[[gnu::always_inline]] inline uint32_t bits_gt(V a, V b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
[[gnu::always_inline]] inline uint32_t bits_ge(V a, V b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
[[gnu::always_inline]] inline V load_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
// 2 * kLanes values as (low halves, high halves) of kLanes 32-bit words.
[[gnu::always_inline]] inline void load_bf16_pairs(const void* p, V* low, V* high) {
  const __m512i raw = _mm512_loadu_si512(p);
  *low = _mm512_castsi512_ps(_mm512_slli_epi32(raw, 16));
  *high = _mm512_castsi512_ps(_mm512_and_si512(raw, _mm512_set1_epi32(int(0xffff0000))));
}
[[gnu::always_inline]] inline V low_halves(V pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
}
[[gnu::always_inline]] inline V high_halves(V pairs) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(pairs), _mm512_set1_epi32(int(0xffff0000))));
}
[[gnu::always_inline]] inline V load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}
// e4m3 / 256 from the low (high) bytes of kLanes 16-bit words; NaN is not known. An f16 has the
// same bits seven places up, and an exponent whose bias is 8 more.
[[gnu::always_inline]] inline V e4m3_in_high_bytes(__m256i words) {
  // The shift copies the sign into the bit below it, which the mask clears.
  const __m256i moved = _mm256_srai_epi16(words, 1);
  return _mm512_cvtph_ps(_mm256_and_si256(moved, _mm256_set1_epi16(int16_t(0xbf80))));
}
[[gnu::always_inline]] inline V low_e4m3(const void* p) {
  return e4m3_in_high_bytes(_mm256_slli_epi16(_mm256_loadu_si256((const __m256i*)p), 8));
}
[[gnu::always_inline]] inline V high_e4m3(const void* p) {
  return e4m3_in_high_bytes(_mm256_loadu_si256((const __m256i*)p));
}
// The same of kLanes codes that lie one after the other.
[[gnu::always_inline]] inline V load_e4m3(const uint8_t* p) {
  const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p));
  return e4m3_in_high_bytes(_mm256_slli_epi16(words, 8));
}
// Round to nearest even; NaN stays NaN.
[[gnu::always_inline]] inline void store_bf16(uint16_t* p, V v) {
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  r = _mm512_mask_mov_epi32(r, nan, _mm512_set1_epi32(0x7fc00000));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}
[[gnu::always_inline]] inline float reduce_add(V v) { return _mm512_reduce_add_ps(v); }
[[gnu::always_inline]] inline float reduce_max(V v) { return _mm512_reduce_max_ps(v); }
[[gnu::always_inline]] inline void prefetch(const void* p) {
  _mm_prefetch((const char*)p, _MM_HINT_T0);
}

// out[w] = the 32-bit words at byte at + 4 * w of kLanes rows, w = 0..3. Lanes of 128 bits are put
// together by loads, so that only a 4 x 4 transposition is left for the shuffle port.
[[gnu::always_inline]] inline void load_words(const char* const* rows, int64_t at, V* out) {
  V r[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto lane = [&](int row) { return _mm_loadu_ps((const float*)(rows[row] + at)); };
    r[i] = _mm512_castps128_ps512(lane(i));
    r[i] = _mm512_insertf32x4(r[i], lane(i + 4), 1);
    r[i] = _mm512_insertf32x4(r[i], lane(i + 8), 2);
    r[i] = _mm512_insertf32x4(r[i], lane(i + 12), 3);
  }
  const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(r[0], r[1]));
  const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(r[0], r[1]));
  const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(r[2], r[3]));
  const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(r[2], r[3]));
  out[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
  out[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
  out[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
  out[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
}

#elif defined(SLUICE_ISA_AVX2)

using V = __m256;
inline constexpr int kLanes = 8;

[[gnu::always_inline]] inline __m256i lane_mask(int n) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes);
}
[[gnu::always_inline]] inline V zero() { return _mm256_setzero_ps(); }
[[gnu::always_inline]] inline V set1(float x) { return _mm256_set1_ps(x); }
[[gnu::always_inline]] inline V load(const float* p) { return _mm256_loadu_ps(p); }
[[gnu::always_inline]] inline void store(float* p, V v) { _mm256_storeu_ps(p, v); }
[[gnu::always_inline]] inline V load_n(const float* p, int n) {
  return _mm256_maskload_ps(p, lane_mask(n));
}
[[gnu::always_inline]] inline void store_n(float* p, V v, int n) {
  _mm256_maskstore_ps(p, lane_mask(n), v);
}
[[gnu::always_inline]] inline V add(V a, V b) { return _mm256_add_ps(a, b); }
[[gnu::always_inline]] inline V sub(V a, V b) { return _mm256_sub_ps(a, b); }
[[gnu::always_inline]] inline V mul(V a, V b) { return _mm256_mul_ps(a, b); }
[[gnu::always_inline]] inline V div(V a, V b) { return _mm256_div_ps(a, b); }
[[gnu::always_inline]] inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
[[gnu::always_inline]] inline V max(V a, V b) { return _mm256_max_ps(a, b); }
[[gnu::always_inline]] inline V min(V a, V b) { return _mm256_min_ps(a, b); }
[[gnu::always_inline]] inline V round_nearest(V x) { return _mm256_round_ps(x, 8); }
[[gnu::always_inline]] inline V scale_by_power(V x, V n) {
  const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
}
[[gnu::always_inline]] inline V keep_where_ge(V value, V x, V bound) {
  return _mm256_and_ps(value, _mm256_cmp_ps(x, bound, _CMP_GE_OQ));
}
[[gnu::always_inline]] inline uint32_t bits_gt(V a, V b) {
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
}
[[gnu::always_inline]] inline uint32_t bits_ge(V a, V b) {
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
}
[[gnu::always_inline]] inline V load_bf16(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
[[gnu::always_inline]] inline V low_halves(V pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16));
}
[[gnu::always_inline]] inline V high_halves(V pairs) {
  return _mm256_and_ps(pairs, _mm256_castsi256_ps(_mm256_set1_epi32(int(0xffff0000))));
}
[[gnu::always_inline]] inline void load_bf16_pairs(const void* p, V* low, V* high) {
  const V raw = _mm256_loadu_ps((const float*)p);
  *low = low_halves(raw);
  *high = high_halves(raw);
}
[[gnu::always_inline]] inline V load_f16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
[[gnu::always_inline]] inline V e4m3_in_high_bytes(__m128i words) {
  const __m128i moved = _mm_srai_epi16(words, 1);
  return _mm256_cvtph_ps(_mm_and_si128(moved, _mm_set1_epi16(int16_t(0xbf80))));
}
[[gnu::always_inline]] inline V low_e4m3(const void* p) {
  return e4m3_in_high_bytes(_mm_slli_epi16(_mm_loadu_si128((const __m128i*)p), 8));
}
[[gnu::always_inline]] inline V high_e4m3(const void* p) {
  return e4m3_in_high_bytes(_mm_loadu_si128((const __m128i*)p));
}
[[gnu::always_inline]] inline V load_e4m3(const uint8_t* p) {
  const __m128i codes = _mm_loadl_epi64((const __m128i*)p);
  return e4m3_in_high_bytes(_mm_unpacklo_epi8(_mm_setzero_si128(), codes));
}
[[gnu::always_inline]] inline void store_bf16(uint16_t* p, V v) {
  const __m256i u = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  r = _mm256_blendv_epi8(r, _mm256_set1_epi32(0x7fc00000), nan);
  r = _mm256_srli_epi32(r, 16);
  const __m128i lo = _mm256_castsi256_si128(r), hi = _mm256_extracti128_si256(r, 1);
  _mm_storeu_si128((__m128i*)p, _mm_packus_epi32(lo, hi));
}
[[gnu::always_inline]] inline float reduce_add(V v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
[[gnu::always_inline]] inline float reduce_max(V v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
[[gnu::always_inline]] inline void prefetch(const void* p) {
  _mm_prefetch((const char*)p, _MM_HINT_T0);
}
[[gnu::always_inline]] inline void load_words(const char* const* rows, int64_t at, V* out) {
  V r[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_castps128_ps256(_mm_loadu_ps((const float*)(rows[i] + at)));
    r[i] = _mm256_insertf128_ps(r[i], _mm_loadu_ps((const float*)(rows[i + 4] + at)), 1);
  }
  const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(r[0], r[1]));
  const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(r[0], r[1]));
  const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(r[2], r[3]));
  const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(r[2], r[3]));
  out[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
  out[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
  out[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
  out[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
}

#else  // portable: GCC's generic vectors, any machine

typedef float V __attribute__((vector_size(16)));
typedef uint32_t VU __attribute__((vector_size(16)));
typedef int32_t VI __attribute__((vector_size(16)));
inline constexpr int kLanes = 4;

[[gnu::always_inline]] inline V zero() { return V{0, 0, 0, 0}; }
[[gnu::always_inline]] inline V set1(float x) { return V{x, x, x, x}; }
[[gnu::always_inline]] inline V load(const float* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
[[gnu::always_inline]] inline void store(float* p, V v) { __builtin_memcpy(p, &v, sizeof v); }
[[gnu::always_inline]] inline V load_n(const float* p, int n) {
  V v = zero();
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
[[gnu::always_inline]] inline void store_n(float* p, V v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}
[[gnu::always_inline]] inline V add(V a, V b) { return a + b; }
[[gnu::always_inline]] inline V sub(V a, V b) { return a - b; }
[[gnu::always_inline]] inline V mul(V a, V b) { return a * b; }
[[gnu::always_inline]] inline V div(V a, V b) { return a / b; }
[[gnu::always_inline]] inline V fma(V a, V b, V c) { return a * b + c; }
[[gnu::always_inline]] inline V max(V a, V b) { return a > b ? a : b; }
[[gnu::always_inline]] inline V min(V a, V b) { return a < b ? a : b; }
[[gnu::always_inline]] inline V round_nearest(V x) {
  const V magic = set1(12582912.0f);  // 1.5 * 2^23: the sum has no fraction bits left
  return (x + magic) - magic;
}
[[gnu::always_inline]] inline V scale_by_power(V x, V n) {
  const VI e = (__builtin_convertvector(n, VI) + 127) << 23;
  return x * (V)e;
}
[[gnu::always_inline]] inline V keep_where_ge(V value, V x, V bound) {
  return (V)((VI)value & (VI)(x >= bound));
}
[[gnu::always_inline]] inline uint32_t bits_of_mask(VI m) {
  uint32_t b = 0;
  for (int i = 0; i < kLanes; ++i) b |= uint32_t(m[i] & 1) << i;
  return b;
}
[[gnu::always_inline]] inline uint32_t bits_gt(V a, V b) { return bits_of_mask(a > b); }
[[gnu::always_inline]] inline uint32_t bits_ge(V a, V b) { return bits_of_mask(a >= b); }
[[gnu::always_inline]] inline V load_bf16(const uint16_t* p) {
  return (V)(VU{p[0], p[1], p[2], p[3]} << 16);
}
[[gnu::always_inline]] inline V low_halves(V pairs) { return (V)((VU)pairs << 16); }
[[gnu::always_inline]] inline V high_halves(V pairs) { return (V)((VU)pairs & 0xffff0000u); }
[[gnu::always_inline]] inline void load_bf16_pairs(const void* p, V* low, V* high) {
  V raw;
  __builtin_memcpy(&raw, p, sizeof raw);
  *low = low_halves(raw);
  *high = high_halves(raw);
}
[[gnu::always_inline]] inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 0x3ff;
  uint32_t u;
  if (e == 31) {
    u = sign | 0x7f800000 | (m << 13);
  } else if (e != 0) {
    u = sign | ((e + 112) << 23) | (m << 13);
  } else {  // zero or subnormal: m * 2^-24
    const float f = float(m) * 5.9604644775390625e-8f;
    __builtin_memcpy(&u, &f, 4);
    u |= sign;
  }
  float r;
  __builtin_memcpy(&r, &u, 4);
  return r;
}
[[gnu::always_inline]] inline V load_f16(const uint16_t* p) {
  return V{f16_to_f32(p[0]), f16_to_f32(p[1]), f16_to_f32(p[2]), f16_to_f32(p[3])};
}
// e4m3 / 256 of codes in words of 32 bits. Below 8, the subnormals: 2^-14 * (1 + code / 8), less
// the 2^-14.
[[gnu::always_inline]] inline V e4m3_to_f32(VU codes) {
  const VU rest = codes & 0x7f;
  const VU subnormal = (VU)(rest < 8);
  const V one = (V)((rest << 20) + (112u << 23) + (subnormal & (1u << 23)));
  const V excess = (V)(subnormal & (113u << 23));
  return (V)((VU)(one - excess) | (codes & 0x80) << 24);
}
[[gnu::always_inline]] inline V low_e4m3(const void* p) {
  const auto* b = static_cast<const uint8_t*>(p);
  return e4m3_to_f32(VU{b[0], b[2], b[4], b[6]});
}
[[gnu::always_inline]] inline V high_e4m3(const void* p) {
  const auto* b = static_cast<const uint8_t*>(p);
  return e4m3_to_f32(VU{b[1], b[3], b[5], b[7]});
}
[[gnu::always_inline]] inline V load_e4m3(const uint8_t* p) {
  return e4m3_to_f32(VU{p[0], p[1], p[2], p[3]});
}
[[gnu::always_inline]] inline void store_bf16(uint16_t* p, V v) {
  VU u = (VU)v;
  u = u + 0x7fff + ((u >> 16) & 1);
  const VI nan = v != v;
  for (int i = 0; i < kLanes; ++i) p[i] = nan[i] ? 0x7fc0 : uint16_t(u[i] >> 16);
}
[[gnu::always_inline]] inline float reduce_add(V v) { return (v[0] + v[2]) + (v[1] + v[3]); }
[[gnu::always_inline]] inline float reduce_max(V v) {
  const float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
  return a > b ? a : b;
}
[[gnu::always_inline]] inline void prefetch(const void* p) { __builtin_prefetch(p); }
[[gnu::always_inline]] inline void load_words(const char* const* rows, int64_t at, V* out) {
  V r[4];
  for (int i = 0; i < 4; ++i) __builtin_memcpy(&r[i], rows[i] + at, sizeof r[i]);
  const V a = __builtin_shuffle(r[0], r[1], VI{0, 4, 1, 5});
  const V b = __builtin_shuffle(r[0], r[1], VI{2, 6, 3, 7});
  const V c = __builtin_shuffle(r[2], r[3], VI{0, 4, 1, 5});
  const V d = __builtin_shuffle(r[2], r[3], VI{2, 6, 3, 7});
  out[0] = __builtin_shuffle(a, c, VI{0, 1, 4, 5});
  out[1] = __builtin_shuffle(a, c, VI{2, 3, 6, 7});
  out[2] = __builtin_shuffle(b, d, VI{0, 1, 4, 5});
  out[3] = __builtin_shuffle(b, d, VI{2, 3, 6, 7});
}

#endif

// e^x, within 2 ulp; 0 below -87.3, clamped above 88.3, exactly 1 at 0. Range reduction by
// Cody and Waite, then Cephes' polynomial on [-ln2/2, ln2/2].
[[gnu::always_inline]] inline V exp(V x) {
  const V low = set1(-87.3f);
  const V y = max(min(x, set1(88.3f)), low);
  const V n = round_nearest(mul(y, set1(1.44269504088896341f)));
  V r = fma(n, set1(-0.693359375f), y);
  r = fma(n, set1(2.12194440054690583e-4f), r);
  V p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(mul(r, r), p, add(r, set1(1.0f)));
  return keep_where_ge(scale_by_power(p, n), x, low);
}

[[gnu::always_inline]] inline V silu(V x) { return div(x, add(set1(1.0f), exp(sub(zero(), x)))); }

// cap * tanh(s / cap), by tanh(x) = 1 - 2 / (e^2x + 1).
[[gnu::always_inline]] inline V soft_cap(V s, float cap) {
  const V e = exp(mul(s, set1(2 / cap)));
  const V t = sub(set1(1.0f), div(set1(2.0f), add(e, set1(1.0f))));
  return mul(t, set1(cap));
}

}  // namespace sluice::cpu::SLUICE_ISA
