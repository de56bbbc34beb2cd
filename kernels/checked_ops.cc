#include "kernels/checked_ops.h"

#include <cmath>
#include <initializer_list>

#include "base/check.h"

namespace sluice {
namespace {

// A tensor of this dtype and shape with a contiguous last dim and rows that do not overlap; -1:
// any.
void check(const Tensor& t, DType dtype, std::initializer_list<int64_t> shape) {
  CHECK(t.dtype == dtype);
  CHECK(t.rank == int(shape.size()));
  int i = 0;
  for (const int64_t n : shape) {
    CHECK(n < 0 || t.shape[i] == n);
    ++i;
  }
  CHECK(t.data != nullptr || t.size() == 0);
  CHECK(t.rank == 0 || t.shape[t.rank - 1] <= 1 || t.stride[t.rank - 1] == 1);
  for (int d = 0; d + 1 < t.rank; ++d) {
    CHECK(t.shape[d] <= 1 || t.stride[d] >= t.shape[t.rank - 1]);
  }
}

// i32 [n], every value in [begin, end).
void check_indices(const Tensor& t, int64_t n, int64_t begin, int64_t end) {
  check(t, DType::i32, {n});
  for (int64_t i = 0; i < t.shape[0]; ++i) {
    CHECK(t.as<int32_t>()[i] >= begin && t.as<int32_t>()[i] < end);
  }
}

// i32 [n + 1], from 0, never falling; returns the last.
int64_t check_offsets(const Tensor& t, int64_t n) {
  check(t, DType::i32, {n + 1});
  CHECK(t.as<int32_t>()[0] == 0);
  for (int64_t i = 0; i < n; ++i) CHECK(t.as<int32_t>()[i] <= t.as<int32_t>()[i + 1]);
  return t.as<int32_t>()[n];
}

bool is_weight(DType t) {
  return t == DType::f32 || t == DType::f16 || t == DType::bf16 || t == DType::fp8_e4m3;
}

// f32 [rows] beside values of fp8, else absent.
void check_scale(const Tensor& scale, DType values, int64_t rows) {
  CHECK(bool(scale) == (values == DType::fp8_e4m3));
  if (scale) check(scale, DType::f32, {rows});
}

void check_weight(const Weight& w, DType act) {
  CHECK(w.data && w.data.rank == 2);
  CHECK(is_weight(w.data.dtype));
  CHECK(reinterpret_cast<uintptr_t>(w.data.data) % 64 == 0);
  check_scale(w.scale, w.data.dtype, w.out_features());
  if (w.bias) check(w.bias, act, {w.out_features()});
}

void check_cache(const KvView& c) {
  CHECK(c.k.dtype == c.v.dtype);
  CHECK(c.k.dtype == DType::f32 || c.k.dtype == DType::bf16 || c.k.dtype == DType::fp8_e4m3);
  for (const Tensor* t : {&c.k, &c.v}) {
    check(*t, c.k.dtype, {c.k.shape[0], c.k.shape[1], c.k.shape[2], c.k.shape[3]});
    CHECK(t->shape[2] >= 1 && t->shape[3] >= 1);
  }
  for (const float scale : {c.k_scale, c.v_scale})
    CHECK(std::isfinite(scale) && (c.k.dtype == DType::fp8_e4m3 ? scale > 0 : scale == 1));
}

// Distinct slots of the cache: two tokens never share one.
void check_slots(const KvView& cache, const Tensor& slots, int64_t n) {
  check_indices(slots, n, 0, cache.k.shape[0] * cache.k.shape[2]);
  for (int64_t i = 1; i < n; ++i) CHECK(slots.as<int32_t>()[i] != slots.as<int32_t>()[i - 1]);
}

void check_qkv(const QkvParams& p, DType act) {
  CHECK(p.num_heads > 0 && p.num_kv_heads > 0 && p.num_heads % p.num_kv_heads == 0);
  CHECK(p.head_dim > 0);
  for (const Tensor* t : {&p.q_norm, &p.k_norm}) {
    if (*t) check(*t, t->dtype == DType::f32 ? DType::f32 : act, {p.head_dim});
  }
  if (p.cos_sin) check(p.cos_sin, DType::f32, {-1, -1});
}

}  // namespace

size_t CheckedOps::weight_bytes(DType t, int64_t out_features, int64_t in_features) const {
  CHECK(out_features > 0 && in_features > 0);
  const size_t bytes = ops_.weight_bytes(t, out_features, in_features);
  CHECK(bytes % 64 == 0);
  return bytes;
}

Weight CheckedOps::make_weight(void* memory, DType t, int64_t out_features, int64_t in_features) {
  CHECK(out_features > 0 && in_features > 0);
  const Weight w = ops_.make_weight(memory, t, out_features, in_features);
  check_weight(w, act_dtype());
  return w;
}

void CheckedOps::pack_rows(const Weight& dst, int64_t first_row, const Tensor& src,
                           const Tensor& src_scale) {
  check_weight(dst, act_dtype());
  check(src, src.dtype, {-1, dst.in_features()});
  CHECK(is_weight(src.dtype));
  check_scale(src_scale, src.dtype, src.shape[0]);
  CHECK(first_row >= 0 && first_row + src.shape[0] <= dst.out_features());
  ops_.pack_rows(dst, first_row, src, src_scale);
}

bool CheckedOps::make_rows(const Weight& dst, int64_t first_row, const RandomRows& rows) {
  check_weight(dst, act_dtype());
  CHECK(is_weight(rows.stored) && rows.first >= 0 && rows.count > 0);
  CHECK(first_row >= 0 && first_row + rows.count <= dst.out_features());
  return ops_.make_rows(dst, first_row, rows);
}

void CheckedOps::embed(Tensor out, const Weight& table, Tensor ids) {
  check_weight(table, act_dtype());
  check(out, act_dtype(), {-1, table.in_features()});
  check_indices(ids, out.shape[0], 0, table.out_features());
  ops_.embed(out, table, ids);
}

void CheckedOps::matmul(Tensor out, Tensor x, const Weight& w) {
  check_weight(w, act_dtype());
  check(x, act_dtype(), {-1, w.in_features()});
  check(out, out.dtype == DType::f32 ? DType::f32 : act_dtype(), {x.shape[0], w.out_features()});
  ops_.matmul(out, x, w);
}

void CheckedOps::rms_norm(Tensor out, Tensor x, Tensor weight, float eps) {
  CHECK(x.rank == 2 || x.rank == 3);
  if (x.rank == 2) {
    check(x, act_dtype(), {-1, -1});
    check(out, act_dtype(), {x.shape[0], x.shape[1]});
  } else {
    check(x, act_dtype(), {-1, -1, -1});
    check(out, act_dtype(), {x.shape[0], x.shape[1], x.shape[2]});
  }
  check(weight, weight.dtype == DType::f32 ? DType::f32 : act_dtype(), {x.shape[x.rank - 1]});
  CHECK(eps >= 0);
  ops_.rms_norm(out, x, weight, eps);
}

void CheckedOps::layer_norm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  check(x, act_dtype(), {-1, -1});
  check(out, act_dtype(), {x.shape[0], x.shape[1]});
  check(weight, DType::f32, {x.shape[1]});
  if (bias) check(bias, DType::f32, {x.shape[1]});
  CHECK(eps >= 0);
  ops_.layer_norm(out, x, weight, bias, eps);
}

void CheckedOps::add(Tensor out, Tensor a, Tensor b) {
  check(out, act_dtype(), {-1, -1});
  check(a, act_dtype(), {out.shape[0], out.shape[1]});
  check(b, act_dtype(), {out.shape[0], out.shape[1]});
  ops_.add(out, a, b);
}

void CheckedOps::silu_mul(Tensor out, Tensor gate_up) {
  check(out, act_dtype(), {-1, -1});
  check(gate_up, act_dtype(), {out.shape[0], 2 * out.shape[1]});
  ops_.silu_mul(out, gate_up);
}

void CheckedOps::gelu_mul(Tensor out, Tensor gate_up) {
  check(out, act_dtype(), {-1, -1});
  check(gate_up, act_dtype(), {out.shape[0], 2 * out.shape[1]});
  ops_.gelu_mul(out, gate_up);
}

void CheckedOps::activate(Tensor x, Activation activation) {
  check(x, act_dtype(), {-1, -1});
  ops_.activate(x, activation);
}

void CheckedOps::scale(Tensor x, float factor, float softcap) {
  check(x, x.dtype == DType::f32 ? DType::f32 : act_dtype(), {-1, -1});
  CHECK(std::isfinite(factor) && softcap >= 0);
  ops_.scale(x, factor, softcap);
}

void CheckedOps::rope(Tensor qk, Tensor positions, Tensor cos_sin) {
  check(qk, act_dtype(), {-1, -1, -1});
  check(cos_sin, DType::f32, {-1, -1});
  CHECK(cos_sin.shape[1] % 2 == 0 && cos_sin.shape[1] <= qk.shape[2]);
  check_indices(positions, qk.shape[0], 0, cos_sin.shape[0]);
  ops_.rope(qk, positions, cos_sin);
}

void CheckedOps::write_kv(KvView cache, Tensor k, Tensor v, Tensor slot_mapping) {
  check_cache(cache);
  check(k, act_dtype(), {-1, cache.k.shape[1], cache.k.shape[3]});
  check(v, act_dtype(), {k.shape[0], cache.k.shape[1], cache.k.shape[3]});
  check_slots(cache, slot_mapping, k.shape[0]);
  ops_.write_kv(cache, k, v, slot_mapping);
}

void CheckedOps::attention(Tensor out, Tensor q, KvView cache, const AttnBatch& b,
                           const AttnParams& p) {
  check_cache(cache);
  check(q, act_dtype(), {-1, -1, cache.k.shape[3]});
  check(out, act_dtype(), {q.shape[0], q.shape[1], q.shape[2]});
  CHECK(q.shape[1] % cache.k.shape[1] == 0);
  CHECK(p.window >= 0 && p.softcap >= 0 && std::isfinite(p.scale));
  if (p.alibi) {
    check(p.alibi, DType::f32, {q.shape[1]});
    CHECK(p.alibi.contiguous());
    for (int64_t h = 0; h < q.shape[1]; ++h)
      CHECK(std::isfinite(p.alibi.as<float>()[h]) && p.alibi.as<float>()[h] >= 0);
  }
  CHECK(check_offsets(b.cu_q, b.num_seqs) == q.shape[0]);
  check(b.seq_lens, DType::i32, {b.num_seqs});
  check(b.block_tables, DType::i32, {b.num_seqs, -1});
  CHECK(b.block_tables.shape[1] % b.num_tables == 0 && cache.table < b.num_tables);
  const int64_t block_size = cache.k.shape[2];
  for (int64_t s = 0; s < b.num_seqs; ++s) {
    const int32_t tokens = b.cu_q.as<int32_t>()[s + 1] - b.cu_q.as<int32_t>()[s];
    const int32_t len = b.seq_lens.as<int32_t>()[s];
    CHECK(len >= tokens && tokens <= b.max_q && len <= b.max_seq_len);
    const int64_t blocks = (len + block_size - 1) / block_size;
    CHECK(blocks <= b.max_blocks());
    for (int64_t i = 0; i < blocks; ++i) {
      const int32_t id = b.block_tables.row<const int32_t>(s)[cache.table * b.max_blocks() + i];
      CHECK(id >= 0 && id < cache.k.shape[0]);
    }
  }
  ops_.attention(out, q, cache, b, p);
}

void CheckedOps::route(Tensor experts, Tensor weights, Tensor logits, bool normed) {
  check(logits, DType::f32, {-1, -1});
  check(experts, DType::i32, {logits.shape[0], -1});
  check(weights, DType::f32, {logits.shape[0], experts.shape[1]});
  CHECK(experts.contiguous() && weights.contiguous());
  CHECK(experts.shape[1] >= 1 && experts.shape[1] <= logits.shape[1]);
  ops_.route(experts, weights, logits, normed);
}

void CheckedOps::expert_matmul(Tensor out, Tensor x, const Weight& w, Tensor experts) {
  check_weight(w, act_dtype());
  check(x, act_dtype(), {-1, w.in_features()});
  check(out, act_dtype(), {-1, -1});
  CHECK(!w.bias && out.shape[1] % 16 == 0 && w.out_features() % out.shape[1] == 0);
  CHECK(x.shape[0] == 0 || out.shape[0] % x.shape[0] == 0);
  check_indices(experts, out.shape[0], 0, w.out_features() / out.shape[1]);
  ops_.expert_matmul(out, x, w, experts);
}

void CheckedOps::expert_silu_mul(Tensor out, Tensor x, const Weight& w, Tensor experts,
                                 Tensor scratch) {
  check_weight(w, act_dtype());
  check(x, act_dtype(), {-1, w.in_features()});
  check(out, act_dtype(), {-1, -1});
  check(scratch, act_dtype(), {out.shape[0], 2 * out.shape[1]});
  CHECK(!w.bias && out.shape[1] % 8 == 0 && w.out_features() % scratch.shape[1] == 0);
  CHECK(x.shape[0] == 0 || out.shape[0] % x.shape[0] == 0);
  check_indices(experts, out.shape[0], 0, w.out_features() / scratch.shape[1]);
  ops_.expert_silu_mul(out, x, w, experts, scratch);
}

void CheckedOps::mix_rows(Tensor out, Tensor x, Tensor weights) {
  check(weights, DType::f32, {-1, -1});
  check(out, act_dtype(), {weights.shape[0], -1});
  check(x, act_dtype(), {weights.shape[0] * weights.shape[1], out.shape[1]});
  ops_.mix_rows(out, x, weights);
}

void CheckedOps::add_gated(Tensor out, Tensor x, Tensor gate) {
  check(out, act_dtype(), {-1, -1});
  check(x, act_dtype(), {out.shape[0], out.shape[1]});
  check(gate, DType::f32, {out.shape[0], 1});
  ops_.add_gated(out, x, gate);
}

void CheckedOps::gather_rows(Tensor out, Tensor x, Tensor rows) {
  check(x, x.dtype, {-1, -1});
  check(out, x.dtype, {-1, x.shape[1]});
  check_indices(rows, out.shape[0], 0, x.shape[0]);
  ops_.gather_rows(out, x, rows);
}

void CheckedOps::move_tokens(Tensor dst, Tensor to, Tensor src, Tensor from) {
  check(dst, DType::i32, {-1});
  check(src, DType::i32, {-1});
  check_indices(to, from.shape[0], 0, dst.shape[0]);
  check_indices(from, to.shape[0], 0, src.shape[0]);
  ops_.move_tokens(dst, to, src, from);
}

void CheckedOps::sample(const SampleOut& out, Tensor logits, const SampleBatch& b) {
  const int64_t n = b.num_draws;
  check(logits, DType::f32, {-1, -1});
  const int64_t vocab = logits.shape[1];
  CHECK(n >= 0 && vocab >= 1);
  check_indices(b.row, n, 0, logits.shape[0]);
  for (const Tensor* t : {&b.temperature, &b.top_p, &b.min_p}) check(*t, DType::f32, {n});
  check(b.top_k, DType::i32, {n});
  check(b.seed, DType::u64, {n});
  check(b.position, DType::i32, {n});
  if (b.presence || b.frequency || b.repetition || b.history_offsets) {
    for (const Tensor* t : {&b.presence, &b.frequency, &b.repetition}) check(*t, DType::f32, {n});
    for (int64_t i = 0; i < n; ++i) CHECK(b.repetition.as<float>()[i] > 0);
    const int64_t nnz = check_offsets(b.history_offsets, n);
    check_indices(b.history_ids.rows(0, nnz), nnz, 0, vocab);
    check_indices(b.history_counts.rows(0, nnz), nnz, 0, INT32_MAX);
  }
  if (b.bias_offsets) {
    const int64_t nnz = check_offsets(b.bias_offsets, n);
    check_indices(b.bias_ids.rows(0, nnz), nnz, 0, vocab);
    check(b.bias_values.rows(0, nnz), DType::f32, {nnz});
  }
  if (b.allowed_mask) check(b.allowed_mask, DType::u32, {n, (vocab + 31) / 32});
  check(out.token, DType::i32, {n});
  check(out.logprob, DType::f32, {n});
  CHECK(b.top_logprobs >= 0);
  if (b.top_logprobs > 0) {
    check(out.top_token, DType::i32, {n, b.top_logprobs});
    check(out.top_logprob, DType::f32, {n, b.top_logprobs});
  }
  ops_.sample(out, logits, b);
}

void CheckedOps::token_logprobs(const SampleOut& out, Tensor logits, Tensor targets, int top) {
  check(logits, DType::f32, {-1, -1});
  const int64_t n = logits.shape[0];
  check_indices(targets, n, 0, logits.shape[1]);
  check(out.logprob, DType::f32, {n});
  CHECK(top >= 0);
  if (top > 0) {
    check(out.top_token, DType::i32, {n, top});
    check(out.top_logprob, DType::f32, {n, top});
  }
  ops_.token_logprobs(out, logits, targets, top);
}

void CheckedOps::add_rms_norm(Tensor out, Tensor residual, Tensor x, Tensor weight, float eps) {
  check(x, act_dtype(), {-1, -1});
  check(residual, act_dtype(), {x.shape[0], x.shape[1]});
  check(out, act_dtype(), {x.shape[0], x.shape[1]});
  check(weight, weight.dtype == DType::f32 ? DType::f32 : act_dtype(), {x.shape[1]});
  CHECK(eps >= 0);
  ops_.add_rms_norm(out, residual, x, weight, eps);
}

void CheckedOps::qkv_rope_write(Tensor qkv, const QkvParams& p, Tensor positions, KvView cache,
                                Tensor slot_mapping) {
  check_cache(cache);
  check_qkv(p, act_dtype());
  check(qkv, act_dtype(), {-1, int64_t{p.num_heads + 2 * p.num_kv_heads} * p.head_dim});
  CHECK(cache.k.shape[1] == p.num_kv_heads && cache.k.shape[3] == p.head_dim);
  CHECK(!p.cos_sin || (p.cos_sin.shape[1] % 2 == 0 && p.cos_sin.shape[1] <= p.head_dim));
  check_indices(positions, qkv.shape[0], 0, p.cos_sin ? p.cos_sin.shape[0] : INT32_MAX);
  check_slots(cache, slot_mapping, qkv.shape[0]);
  ops_.qkv_rope_write(qkv, p, positions, cache, slot_mapping);
}

void CheckedOps::matmul_activate(Tensor out, Tensor x, const Weight& w, Activation activation) {
  check_weight(w, act_dtype());
  check(x, act_dtype(), {-1, w.in_features()});
  check(out, act_dtype(), {x.shape[0], w.out_features()});
  ops_.matmul_activate(out, x, w, activation);
}

void CheckedOps::matmul_silu_mul(Tensor out, Tensor x, const Weight& w, Tensor scratch) {
  check_weight(w, act_dtype());
  CHECK(w.out_features() % 2 == 0);
  check(x, act_dtype(), {-1, w.in_features()});
  check(out, act_dtype(), {x.shape[0], w.out_features() / 2});
  check(scratch, act_dtype(), {x.shape[0], w.out_features()});
  ops_.matmul_silu_mul(out, x, w, scratch);
}

}  // namespace sluice
