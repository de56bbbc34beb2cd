#pragma once

#include <cstddef>
#include <cstdint>

// The border between CpuOps, compiled for any machine, and the kernels, compiled once per
// instruction set: plain arguments and a table of functions. A kernel does a piece of an op on the
// calling thread and owns nothing; CpuOps cuts ops into pieces. Strides are in elements.
//
// No result may depend on how an op was cut: a kernel's sums run in an order that only the
// logical shape of one output element decides.
namespace sluice::cpu {

// Packed linear layers, by output tiles of kTileCols: [out / 16][in][16] for f32 and f16,
// [out / 16][in / 2][16][2] for bf16 (a pair is what vdpbf16ps takes) and e4m3, zero-padded to
// whole tiles and an even number of inputs. e4m3 has no NaN here, and a scale for each output.
inline constexpr int kTileCols = 16;

enum class WeightType : uint8_t { f32, f16, bf16, e4m3 };

inline constexpr int64_t tile_bytes(WeightType t, int64_t in) {
  const int element = t == WeightType::f32 ? 4 : t == WeightType::e4m3 ? 1 : 2;
  return ((in + 1) & ~int64_t{1}) * kTileCols * element;
}

struct GemmArgs {
  const void* x = nullptr;  // [rows, in]: f32, or bf16 where Kernels::takes_bf16() says so
  int64_t x_stride = 0;
  const char* w = nullptr;
  WeightType type = WeightType::f32;
  int64_t in = 0, out = 0;
  const float* scale = nullptr;  // [out], of e4m3's sums; else null
  const float* bias = nullptr;   // [out] or null
  float* y = nullptr;            // [rows, out], or [rows, out / 2] with silu_mul
  int64_t y_stride = 0;
  // y = silu(first half of the outputs) * second half; out is a multiple of 2 * kTileCols.
  bool silu_mul = false;
};

// Rows [row_begin, row_end) of output tiles [tile_begin, tile_end). With silu_mul tiles count
// within the first half.
struct GemmPiece {
  int64_t row_begin = 0, row_end = 0, tile_begin = 0, tile_end = 0;
};

enum class KvType : uint8_t { f32, bf16, e4m3 };

inline constexpr int kv_bytes(KvType t) { return t == KvType::f32 ? 4 : t == KvType::bf16 ? 2 : 1; }

struct AttentionArgs {
  const float* q = nullptr;  // [tokens, heads, dim]
  int64_t q_stride = 0, q_head_stride = 0;
  float* out = nullptr;
  int64_t out_stride = 0, out_head_stride = 0;
  const void* k = nullptr;
  const void* v = nullptr;
  // e4m3 is read as its value / 256, which `scale` and `value_scale` make up for; a NaN is none.
  KvType kv = KvType::f32;
  int64_t k_block = 0, k_head = 0, k_slot = 0, v_block = 0, v_head = 0, v_slot = 0;
  int group = 1;       // query heads that one KV head's pieces compute
  int of_kv_head = 1;  // query heads that read one KV head: those of the next are so much further
  int dim = 0, block_size = 0;
  float scale = 1, softcap = 0;
  float value_scale = 1;
  int window = 0;
  const float* alibi = nullptr;  // [heads], see AttnParams
};

// Query tokens [token_begin, token_begin + count) of one sequence, all heads of one KV head,
// context positions of spans [span_begin, span_end).
struct AttentionPiece {
  const int32_t* blocks = nullptr;  // the sequence's block table
  int64_t token_begin = 0;          // row of q
  int count = 0;                    // count * group <= kMaxQueryRows
  int position = 0;                 // of the first of these tokens in the sequence
  int kv_head = 0;
  int span_begin = 0, span_end = 0;
};

// Keys are taken in chunks of kKeyChunk positions, softmax restarts every kKeySpan positions, and
// spans are merged in order: so spans may be computed apart and give the same bits.
inline constexpr int kKeyChunk = 64;
inline constexpr int kKeySpan = 1024;
inline constexpr int kMaxQueryRows = 64;

// One span's result for `rows` query rows: maximum, sum, unnormalised output [rows, padded dim].
struct AttentionPartial {
  float* max = nullptr;
  float* sum = nullptr;
  float* out = nullptr;
};

struct Kernels {
  const char* name;

  // --- gemm.cc ---
  bool (*takes_bf16)(WeightType);                // such weights want x in bf16
  int (*panel_tiles)(int64_t rows, WeightType);  // tiles a piece is best made of
  int64_t (*row_block)(int64_t in);  // rows a piece is best made of, when there are many
  size_t (*gemm_scratch)(int64_t rows, bool silu_mul);  // floats for one piece
  void (*gemm)(const GemmArgs&, const GemmPiece&, float* scratch);

  // --- rows.cc: d elements each ---
  void (*rms_norm)(float* out, const float* x, const float* weight, int64_t d, float eps);
  // bias: [d] or null.
  void (*layer_norm)(float* out, const float* x, const float* weight, const float* bias, int64_t d,
                     float eps);
  void (*add)(float* out, const float* a, const float* b, int64_t d);
  void (*silu_mul)(float* out, const float* gate, const float* up, int64_t d);
  // gelu by tanh.
  void (*gelu_mul)(float* out, const float* gate, const float* up, int64_t d);
  // In place.
  void (*silu)(float* x, int64_t d);
  void (*gelu)(float* x, int64_t d);
  void (*gelu_tanh)(float* x, int64_t d);
  void (*relu)(float* x, int64_t d);
  // x *= factor, then softcap * tanh(x / softcap) where softcap > 0.
  void (*scale)(float* x, int64_t d, float factor, float softcap);
  // Rotates (x[i], x[i + half]) by the angle whose cosine and sine are cos[i] and sin[i].
  void (*rope)(float* x, const float* cos, const float* sin, int64_t half);
  void (*to_bf16)(uint16_t* out, const float* x, int64_t d);
  void (*from_f16)(float* out, const uint16_t* x, int64_t d);

  // --- attention.cc ---
  size_t (*attention_scratch)(int dim);  // floats
  // The whole context; writes out.
  void (*attention)(const AttentionArgs&, const AttentionPiece&, float* scratch);
  // One span's partial (piece.span_end == piece.span_begin + 1), and what joins them.
  void (*attention_span)(const AttentionArgs&, const AttentionPiece&, float* scratch,
                         const AttentionPartial&);
  void (*attention_join)(const AttentionArgs&, const AttentionPiece&, const AttentionPartial* spans,
                         float* scratch);

  // --- vocabulary.cc: one row of logits; NaN counts as -inf ---
  // The largest value, -inf if there is none.
  float (*row_max)(const float* x, int64_t n);
  // The first index from `begin` on with x > bound (x >= bound), n if none.
  int64_t (*next_above)(const float* x, int64_t begin, int64_t n, float bound);
  int64_t (*next_at_least)(const float* x, int64_t begin, int64_t n, float bound);
  // The same with low <= x < high.
  int64_t (*next_between)(const float* x, int64_t begin, int64_t n, float low, float high);
  // Zeroes the x < bound.
  void (*drop_below)(float* x, int64_t n, float bound);
  // Sum of e^((x - max) * factor); out gets the terms where it is not null.
  float (*sum_exp)(float* out, const float* x, int64_t n, float max, float factor);
  // Number and sum of the x >= bound.
  int64_t (*mass_at_least)(const float* x, int64_t n, float bound, float* sum);
};

// Each file of kernels fills its part of a table, once per instruction set. avx512bf16 and amx
// have only a gemm of their own.
namespace portable {
void fill_gemm(Kernels*);
void fill_rows(Kernels*);
void fill_attention(Kernels*);
void fill_vocabulary(Kernels*);
}  // namespace portable
namespace avx2 {
void fill_gemm(Kernels*);
void fill_rows(Kernels*);
void fill_attention(Kernels*);
void fill_vocabulary(Kernels*);
}  // namespace avx2
namespace avx512 {
void fill_gemm(Kernels*);
void fill_rows(Kernels*);
void fill_attention(Kernels*);
void fill_vocabulary(Kernels*);
}  // namespace avx512
namespace avx512bf16 {
void fill_gemm(Kernels*);
}
namespace amx {
void fill_gemm(Kernels*);
}

}  // namespace sluice::cpu
