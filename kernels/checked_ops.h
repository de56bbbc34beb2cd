#pragma once

#include "kernels/ops.h"

namespace sluice {

// An Ops that CHECKs what every op's contract says (shapes, dtypes, strides, and every index that
// a kernel would follow: ids, rows, slots, block ids, offsets) and then calls the real one. For
// tests and debugging on host memory: it reads index arrays, so not for a device's own memory.
class CheckedOps final : public Ops {
 public:
  explicit CheckedOps(Ops& ops) : ops_(ops) {}

  DType act_dtype() const override { return ops_.act_dtype(); }
  DType weight_dtype(DType wanted) const override { return ops_.weight_dtype(wanted); }
  DType expert_dtype(DType wanted) const override { return ops_.expert_dtype(wanted); }
  DType kv_dtype(DType weights) const override { return ops_.kv_dtype(weights); }
  bool keeps_kv_as(DType t) const override { return ops_.keeps_kv_as(t); }
  size_t weight_bytes(DType, int64_t out_features, int64_t in_features) const override;
  Weight make_weight(void* memory, DType, int64_t out_features, int64_t in_features) override;
  void pack_rows(const Weight& dst, int64_t first_row, const Tensor& src,
                 const Tensor& src_scale = {}) override;
  bool make_rows(const Weight& dst, int64_t first_row, const RandomRows& rows) override;

  void embed(Tensor out, const Weight& table, Tensor ids) override;
  void matmul(Tensor out, Tensor x, const Weight& w) override;
  void rms_norm(Tensor out, Tensor x, Tensor weight, float eps) override;
  void layer_norm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) override;
  void add(Tensor out, Tensor a, Tensor b) override;
  void silu_mul(Tensor out, Tensor gate_up) override;
  void gelu_mul(Tensor out, Tensor gate_up) override;
  void activate(Tensor x, Activation) override;
  void scale(Tensor x, float factor, float softcap) override;
  void rope(Tensor qk, Tensor positions, Tensor cos_sin) override;
  void write_kv(KvView cache, Tensor k, Tensor v, Tensor slot_mapping) override;
  void attention(Tensor out, Tensor q, KvView cache, const AttnBatch&, const AttnParams&) override;
  void route(Tensor experts, Tensor weights, Tensor logits, bool normed) override;
  void expert_matmul(Tensor out, Tensor x, const Weight& w, Tensor experts) override;
  void expert_silu_mul(Tensor out, Tensor x, const Weight& w, Tensor experts,
                       Tensor scratch) override;
  void mix_rows(Tensor out, Tensor x, Tensor weights) override;
  void add_gated(Tensor out, Tensor x, Tensor gate) override;
  void gather_rows(Tensor out, Tensor x, Tensor rows) override;
  void move_tokens(Tensor dst, Tensor to, Tensor src, Tensor from) override;
  void sample(const SampleOut&, Tensor logits, const SampleBatch&) override;
  void token_logprobs(const SampleOut& out, Tensor logits, Tensor targets, int top) override;

  void add_rms_norm(Tensor out, Tensor residual, Tensor x, Tensor weight, float eps) override;
  void qkv_rope_write(Tensor qkv, const QkvParams& p, Tensor positions, KvView cache,
                      Tensor slot_mapping) override;
  void matmul_activate(Tensor out, Tensor x, const Weight& w, Activation) override;
  void matmul_silu_mul(Tensor out, Tensor x, const Weight& w, Tensor scratch) override;

 private:
  Ops& ops_;
};

}  // namespace sluice
