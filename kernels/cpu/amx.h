#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

// bf16 products on the tile registers of AMX, for gemm.cc as it is compiled for them.
//
// A tile register holds 16 rows of 64 bytes. Of x that is 16 rows of 32 inputs, as they lie; of the
// weights 16 pairs of inputs for 16 outputs, as they are packed; of the sums 16 by 16 floats. One
// instruction multiplies 32 inputs of 16 rows with 16 outputs: it adds the products of even and of
// odd inputs apart, in order of k, and both to the sum. Rows do not meet, so that their number
// changes no bit.
namespace sluice::cpu::SLUICE_ISA {
namespace {  // templates, which the linker may not share: see simd.h

constexpr int kAmxRows = 32;        // of x that a call computes at most: two tiles
constexpr int64_t kAmxInputs = 32;  // that an instruction takes
constexpr int64_t kAmxPairBytes = 2 * kTileCols * 2;
constexpr int kAmxOneTile = 4;   // weight tiles beside one tile of rows
constexpr int kAmxTwoTiles = 2;  // and beside two

constexpr int amx_panel_tiles(int64_t rows) {
  return rows > kAmxRows / 2 ? kAmxTwoTiles : kAmxOneTile;
}

// The shape of this thread's tile registers, while it lives: 0 to 3 sums, 4 and 5 x, then weights.
class AmxConfig {
 public:
  AmxConfig() = default;
  AmxConfig(const AmxConfig&) = delete;
  ~AmxConfig() {
    if (rows_ > 0) _tile_release();  // what stands in them costs time at every switch of threads
  }

  // 1 to kAmxRows rows of x. With one tile of them all four sums have as many; with two, 0 and 1
  // are of the first and 2 and 3 of the second.
  void set(int rows) {
    if (rows == rows_) return;
    rows_ = rows;
    const int first = rows < 16 ? rows : 16, second = rows > 16 ? rows - 16 : first;
    Palette palette;
    for (int t = 0; t < 8; ++t) {
      palette.bytes[t] = 64;
      palette.rows[t] = uint8_t(t >= 6 ? 16 : t == 4 || t < 2 ? first : second);
    }
    if (rows <= 16) palette.rows[5] = 16;  // weights, too
    // GCC 12's intrinsic reads eight bytes of it, as the compiler sees it.
    asm volatile("ldtilecfg %0" ::"m"(palette));
  }
  int rows() const { return rows_; }

 private:
  struct Palette {
    uint8_t id = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  };
  static_assert(sizeof(Palette) == 64);

  int rows_ = 0;
};

// Weights of e4m3 become bf16 / 256 (exactly) a stretch of inputs at a time, which stays in L1
// beside what is read of it: a row of a tile is 64 bytes of memory, so that there is no way around
// a store.
constexpr int64_t kAmxStretch = 64;  // inputs; 8 KiB at four tiles
constexpr int64_t kAmxCodePairBytes = 2 * kTileCols;
constexpr int64_t kAmxFetchAhead = 4096;  // bytes

// to[pairs][16][2] = codes[pairs][16][2]. A bf16 has the exponent and mantissa four places up, the
// sign eight, and a bias that is 112 + 8 more. Where the exponent is zero there is no leading one,
// so that these eight values come from a table.
inline void amx_widen(uint16_t* to, const char* codes, int64_t pairs) {
  const __m512i low = _mm512_set1_epi16(0x07f0), bias = _mm512_set1_epi16(112 << 7),
                sign = _mm512_set1_epi16(int16_t(0x8000)), exponent = _mm512_set1_epi16(0x78);
  // i * 2^-17: 0, 1, 2, 3, ... of e4m3's subnormals.
  const __m512i subnormal = _mm512_broadcast_i32x4(
      _mm_setr_epi16(0, 0x3700, 0x3780, 0x37c0, 0x3800, 0x3820, 0x3840, 0x3860));
  for (; pairs > 0; --pairs, to += 2 * kTileCols, codes += kAmxCodePairBytes) {
    if (pairs & 1) _mm_prefetch(codes + kAmxFetchAhead, _MM_HINT_T0);
    const __m512i c = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)codes));
    // (c << 4 & low) | bias
    __m512i v = _mm512_ternarylogic_epi32(_mm512_slli_epi16(c, 4), low, bias, 0xea);
    // The index is the lowest five bits, of which the table repeats three and the others are zero.
    v = _mm512_mask_permutexvar_epi16(v, _mm512_testn_epi16_mask(c, exponent), c, subnormal);
    // (c << 8 & sign) | v
    v = _mm512_ternarylogic_epi32(_mm512_slli_epi16(c, 8), sign, v, 0xea);
    _mm512_storeu_si512(to, v);
  }
}

// What to fetch meanwhile: `lines` cache lines of every weight tile for each 32 inputs.
struct AmxAhead {
  const char* at;
  int64_t tile;  // bytes from tile to tile
  int lines;
};

[[gnu::always_inline]] inline void amx_fetch(AmxAhead* ahead, int tiles) {
  for (int t = 0; t < tiles; ++t) {
    const char* at = ahead->at + t * ahead->tile;
    for (int i = 0; i < ahead->lines; ++i) _mm_prefetch(at + i * 64, _MM_HINT_T0);
  }
  ahead->at += ahead->lines * 64;
}

// c[rows][Tiles * 16] = (or +=, with `resume`) x * b over `steps` times 32 inputs, up to 16 rows.
template <int Tiles>
void amx_one(const uint16_t* x, int64_t x_stride, const char* b, int64_t b_tile, int64_t steps,
             float* c, int64_t c_stride, bool resume, AmxAhead ahead) {
  const int64_t x_bytes = x_stride * 2, c_bytes = c_stride * 4;
  _tile_zero(0);
  if constexpr (Tiles > 1) _tile_zero(1);
  if constexpr (Tiles > 2) _tile_zero(2);
  if constexpr (Tiles > 3) _tile_zero(3);
  if (resume) {
    _tile_loadd(0, c, c_bytes);
    if constexpr (Tiles > 1) _tile_loadd(1, c + 16, c_bytes);
    if constexpr (Tiles > 2) _tile_loadd(2, c + 32, c_bytes);
    if constexpr (Tiles > 3) _tile_loadd(3, c + 48, c_bytes);
  }
  for (; steps > 0; --steps) {
    _tile_loadd(4, x, x_bytes);
    _tile_loadd(5, b, 64);
    _tile_dpbf16ps(0, 4, 5);
    if constexpr (Tiles > 1) {
      _tile_loadd(6, b + b_tile, 64);
      _tile_dpbf16ps(1, 4, 6);
    }
    if constexpr (Tiles > 2) {
      _tile_loadd(7, b + 2 * b_tile, 64);
      _tile_dpbf16ps(2, 4, 7);
    }
    if constexpr (Tiles > 3) {
      _tile_loadd(5, b + 3 * b_tile, 64);
      _tile_dpbf16ps(3, 4, 5);
    }
    amx_fetch(&ahead, Tiles);
    x += kAmxInputs;
    b += kAmxInputs / 2 * kAmxPairBytes;
  }
  _tile_stored(0, c, c_bytes);
  if constexpr (Tiles > 1) _tile_stored(1, c + 16, c_bytes);
  if constexpr (Tiles > 2) _tile_stored(2, c + 32, c_bytes);
  if constexpr (Tiles > 3) _tile_stored(3, c + 48, c_bytes);
}

// The same for 17 to 32 rows.
template <int Tiles>
void amx_two(const uint16_t* x, int64_t x_stride, const char* b, int64_t b_tile, int64_t steps,
             float* c, int64_t c_stride, bool resume, AmxAhead ahead) {
  const int64_t x_bytes = x_stride * 2, c_bytes = c_stride * 4;
  const uint16_t* x2 = x + 16 * x_stride;
  float* c2 = c + 16 * c_stride;
  _tile_zero(0);
  _tile_zero(2);
  if constexpr (Tiles > 1) {
    _tile_zero(1);
    _tile_zero(3);
  }
  if (resume) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(2, c2, c_bytes);
    if constexpr (Tiles > 1) {
      _tile_loadd(1, c + 16, c_bytes);
      _tile_loadd(3, c2 + 16, c_bytes);
    }
  }
  for (; steps > 0; --steps) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, x, x_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, x2, x_bytes);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (Tiles > 1) {
      _tile_loadd(7, b + b_tile, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    amx_fetch(&ahead, Tiles);
    x += kAmxInputs;
    x2 += kAmxInputs;
    b += kAmxInputs / 2 * kAmxPairBytes;
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(2, c2, c_bytes);
  if constexpr (Tiles > 1) {
    _tile_stored(1, c + 16, c_bytes);
    _tile_stored(3, c2 + 16, c_bytes);
  }
}

// Of as many rows as the tiles are configured for. `tiles`: at most amx_panel_tiles(rows).
inline void amx_micro(int rows, int tiles, const uint16_t* x, int64_t x_stride, const char* b,
                      int64_t b_tile, int64_t steps, float* c, int64_t c_stride, bool resume,
                      AmxAhead ahead) {
  const auto run = rows > 16    ? (tiles > 1 ? amx_two<2> : amx_two<1>)
                   : tiles == 4 ? amx_one<4>
                   : tiles == 3 ? amx_one<3>
                   : tiles == 2 ? amx_one<2>
                                : amx_one<1>;
  run(x, x_stride, b, b_tile, steps, c, c_stride, resume, ahead);
}

// The sums of the tiles, to the bit, by vectors: for one row or two, where tiles would mostly be
// empty. For each 32 inputs those of even and of odd inputs begin at zero, and then both are added
// to the sum; products of bf16 are exact in f32, and what is too small for a normal number is zero.
template <int Rows, int Tiles, class From>
[[gnu::noinline]] void micro_as_amx(const uint16_t* x, int64_t x_stride, const char* b,
                                    int64_t b_tile, int64_t steps, float* c, int64_t c_stride) {
  V sum[Rows][Tiles];
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Tiles; ++j) sum[i][j] = zero();
  }
  for (; steps > 0; --steps) {
    V even[Rows][Tiles], odd[Rows][Tiles];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
      for (int j = 0; j < Tiles; ++j) even[i][j] = odd[i][j] = zero();
    }
    for (int p = 0; p < kAmxInputs / 2; ++p) {
      V low[Rows], high[Rows];
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
        int32_t pair;
        __builtin_memcpy(&pair, x + i * x_stride, 4);
        const V pairs = _mm512_castsi512_ps(_mm512_set1_epi32(pair));
        low[i] = low_halves(pairs);
        high[i] = high_halves(pairs);
      }
#pragma GCC unroll 16
      for (int j = 0; j < Tiles; ++j) {
        const V w_even = From::even(b + j * b_tile, 0), w_odd = From::odd(b + j * b_tile, 0);
        prefetch(b + j * b_tile + kAmxFetchAhead);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
          even[i][j] = fma(low[i], w_even, even[i][j]);
          odd[i][j] = fma(high[i], w_odd, odd[i][j]);
        }
      }
      x += 2;
      b += From::kPairBytes;
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
      for (int j = 0; j < Tiles; ++j) sum[i][j] = add(sum[i][j], add(even[i][j], odd[i][j]));
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Tiles; ++j) store(c + i * c_stride + j * kLanes, sum[i][j]);
  }
}
constexpr int kRowsAsAmx = 2;

template <class From, int Rows = kRowsAsAmx, int Tiles = kAmxOneTile>
void run_as_amx(int rows, int tiles, const uint16_t* x, int64_t x_stride, const char* b,
                int64_t b_tile, int64_t steps, float* c, int64_t c_stride) {
  if (rows == Rows && tiles == Tiles) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);  // as tiles do: no subnormal numbers, neither read nor written
    micro_as_amx<Rows, Tiles, From>(x, x_stride, b, b_tile, steps, c, c_stride);
    _mm_setcsr(before);
    return;
  }
  if constexpr (Tiles > 1) {
    if (rows == Rows)
      return run_as_amx<From, Rows, Tiles - 1>(rows, tiles, x, x_stride, b, b_tile, steps, c,
                                               c_stride);
  }
  if constexpr (Rows > 1)
    run_as_amx<From, Rows - 1>(rows, tiles, x, x_stride, b, b_tile, steps, c, c_stride);
}

}  // namespace
}  // namespace sluice::cpu::SLUICE_ISA
