#pragma once

#include <optional>

#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/attention_prefill.h"
#include "kernels/device.h"
#include "kernels/ops.h"

// The ops as launches on a stream. Tensors lie in the device's memory and are bf16 or f16 (T) where
// nothing else is said; their meaning and shapes are those of Ops. The same sources are compiled by
// nvcc, for the GPU, and by g++, where a launch runs on the emulator.
namespace sluice::cuda {

// Whether kernels, as they were compiled for this device, may share a stream that overlaps.
bool can_overlap();

// dst row to[i] = src row from[i] (i32; absent: i) for i < `count`; rows of any type.
void copy_rows(Stream, Tensor dst, Tensor src, Tensor from, Tensor to, int64_t count);
// out: also fp8_e4m3 with `scale` (f32 [rows]), then so are the rows as they are stored.
void random_rows(Stream, Tensor out, Tensor scale, const RandomRows&);
// residual += x (absent: no addition), out = norm(residual). weight: f32. Rank 2 or 3.
void rms_norm(Stream, Tensor out, Tensor residual, Tensor x, Tensor weight, float eps);
// weight, bias: f32; the bias may be absent. Rank 2; out may be x.
void layer_norm(Stream, Tensor out, Tensor x, Tensor weight, Tensor bias, float eps);
void add(Stream, Tensor out, Tensor a, Tensor b);
void add_bias(Stream, Tensor out, Tensor bias);  // [columns]; out: of the bias's type, or f32
void silu_mul(Stream, Tensor out, Tensor gate_up);
// out (fp8_e4m3, dense) * scale (f32 [rows]) ~ x; rows of a multiple of 16 elements.
void quantize_rows(Stream, Tensor out, Tensor scale, Tensor x);
// The same of what rms_norm() would write, and silu_mul() (gate: silu) or gelu_mul() (gelu_tanh).
void quantize_normed(Stream, Tensor out, Tensor scale, Tensor residual, Tensor x, Tensor weight,
                     float eps);
void quantize_gated(Stream, Tensor out, Tensor scale, Tensor gate_up, Activation gate);
void gelu_mul(Stream, Tensor out, Tensor gate_up);
void activate(Stream, Tensor x, Activation);
void scale(Stream, Tensor x, float factor, float softcap);  // also of f32
// At most 512 experts. w: [experts * columns of out, columns of x], of x's type, or of fp8_e4m3
// with a scale (f32) for each row, and columns that are a multiple of 16.
void route(Stream, Tensor experts, Tensor weights, Tensor logits, bool normed);
void expert_matmul(Stream, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor experts);
void mix_rows(Stream, Tensor out, Tensor x, Tensor weights);
// The same product for many rows, where grouped_can(); gated: out [n, d] = silu(gate) * up of an
// expert's [gate | up], w being [experts * 2 * d, columns of x]. `scratch`:
// grouped_scratch_bytes(), 16-byte aligned.
size_t grouped_scratch_bytes(int64_t rows, int64_t experts);
bool grouped_can(const Tensor& out, const Tensor& x, const Tensor& w);
void grouped_matmul(Stream, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor experts,
                    bool gated, void* scratch);
void add_gated(Stream, Tensor out, Tensor x, Tensor gate);
void rope(Stream, Tensor qk, Tensor positions, Tensor cos_sin);
void write_kv(Stream, KvView cache, Tensor k, Tensor v, Tensor slots);
void qkv_rope_write(Stream, Tensor qkv, const QkvParams&, Tensor positions, KvView cache,
                    Tensor slots);

// Products with few rows; see skinny_matmul.h. x, w, bias: the same type; out: that or f32. bias:
// [out_features], or absent; what the activation makes of a sum is rounded once. Only where
// skinny_can().
bool skinny_can(const Tensor& x, const Tensor& w);
void skinny_matmul(Stream, Tensor out, Tensor x, Tensor w, Tensor bias,
                   std::optional<Activation> = std::nullopt);
// out [n, d] = silu(gate) * up of [gate | up] = x * w^T + bias; w: [2 * d, k].
void skinny_silu_mul(Stream, Tensor out, Tensor x, Tensor w, Tensor bias);

// `blocks` of threads share the draws. `scratch`: sample_scratch_bytes(), 16-byte aligned.
size_t sample_scratch_bytes(int64_t vocab, int blocks);
void sample(Stream, const SampleOut&, Tensor logits, const SampleBatch&, void* scratch, int blocks);
void token_logprobs(Stream, const SampleOut&, Tensor logits, Tensor targets, int top);

// Heads of 32, 64, 96, 128 and 256; a cache of T or E4m3. `blocks`: of threads, which share the
// items of the list; groups of at most 16 query heads.
template <class T, class Kv>
void attention_decode(Stream, const DecodeParams<T, Kv>&, int head_dim, int blocks);
template <class T, class Kv>
void attention_prefill(Stream, const PrefillParams<T, Kv>&, int head_dim, int num_items);

}  // namespace sluice::cuda
