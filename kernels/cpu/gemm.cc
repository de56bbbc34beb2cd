#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"
#if defined(SLUICE_AMX)
#include "kernels/cpu/amx.h"
#endif

// y = x * w^T over packed weights, one piece at a time.
//
// A register tile of up to kMaxRows rows by a few tiles of 16 outputs keeps its sums while it runs
// over the inputs. Each sum is one chain of fused multiply-adds over ascending k (of k pairs with
// vdpbf16ps); where k is cut into blocks the sums go through memory in f32 and come back unchanged.
// So an output's bits depend neither on the number of rows nor on how the work was cut.
//
// Few rows (one register tile): weights are read once, straight from memory. More rows: a block of
// weights stays in L1 while every row tile runs over it. Either way narrow weights are widened in
// registers: a widened copy would cost more in stores and cache than the few instructions a vector.
//
// With AMX weights of bf16, and of e4m3 widened to it, go through its tiles (amx.h) instead: other
// sums, in an order as fixed.
namespace sluice::cpu::SLUICE_ISA {
namespace {

constexpr int kTileVectors = kTileCols / kLanes;
#if defined(SLUICE_ISA_AVX512)
constexpr int kMaxRows = 8, kMaxVectors = 24, kMaxTiles = 4;
#elif defined(SLUICE_ISA_AVX2)
constexpr int kMaxRows = 6, kMaxVectors = 12, kMaxTiles = 4;
#else
constexpr int kMaxRows = 3, kMaxVectors = 12, kMaxTiles = 1;
#endif
constexpr int64_t kBlock = 512;  // inputs: 48 KiB of bf16 weights at three tiles
constexpr int64_t kPrefetchBytes = 2048;
constexpr int64_t kMaxAskers = 4;  // row tiles that share the prefetching of the next block
static_assert(kBlock % 32 == 0);   // AMX takes that many inputs at a time

constexpr int tiles_for(int rows) {
  const int fit = kMaxVectors / kTileVectors / rows;
  return fit < 1 ? 1 : fit > kMaxTiles ? kMaxTiles : fit;
}
constexpr int kPanelTiles = tiles_for(kMaxRows);

// How a weight tile's pair of inputs (k, k + 1) becomes vectors. even() and odd() give vector v of
// the tile's kTileVectors.
struct FromF32 {
  static constexpr int kPairBytes = 2 * kTileCols * 4;
  [[gnu::always_inline]] static V even(const char* b, int v) {
    return load((const float*)b + v * kLanes);
  }
  [[gnu::always_inline]] static V odd(const char* b, int v) {
    return load((const float*)b + kTileCols + v * kLanes);
  }
};
struct FromF16 {
  static constexpr int kPairBytes = 2 * kTileCols * 2;
  [[gnu::always_inline]] static V even(const char* b, int v) {
    return load_f16((const uint16_t*)b + v * kLanes);
  }
  [[gnu::always_inline]] static V odd(const char* b, int v) {
    return load_f16((const uint16_t*)b + kTileCols + v * kLanes);
  }
};
struct FromBf16 {
  static constexpr int kPairBytes = 2 * kTileCols * 2;
  [[gnu::always_inline]] static V even(const char* b, int v) {
    return low_halves(load((const float*)b + v * kLanes));
  }
  [[gnu::always_inline]] static V odd(const char* b, int v) {
    return high_halves(load((const float*)b + v * kLanes));
  }
};
// e4m3 / 256, of which write_row() knows: a shift makes them f16, subnormals too.
struct FromE4m3 {
  static constexpr int kPairBytes = 2 * kTileCols;
  [[gnu::always_inline]] static V even(const char* b, int v) {
    return low_e4m3(b + v * 2 * kLanes);
  }
  [[gnu::always_inline]] static V odd(const char* b, int v) {
    return high_e4m3(b + v * 2 * kLanes);
  }
};
// bf16 by bf16, two products a lane and instruction.
struct Dot {
  static constexpr int kPairBytes = 2 * kTileCols * 2;
};

struct Prefetch {
  const char* at = nullptr;  // of the first tile
  int64_t tile = 0;          // bytes from tile to tile
  int64_t pair = 0;          // bytes per pair of inputs
};

// c[Rows][Tiles * 16] = (or +=, with `resume`) a[Rows][k] * b. b: tiles `b_tile` bytes apart.
template <int Rows, int Tiles, class From, bool kPrefetch>
void micro(const float* a, int64_t a_stride, const char* b, int64_t b_tile, int64_t k, float* c,
           int64_t c_stride, bool resume, Prefetch ahead) {
  constexpr int kVectors = Tiles * kTileVectors;
  V acc[Rows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      acc[i][j] = resume ? load(c + i * c_stride + j * kLanes) : zero();
    }
  }
  for (int64_t p = k >> 1; p > 0; --p) {
    V w[kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      w[j] = From::even(b + (j / kTileVectors) * b_tile, j % kTileVectors);
    }
    if constexpr (kPrefetch) {
#pragma GCC unroll 16
      for (int j = 0; j < Tiles; ++j) prefetch(ahead.at + j * ahead.tile);
      ahead.at += ahead.pair;
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const V x = set1(a[i * a_stride]);
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(x, w[j], acc[i][j]);
    }
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      w[j] = From::odd(b + (j / kTileVectors) * b_tile, j % kTileVectors);
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const V x = set1(a[i * a_stride + 1]);
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(x, w[j], acc[i][j]);
    }
    a += 2;
    b += From::kPairBytes;
  }
  if (k & 1) {
    for (int j = 0; j < kVectors; ++j) {
      const V w = From::even(b + (j / kTileVectors) * b_tile, j % kTileVectors);
      for (int i = 0; i < Rows; ++i) acc[i][j] = fma(set1(a[i * a_stride]), w, acc[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) store(c + i * c_stride + j * kLanes, acc[i][j]);
  }
}

#if defined(SLUICE_BF16_DOT)
// The same with x in bf16, zero-padded to an even length.
template <int Rows, int Tiles>
void micro_dot(const uint16_t* a, int64_t a_stride, const char* b, int64_t b_tile, int64_t k,
               float* c, int64_t c_stride, bool resume, Prefetch ahead) {
  __m512 acc[Rows][Tiles];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Tiles; ++j) {
      acc[i][j] = resume ? load(c + i * c_stride + j * kLanes) : zero();
    }
  }
  for (int64_t p = (k + 1) >> 1; p > 0; --p) {
    __m512bh w[Tiles];
#pragma GCC unroll 16
    for (int j = 0; j < Tiles; ++j) {
      w[j] = (__m512bh)_mm512_loadu_si512(b + j * b_tile);
      prefetch(ahead.at + j * ahead.tile);
    }
    ahead.at += ahead.pair;
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      int32_t pair;
      __builtin_memcpy(&pair, a + i * a_stride, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 16
      for (int j = 0; j < Tiles; ++j) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], x, w[j]);
    }
    a += 2;
    b += Dot::kPairBytes;
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Tiles; ++j) store(c + i * c_stride + j * kLanes, acc[i][j]);
  }
}
#endif

// Picks the register tile at run time.
template <class From, bool kPrefetch, int Rows = kMaxRows, int Tiles = tiles_for(Rows)>
[[gnu::always_inline]] inline void run_micro(int rows, int tiles, const void* a, int64_t a_stride,
                                             const char* b, int64_t b_tile, int64_t k, float* c,
                                             int64_t c_stride, bool resume, Prefetch ahead) {
  if (rows == Rows && tiles == Tiles) {
#if defined(SLUICE_BF16_DOT)
    if constexpr (__is_same(From, Dot)) {
      micro_dot<Rows, Tiles>((const uint16_t*)a, a_stride, b, b_tile, k, c, c_stride, resume,
                             ahead);
      return;
    } else
#endif
      micro<Rows, Tiles, From, kPrefetch>((const float*)a, a_stride, b, b_tile, k, c, c_stride,
                                          resume, ahead);
    return;
  }
  if constexpr (Tiles > 1) {
    if (rows == Rows) {
      run_micro<From, kPrefetch, Rows, Tiles - 1>(rows, tiles, a, a_stride, b, b_tile, k, c,
                                                  c_stride, resume, ahead);
      return;
    }
  }
  if constexpr (Rows > 1) {
    run_micro<From, kPrefetch, Rows - 1>(rows, tiles, a, a_stride, b, b_tile, k, c, c_stride,
                                         resume, ahead);
  }
}

// Sums of `tiles` tiles for all rows of the piece into c[rows][tiles * 16]. One register tile.
template <class From>
void few_rows(const GemmArgs& g, const char* x, int rows, int tiles, const char* b, float* c) {
  const int64_t b_tile = tile_bytes(g.type, g.in);
  const Prefetch ahead{b + kPrefetchBytes, b_tile, From::kPairBytes};
  run_micro<From, true>(rows, tiles, x, g.x_stride, b, b_tile, g.in, c, tiles * kTileCols, false,
                        ahead);
}

// The same for many rows, over blocks of k that stay in L1 while every row tile runs over them.
// Rows are shared out evenly over the register tiles: a tile of one row would wait for its own
// sums. The first few tiles ask for the weights that come next, a share each.
template <class From>
void many_rows(const GemmArgs& g, const char* x, int64_t rows, int tiles, const char* b, float* c) {
  const int64_t x_bytes = __is_same(From, Dot) ? 2 : 4;
  const int64_t b_tile = tile_bytes(g.type, g.in);
  const int64_t k_bytes = From::kPairBytes / 2;
  const int64_t row_tiles = (rows + kMaxRows - 1) / kMaxRows;
  const int64_t askers = row_tiles < kMaxAskers ? row_tiles : kMaxAskers;
  const int64_t c_stride = tiles * kTileCols;
  for (int64_t k = 0; k < g.in; k += kBlock) {
    const int64_t count = g.in - k < kBlock ? g.in - k : kBlock;
    const char* from = b + k * k_bytes;
    // The next block of these tiles, or the first of the next panel.
    const char* next = k + kBlock < g.in ? from + kBlock * k_bytes : b + tiles * b_tile;
    int64_t row = 0;
    for (int64_t t = 0; t < row_tiles; ++t) {
      const int n = int((rows - row + row_tiles - t - 1) / (row_tiles - t));
      const char* a = x + (row * g.x_stride + k) * x_bytes;
      float* to = c + row * c_stride;
      const Prefetch ahead{next + t * (kBlock * k_bytes / askers), b_tile,
                           From::kPairBytes / askers};
      if (t < askers) {
        run_micro<From, true>(n, tiles, a, g.x_stride, from, b_tile, count, to, c_stride, k > 0,
                              ahead);
      } else {
        run_micro<From, false>(n, tiles, a, g.x_stride, from, b_tile, count, to, c_stride, k > 0,
                               ahead);
      }
      row += n;
    }
  }
}

#if defined(SLUICE_AMX)
// `tiles` tiles' inputs [k, k + count) as bf16 at `to`; the distance between tiles is returned.
int64_t widen(uint16_t* to, const char* b, int64_t b_tile, int tiles, int64_t k, int64_t count) {
  const int64_t pairs = (count + 1) / 2;
  for (int t = 0; t < tiles; ++t)
    amx_widen(to + t * pairs * 2 * kTileCols, b + t * b_tile + k / 2 * kAmxCodePairBytes, pairs);
  return pairs * kAmxPairBytes;
}

// As few_rows() and many_rows(). Inputs beyond a multiple of 32 are added by vdpbf16ps, at the end.
// `wide`: kWideFloats, for weights of e4m3.
void amx_sums(const GemmArgs& g, const uint16_t* x, int64_t rows, int tiles, const char* b,
              float* c, uint16_t* wide) {
  const bool narrow = g.type == WeightType::e4m3;
  const int64_t b_tile = tile_bytes(g.type, g.in), c_stride = tiles * kTileCols;
  const int64_t whole = g.in / kAmxInputs * kAmxInputs;
  const int64_t block = narrow ? kAmxStretch : rows <= kAmxRows / 2 ? whole : kBlock;
  const int64_t row_tiles = (rows + kAmxRows - 1) / kAmxRows;
  const int64_t askers = row_tiles < kMaxAskers ? row_tiles : kMaxAskers;
  AmxConfig config;
  if (rows <= kRowsAsAmx) {
    const auto run = narrow ? run_as_amx<FromE4m3> : run_as_amx<FromBf16>;
    run(int(rows), tiles, x, g.x_stride, b, b_tile, whole / kAmxInputs, c, c_stride);
  }
  for (int64_t k = rows <= kRowsAsAmx ? whole : 0; k < whole; k += block) {
    const int64_t count = whole - k < block ? whole - k : block;
    const char* from = narrow ? (const char*)wide : b + k / 2 * kAmxPairBytes;
    const int64_t from_tile = narrow ? widen(wide, b, b_tile, tiles, k, count) : b_tile;
    const char* next = rows <= kAmxRows / 2 ? from + kPrefetchBytes
                       : k + block < whole  ? from + block / 2 * kAmxPairBytes
                                            : b + tiles * b_tile;
    for (int64_t t = 0; t < row_tiles; ++t) {
      const int64_t row = t * kAmxRows;
      const AmxAhead ahead{next + t * (block / 2 * kAmxPairBytes / askers), b_tile,
                           t < askers && !narrow ? int(kAmxInputs / 2 / askers) : 0};
      config.set(int(rows - row < kAmxRows ? rows - row : kAmxRows));
      amx_micro(config.rows(), tiles, x + row * g.x_stride + k, g.x_stride, from, from_tile,
                count / kAmxInputs, c + row * c_stride, c_stride, k > 0, ahead);
    }
  }
  if (whole == g.in) return;
  const char* rest = narrow ? (const char*)wide : b + whole / 2 * kAmxPairBytes;
  const int64_t rest_tile = narrow ? widen(wide, b, b_tile, tiles, whole, g.in - whole) : b_tile;
  for (int64_t row = 0; row < rows; row += kMaxRows) {
    const int n = int(rows - row < kMaxRows ? rows - row : kMaxRows);
    for (int tile = 0; tile < tiles; ++tile) {
      run_micro<Dot, false, kMaxRows, 1>(
          n, 1, x + row * g.x_stride + whole, g.x_stride, rest + tile * rest_tile, rest_tile,
          g.in - whole, c + row * c_stride + tile * kTileCols, c_stride, whole > 0, {});
    }
  }
}
constexpr int64_t kWideFloats = kAmxOneTile * kAmxStretch * kTileCols / 2;
#else
constexpr int64_t kWideFloats = 0;
#endif

bool takes_bf16([[maybe_unused]] WeightType type) {
#if defined(SLUICE_AMX)
  return type == WeightType::bf16 || type == WeightType::e4m3;
#elif defined(SLUICE_BF16_DOT)
  return type == WeightType::bf16;
#else
  return false;
#endif
}

void sums(const GemmArgs& g, const GemmPiece& p, int64_t tile, int tiles, float* c,
          [[maybe_unused]] float* wide) {
  const int64_t rows = p.row_end - p.row_begin;
  const char* b = g.w + tile * tile_bytes(g.type, g.in);
  const int64_t x_bytes = takes_bf16(g.type) ? 2 : 4;
  const char* x = (const char*)g.x + p.row_begin * g.x_stride * x_bytes;
#if defined(SLUICE_AMX)
  if (takes_bf16(g.type))
    return amx_sums(g, (const uint16_t*)x, rows, tiles, b, c, (uint16_t*)wide);
#endif
  const bool few = rows <= kMaxRows;
  switch (g.type) {
    case WeightType::f32:
      if (few) return few_rows<FromF32>(g, x, int(rows), tiles, b, c);
      return many_rows<FromF32>(g, x, rows, tiles, b, c);
    case WeightType::f16:
      if (few) return few_rows<FromF16>(g, x, int(rows), tiles, b, c);
      return many_rows<FromF16>(g, x, rows, tiles, b, c);
    case WeightType::bf16:
#if defined(SLUICE_BF16_DOT)
      if (few) return few_rows<Dot>(g, x, int(rows), tiles, b, c);
      return many_rows<Dot>(g, x, rows, tiles, b, c);
#else
      if (few) return few_rows<FromBf16>(g, x, int(rows), tiles, b, c);
      return many_rows<FromBf16>(g, x, rows, tiles, b, c);
#endif
    case WeightType::e4m3:
      if (few) return few_rows<FromE4m3>(g, x, int(rows), tiles, b, c);
      return many_rows<FromE4m3>(g, x, rows, tiles, b, c);
  }
}

// What becomes of a sum: times the scale, plus the bias, where there are any.
struct Finish {
  const float* scale;  // of the first output, as the bias
  const float* bias;

  Finish(const GemmArgs& g, int64_t col)
      : scale(g.scale ? g.scale + col : nullptr), bias(g.bias ? g.bias + col : nullptr) {}
  // The product with 256 is exact, so that this rounds as the product with the scale alone.
  [[gnu::always_inline]] V operator()(V sum, int64_t i) const {
    if (scale) sum = mul(mul(sum, set1(256)), load(scale + i));
    return bias ? add(sum, load(bias + i)) : sum;
  }
  [[gnu::always_inline]] V operator()(V sum, int64_t i, int n) const {
    if (scale) sum = mul(mul(sum, set1(256)), load_n(scale + i, n));
    return bias ? add(sum, load_n(bias + i, n)) : sum;
  }
};

// y[col, col + cols) = c, finished, any number of columns.
void write_row(float* y, const float* c, const Finish& finish, int64_t cols) {
  int64_t i = 0;
  for (; i + kLanes <= cols; i += kLanes) store(y + i, finish(load(c + i), i));
  if (i < cols) {
    const int n = int(cols - i);
    store_n(y + i, finish(load_n(c + i, n), i, n), n);
  }
}

void write_silu_row(float* y, const float* gate, const float* up, const Finish& finish_gate,
                    const Finish& finish_up, int64_t cols) {
  for (int64_t i = 0; i < cols; i += kLanes) {  // whole tiles: see GemmArgs
    const V a = finish_gate(load(gate + i), i), b = finish_up(load(up + i), i);
    store(y + i, mul(silu(a), b));
  }
}

int panel_tiles(int64_t rows, [[maybe_unused]] WeightType type) {
#if defined(SLUICE_AMX)
  if (takes_bf16(type)) return amx_panel_tiles(rows);
#endif
  return rows >= kMaxRows ? kPanelTiles : tiles_for(int(rows));
}

// Rows whose inputs fill about half of L2.
int64_t row_block(int64_t in) {
  const int64_t rows = (int64_t{384} << 10) / (in * 4) / kMaxRows * kMaxRows;
  return rows < 8 * kMaxRows ? 8 * kMaxRows : rows;
}

size_t gemm_scratch(int64_t rows, bool silu_mul) {
  const int tiles = kMaxTiles > kPanelTiles ? kMaxTiles : kPanelTiles;
  return size_t(kWideFloats + rows * tiles * kTileCols * (silu_mul ? 2 : 1));
}

void gemm(const GemmArgs& g, const GemmPiece& p, float* scratch) {
  const int64_t rows = p.row_end - p.row_begin;
  const int step = panel_tiles(rows, g.type);
  float* wide = scratch;
  float* c = scratch + kWideFloats;
  const int64_t half = g.out / 2;
  for (int64_t tile = p.tile_begin; tile < p.tile_end; tile += step) {
    const int tiles = p.tile_end - tile < step ? int(p.tile_end - tile) : step;
    const int64_t col = tile * kTileCols, stride = tiles * kTileCols;
    sums(g, p, tile, tiles, c, wide);
    if (g.silu_mul) {
      float* up = c + rows * stride;
      sums(g, p, half / kTileCols + tile, tiles, up, wide);
      for (int64_t r = 0; r < rows; ++r) {
        write_silu_row(g.y + (p.row_begin + r) * g.y_stride + col, c + r * stride, up + r * stride,
                       Finish(g, col), Finish(g, half + col), stride);
      }
    } else {
      const int64_t cols = g.out - col < stride ? g.out - col : stride;
      for (int64_t r = 0; r < rows; ++r) {
        write_row(g.y + (p.row_begin + r) * g.y_stride + col, c + r * stride, Finish(g, col), cols);
      }
    }
  }
}

}  // namespace

void fill_gemm(Kernels* k) {
  k->takes_bf16 = takes_bf16;
  k->panel_tiles = panel_tiles;
  k->row_block = row_block;
  k->gemm_scratch = gemm_scratch;
  k->gemm = gemm;
}

}  // namespace sluice::cpu::SLUICE_ISA
