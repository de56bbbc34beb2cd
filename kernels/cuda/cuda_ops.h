#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/attention_lists.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/step_trace.h"
#include "kernels/ops.h"

namespace sluice::cuda {

// Ops as launches on one stream. Activations, weights, keys and values are all of one 16-bit type,
// but for a cache and experts in fp8, and layers in fp8 where the library multiplies such for this
// GPU: their inputs are quantised by the row as they come. Elsewhere, and where results must not
// depend on the batch, layers of fp8 are widened as they are packed, and so are layers and experts
// whose sizes are no multiples of 16. Every call returns at once. Results do not depend on what
// else is in a batch, but for matrix products where that was not asked for. Owned by the device,
// used by its one owner thread.
class CudaOps final : public Ops {
 public:
  // batch_invariant: results do not depend on what else is in a batch; slower with many tokens.
  CudaOps(Runtime&, Stream, DType act, bool batch_invariant, PlanCache = {});
  ~CudaOps() override { runtime_.set_trace(nullptr); }

  StepTrace& trace() { return trace_; }
  DType act_dtype() const override { return act_; }
  DType weight_dtype(DType wanted) const override {
    const bool fp8 = runtime_.info().has_fp8_products && !products_.invariant();
    return wanted == DType::fp8_e4m3 && fp8 ? wanted : act_;
  }
  DType expert_dtype(DType wanted) const override {
    return wanted == DType::fp8_e4m3 ? wanted : act_;
  }
  DType kv_dtype(DType) const override { return act_; }
  bool keeps_kv_as(DType t) const override { return t == act_ || t == DType::fp8_e4m3; }
  std::string lacks(const AttentionHeads&, int block_size) const override;

  size_t workspace_bytes(const OpsLimits&) const override;
  void reserve(const OpsLimits&) override;
  bool begin_step(const AttnBatch& host) override;

  size_t weight_bytes(DType, int64_t out_features, int64_t in_features) const override;
  Weight make_weight(void* memory, DType, int64_t out_features, int64_t in_features) override;
  void pack_rows(const Weight& dst, int64_t first_row, const Tensor& src,
                 const Tensor& src_scale) override;
  bool make_rows(const Weight& dst, int64_t first_row, const RandomRows& rows) override;

  void prepare(std::span<const Weight> layers, DType out) override {
    products_.measure(layers, out);
  }

  bool takes_fp8_rows(const Weight& w) const override {
    return w.data && w.data.dtype == DType::fp8_e4m3;
  }

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

  void matmul_activate(Tensor out, Tensor x, const Weight& w, Activation) override;
  void matmul_silu_mul(Tensor out, Tensor x, const Weight& w, Tensor scratch) override;
  void add_rms_norm(Tensor out, Tensor residual, Tensor x, Tensor weight, float eps) override;
  void qkv_rope_write(Tensor qkv, const QkvParams& p, Tensor positions, KvView cache,
                      Tensor slot_mapping) override;

 private:
  // What decode's chunks leave for each other, in 4-byte words.
  struct Partials {
    int64_t rows = 0, out = 0, stats = 0, tickets = 0;
    Partials(const OpsLimits&);
  };
  // A matmul's inputs in fp8, in bytes: codes, then scales.
  struct Quantized {
    size_t codes, scales;
    Quantized(const OpsLimits&);
  };
  DType kept_as(DType wanted, int64_t out_features, int64_t in_features) const;
  void multiply(const Tensor& out, const Tensor& x, const Weight&, std::optional<Activation>);
  // First of all in an op.
  void note(const char* op, std::initializer_list<const Tensor*> operands);
  int sample_blocks(const OpsLimits&) const;
  // Whether a product by these experts, of as many rows as `out` has, is one of tiles.
  bool takes_tiles(const Tensor& out, const Tensor& x, const Weight& w, int64_t width) const;
  const AttentionLists& lists(const AttentionShape&) const;

  Runtime& runtime_;
  const Stream stream_;
  const DType act_;
  Products products_;
  StepTrace trace_;

  // --- from reserve() on ---
  OpsLimits limits_;
  Device::Buffer partials_, sample_scratch_, quantized_, grouped_;
  std::vector<std::unique_ptr<AttentionLists>> lists_;  // for each window of each kind of heads
};

}  // namespace sluice::cuda
