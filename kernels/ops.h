#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace sluice {

// One layer of the paged cache. Slot s lives in block s / block_size, row s % block_size.
// Memory is [block][layer][K|V][kv_head][slot][dim]: a block is one contiguous piece over
// its layers, so swapping it is one large copy; the views' strides hide that.
struct KvView {
  Tensor k, v;  // [num_blocks, num_kv_heads, block_size, dim], strided
  // A stored fp8_e4m3 times this is the value; what is beyond its range becomes the largest. 1 for
  // every other type.
  float k_scale = 1, v_scale = 1;
  int table = 0;  // of a sequence's block tables, that which names this layer's blocks
};

// The shape of one step, as attention sees it. Prefill chunks and decode rows share it: a decode
// row is simply a row with one query token. Sequence i's queries are the last
// cu_q[i + 1] - cu_q[i] positions of its seq_lens[i] context tokens (causal).
struct AttnBatch {
  Tensor cu_q;          // i32 [num_seqs + 1]  prefix sums of query lengths
  Tensor seq_lens;      // i32 [num_seqs]      context length including this step
  Tensor block_tables;  // i32 [num_seqs, num_tables * max_blocks]: one table behind the other
  Tensor slot_mapping;  // i32 [num_tables * num_tokens]  where each new token's K/V goes
  int num_tables = 1;
  int max_q = 0, max_seq_len = 0, num_seqs = 0;
  int num_decodes = 0;  // the first sequences, which go on from a token that was drawn

  int64_t max_blocks() const { return block_tables.shape[1] / num_tables; }
  Tensor slots(const KvView& kv) const {
    const int64_t n = slot_mapping.shape[0] / num_tables;
    return slot_mapping.rows(kv.table * n, n);
  }
};
// gelu by the error function, gelu_tanh by its approximation with tanh (Hendrycks and Gimpel 2016).
enum class Activation { silu, gelu, gelu_tanh, relu };

struct AttnParams {
  float scale = 1;
  int window = 0;     // > 0: a query sees only the last `window` positions, itself included
  float softcap = 0;  // > 0: scores become softcap * tanh(score / softcap)
  // f32 [heads]: what a score then loses for every token between its key and its query (Press et
  // al. 2022); absent: nothing. Counted from the query, so that the keys that matter, which are the
  // near ones, have small and exact biases however long the context.
  Tensor alibi = {};
};

// Per-draw sampling inputs; every array is [num_draws] unless said otherwise. A draw's random
// number depends only on (seed, position), never on the batch. Penalties and biases are sparse
// lists per draw, so rows without them cost nothing. Order: repetition, presence and frequency
// penalties, bias, mask, then temperature, top-k, min-p, top-p, draw. temperature 0 is argmax
// (lowest id wins). Top-k keeps exactly k (of equals the lower ids), min-p what is at least min_p
// times as likely as the best, top-p the fewest of the likeliest that hold top_p of what is left;
// at least one token always stays. A NaN logit counts as -inf. Where penalties, biases and mask ban
// everything the draw is the argmax of the raw logits: a constraint that allows nothing is for the
// caller to notice before.
struct SampleBatch {
  int num_draws = 0;
  Tensor row;                              // i32: which row of the logits each draw is from
  Tensor temperature, top_p, min_p;        // f32
  Tensor top_k;                            // i32; 0: off
  Tensor seed;                             // u64
  Tensor position;                         // i32: index of the token to be drawn in its sequence
  Tensor presence, frequency, repetition;  // f32; absent when no draw has penalties
  // CSR of each draw's distinct context tokens, with how often each was *generated* (0: it occurs
  // in the prompt only). Absent together with the penalties; rows without penalties are empty.
  Tensor history_offsets, history_ids, history_counts;  // i32 [num_draws + 1], [nnz], [nnz]
  // i32 [num_draws]: a token generated last, whose count the history lacks, or -1: where the device
  // knows it before the host does. May be absent.
  Tensor unseen;
  Tensor bias_offsets, bias_ids,
      bias_values;       // i32 [num_draws + 1], i32 [nnz], f32 [nnz] (-inf bans)
  Tensor allowed_mask;   // u32 [num_draws, ceil(vocab / 32)]; absent when nothing is constrained
  int top_logprobs = 0;  // most that any draw wants
};
// Logprobs are of the raw model distribution: before penalties, masks and temperature.
struct SampleOut {
  Tensor token;        // i32 [num_draws]
  Tensor logprob;      // f32 [num_draws]
  Tensor top_token;    // i32 [num_draws, top_logprobs], best first, ties by lower id; -1 past vocab
  Tensor top_logprob;  // f32 [num_draws, top_logprobs]
};

// What the QKV region of a layer needs beside its input (see Ops::qkv_rope_write).
struct QkvParams {
  int num_heads = 0, num_kv_heads = 0, head_dim = 0;
  Tensor q_norm, k_norm;  // [head_dim]; absent: no q/k norm
  float eps = 0;
  // f32 [max_positions, rotary_dim]: cosines, then sines, rotary_dim / 2 each, rotary_dim at most
  // head_dim; absent: nothing is rotated.
  Tensor cos_sin;
};

// Activations as a product in fp8 takes them (see Ops::takes_fp8_rows), over the memory of 16-bit
// x [n, d], d a multiple of 16: n rows of d codes, one behind the other, and then a scale (f32) for
// each row.
inline Tensor fp8_rows(const Tensor& x) {
  CHECK(bits_of(x.dtype) == 16 && x.contiguous());
  return Tensor::of(x.data, DType::fp8_e4m3, {x.shape[0], x.shape[1]});
}
inline Tensor scales_of(const Tensor& fp8_rows) {
  return Tensor::of(static_cast<char*>(fp8_rows.data) + fp8_rows.size(), DType::f32,
                    {fp8_rows.shape[0]});
}

// What a model asks of a device in attention, in layers that have as many heads as each other.
struct AttentionHeads {
  int num_heads = 0, num_kv_heads = 0, head_dim = 0;
  std::vector<int> windows = {0};  // of these layers, each once; as AttnParams::window
};

// The largest step that a device will see.
struct OpsLimits {
  int max_seqs = 0;        // rows of a step
  int max_tokens = 0;      // of a step
  int max_context = 0;     // tokens of a sequence
  int max_logit_rows = 0;  // of one sample() or token_logprobs()
  int max_fp8_inputs = 0;  // in_features of a layer in fp8; 0: there is none
  int vocab_size = 0;
  int num_experts = 0, max_expert_rows = 0;  // of one expert_matmul(); 0: there is none
  std::vector<AttentionHeads> heads;         // of all layers, each once
};

// Rows of a matrix of noise (base/random_weights.h) as a checkpoint would have them: element
// (r, c) is that of index r * row_step + c * column_step, rounded to `stored`, and in fp8_e4m3
// divided by the scale of its row before.
struct RandomRows {
  DType stored = DType::f32;
  uint64_t stream = 0;
  int64_t first = 0, count = 0;  // rows
  int64_t row_step = 0, column_step = 1;
};

// The instruction set of the machine: everything a model may ask of a device.
// One flat interface, two final implementations (CpuOps, CudaOps), one decorator
// (CheckedOps: shapes and dtypes per op). An Ops is bound to one stream.
// A fused op has a default body written in the plain ops, so a new device works
// before it is fast and every fusion has a reference to be tested against.
//
// Activations are act_dtype() (f32 on CPU); every sum is accumulated in f32.
//
// On CPU every matmul and attention path accumulates an output element in one K (KV)
// order whatever the number of rows, so results do not depend on the batch, the chunk
// size or preemption; tests hold that bit for bit. CUDA can, where it is asked for.
class Ops {
 public:
  virtual ~Ops() = default;

  virtual DType act_dtype() const = 0;
  // How linear layers that are `wanted` are kept, and keys and values of a model with such layers
  // unless something else that the device has is asked for.
  virtual DType weight_dtype(DType wanted) const = 0;
  virtual DType kv_dtype(DType weights) const = 0;
  virtual bool keeps_kv_as(DType) const = 0;
  // As weight_dtype(), of what expert_matmul() multiplies by.
  virtual DType expert_dtype(DType wanted) const { return weight_dtype(wanted); }
  // Empty, or what of this the device cannot compute: "head_dim = 80 (it has 64 and 128)".
  virtual std::string lacks(const AttentionHeads&, int /*block_size*/) const { return {}; }

  // Memory that ops take beside their arguments, in all; it is taken once, before the first step.
  virtual size_t workspace_bytes(const OpsLimits&) const { return 0; }
  virtual void reserve(const OpsLimits&) {}
  // Once before the ops of a step: its batch, with arrays that the host can read while they are
  // called. False: a capture of a step of decodes alone cannot be replayed for this one.
  virtual bool begin_step(const AttnBatch& /*host*/) { return true; }

  // --- weights, at load ---
  // Bytes that a linear layer of this shape takes in this device's layout (64-byte multiple). Its
  // type is one that weight_dtype() or expert_dtype() gave.
  virtual size_t weight_bytes(DType, int64_t out_features, int64_t in_features) const = 0;
  // A Weight over `memory` (weight_bytes() of zeroed device memory, 64-byte aligned).
  virtual Weight make_weight(void* memory, DType, int64_t out_features, int64_t in_features) = 0;
  // Writes output rows [first_row, first_row + src.shape[0]) from a plain host matrix
  // src [rows, in_features] of f32, f16 or bf16, or of fp8_e4m3 with `src_scale` (f32 [rows]),
  // converting to the weight's dtype. A weight of fp8_e4m3 takes codes and scales of that type as
  // they are; of another, each row is quantised to its own scale (quantize.h) and values must be
  // finite. Different row ranges may be packed from several threads at once.
  virtual void pack_rows(const Weight& dst, int64_t first_row, const Tensor& src,
                         const Tensor& src_scale = {}) = 0;

  // As pack_rows(), of rows that are made where the weight is, by the time that the compute stream
  // has done what it was given. False: it is not done here, for such rows or at all.
  virtual bool make_rows(const Weight& /*dst*/, int64_t /*first_row*/, const RandomRows&) {
    return false;
  }

  // Once a model's layers are packed, and before the first step, of those whose products have
  // results of one type (matmul()'s out): a device may find out what computes them fastest.
  virtual void prepare(std::span<const Weight> /*layers*/, DType /*out*/) {}

  // Whether matmul() and matmul_silu_mul() by these weights take x as fp8_rows() too. Then
  // rms_norm(), add_rms_norm(), silu_mul() and gelu_mul() have an `out` of that kind: the 16 bits
  // that they would have written, quantised by the row on the way.
  virtual bool takes_fp8_rows(const Weight&) const { return false; }

  // --- plain ops ---
  // out [n, hidden] = rows `ids` (i32 [n]) of a packed table [vocab, hidden].
  virtual void embed(Tensor out, const Weight& table, Tensor ids) = 0;
  // out [n, out_features] = x [n, in_features] * w^T (+ bias). Row strides are free.
  virtual void matmul(Tensor out, Tensor x, const Weight& w) = 0;
  // Over the last dim; rank 2 or 3, strided; out may be x. weight: act or f32 [last dim].
  virtual void rms_norm(Tensor out, Tensor x, Tensor weight, float eps) = 0;
  // Of each row of x [n, d]: (x - mean) / sqrt(variance + eps) * weight + bias; out may be x.
  // weight, bias: f32 [d]; the bias may be absent.
  virtual void layer_norm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) = 0;
  // out = a + b, [n, d]; out may be a or b.
  virtual void add(Tensor out, Tensor a, Tensor b) = 0;
  // out [n, d] = silu(gate_up[:, :d]) * gate_up[:, d:].
  virtual void silu_mul(Tensor out, Tensor gate_up) = 0;
  // The same with gelu_tanh.
  virtual void gelu_mul(Tensor out, Tensor gate_up) = 0;
  // In place on x [n, d].
  virtual void activate(Tensor x, Activation) = 0;
  // In place on x [n, d], of act_dtype() or f32: x *= factor, then, with softcap > 0,
  // x = softcap * tanh(x / softcap).
  virtual void scale(Tensor x, float factor, float softcap = 0) = 0;
  // In place on qk [n, heads, dim] (strided): pairs (i, i + rotary_dim / 2) are rotated by the
  // row's position (i32 [n]); the other dims stay. cos_sin as in QkvParams.
  virtual void rope(Tensor qk, Tensor positions, Tensor cos_sin) = 0;
  // k, v [n, kv_heads, dim] (strided) into the slots slot_mapping (i32 [n]).
  virtual void write_kv(KvView cache, Tensor k, Tensor v, Tensor slot_mapping) = 0;
  // out, q [n, heads, dim] (strided). Query head h reads KV head h / (heads / kv_heads).
  virtual void attention(Tensor out, Tensor q, KvView cache, const AttnBatch&,
                         const AttnParams&) = 0;
  // Experts for each row of logits [n, num_experts], f32: the k likeliest, best first, of equals
  // the lower id, into experts (i32 [n, k]); their softmax into weights (f32 [n, k]), divided by
  // its sum if `normed`.
  virtual void route(Tensor experts, Tensor weights, Tensor logits, bool normed) = 0;
  // out [n * k, d]: row i = x [n, in] row i / k by the weights of expert experts[i] (i32 [n * k]).
  // w [num_experts * d, in] has expert after expert and no bias; d is a multiple of 16.
  virtual void expert_matmul(Tensor out, Tensor x, const Weight& w, Tensor experts) = 0;
  // out [n, d] row i = the sum over j of weights [n, k] (i, j) times x [n * k, d] row i * k + j.
  virtual void mix_rows(Tensor out, Tensor x, Tensor weights) = 0;
  // out [n, d] += sigmoid(gate [n, 1], f32) * x.
  virtual void add_gated(Tensor out, Tensor x, Tensor gate) = 0;
  // out [m, d] = rows (i32 [m]) of x [n, d].
  virtual void gather_rows(Tensor out, Tensor x, Tensor rows) = 0;
  // Tokens that the host does not know yet: dst[to[i]] = src[from[i]], all i32; to, from [n].
  virtual void move_tokens(Tensor dst, Tensor to, Tensor src, Tensor from) = 0;
  // logits f32 [num_rows, vocab]; not changed.
  virtual void sample(const SampleOut&, Tensor logits, const SampleBatch&) = 0;
  // Log-probabilities of given tokens: out.logprob [n] of targets (i32 [n]), row i of logits for
  // target i, and the `top` best of each row in out.top_* ([n, top]). out.token is not used.
  virtual void token_logprobs(const SampleOut& out, Tensor logits, Tensor targets, int top) = 0;

  // --- fusions: override when the device has a better way ---
  // residual += x; out = rms_norm(residual).
  virtual void add_rms_norm(Tensor out, Tensor residual, Tensor x, Tensor weight, float eps) {
    add(residual, residual, x);
    rms_norm(out, residual, weight, eps);
  }
  // On qkv [n, (heads + 2 * kv_heads) * dim]: q/k norm where present, rotary embedding of q and k
  // in place, K and V into the cache. The rotated queries stay in the first heads * dim columns.
  virtual void qkv_rope_write(Tensor qkv, const QkvParams& p, Tensor positions, KvView cache,
                              Tensor slot_mapping) {
    const int64_t q_cols = int64_t(p.num_heads) * p.head_dim;
    const int64_t kv_cols = int64_t(p.num_kv_heads) * p.head_dim;
    const Tensor q = qkv.cols(0, q_cols).heads(p.head_dim);
    const Tensor k = qkv.cols(q_cols, kv_cols).heads(p.head_dim);
    const Tensor v = qkv.cols(q_cols + kv_cols, kv_cols).heads(p.head_dim);
    if (p.q_norm) rms_norm(q, q, p.q_norm, p.eps);
    if (p.k_norm) rms_norm(k, k, p.k_norm, p.eps);
    if (p.cos_sin) rope(q, positions, p.cos_sin);
    if (p.cos_sin) rope(k, positions, p.cos_sin);
    write_kv(cache, k, v, slot_mapping);
  }
  // out [n, out_features] = activation(x * w^T (+ bias)).
  virtual void matmul_activate(Tensor out, Tensor x, const Weight& w, Activation activation) {
    matmul(out, x, w);
    activate(out, activation);
  }
  // out [n, d] = silu(gate) * up where [gate | up] = x * w^T; w is [2 * d, in]. `scratch` [n, 2 *
  // d].
  virtual void matmul_silu_mul(Tensor out, Tensor x, const Weight& w, Tensor scratch) {
    matmul(scratch, x, w);
    silu_mul(out, scratch);
  }
  // The same by each row's expert, as expert_matmul() has them: w [num_experts * 2 * d, in].
  virtual void expert_silu_mul(Tensor out, Tensor x, const Weight& w, Tensor experts,
                               Tensor scratch) {
    expert_matmul(scratch, x, w, experts);
    silu_mul(out, scratch);
  }
};

}  // namespace sluice
