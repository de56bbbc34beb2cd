#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/sample.h"
#include "kernels/ops.h"

namespace sluice::cpu {

// Floats on a cache line's border that only grow: after warm-up nothing is allocated.
class FloatBuffer {
 public:
  // Contents are lost when it grows.
  float* reserve(size_t count);

 private:
  struct Free {
    void operator()(void* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  std::unique_ptr<float, Free> data_;
  size_t size_ = 0;
};

// Ops on this machine's processors: cuts each op into pieces and runs them on the pool. Which
// piece runs where is chance; no result depends on it. Owned by the device, used by its one owner
// thread. Activations are f32.
class CpuOps final : public Ops {
 public:
  CpuOps(const Kernels& kernels, int num_threads);

  const Kernels& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }

  DType act_dtype() const override { return DType::f32; }
  DType weight_dtype(DType wanted) const override { return wanted; }
  DType kv_dtype(DType weights) const override {
    return weights == DType::f32 ? DType::f32 : DType::bf16;
  }
  bool keeps_kv_as(DType t) const override {
    return t == DType::f32 || t == DType::bf16 || t == DType::fp8_e4m3;
  }
  size_t weight_bytes(DType, int64_t out_features, int64_t in_features) const override;
  Weight make_weight(void* memory, DType, int64_t out_features, int64_t in_features) override;
  void pack_rows(const Weight& dst, int64_t first_row, const Tensor& src,
                 const Tensor& src_scale) override;

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
  void mix_rows(Tensor out, Tensor x, Tensor weights) override;
  void add_gated(Tensor out, Tensor x, Tensor gate) override;
  void gather_rows(Tensor out, Tensor x, Tensor rows) override;
  void move_tokens(Tensor dst, Tensor to, Tensor src, Tensor from) override;
  void sample(const SampleOut&, Tensor logits, const SampleBatch&) override;
  void token_logprobs(const SampleOut& out, Tensor logits, Tensor targets, int top) override;

  void add_rms_norm(Tensor out, Tensor residual, Tensor x, Tensor weight, float eps) override;
  void qkv_rope_write(Tensor qkv, const QkvParams& p, Tensor positions, KvView cache,
                      Tensor slot_mapping) override;
  void matmul_silu_mul(Tensor out, Tensor x, const Weight& w, Tensor scratch) override;

 private:
  struct AttentionTask {
    AttentionPiece piece;
    int64_t partial = -1;  // first of its partials where spans are computed apart
  };

  // body(row, worker) for rows of `width` elements, several rows to a piece.
  template <class Body>
  void for_rows(int64_t count, int64_t width, Body&& body);
  void gemm(Tensor out, Tensor x, const Weight& w, bool silu_mul);
  void stage_x(GemmArgs* args, const Tensor& x);
  void norm_row(const Tensor& out, const Tensor& x, const float* weight, float eps, int64_t row);
  void rope_row(const Tensor& qk, int64_t position, const Tensor& cos_sin, int64_t row);
  void write_kv_row(const KvView& cache, const Tensor& k, const Tensor& v, int64_t slot,
                    int64_t row);
  void attention_of(const AttentionArgs& args, const AttnBatch& batch, const KvView& cache);
  void plan_attention(const AttentionArgs& args, const AttnBatch& batch, const KvView& cache);
  void attention_by_spans(const AttentionArgs& args);
  void plan_experts(int64_t tiles, int64_t bytes_of_tile, int64_t row_step);
  void each_worker_reserves(size_t floats);

  Kernels kernels_;
  ThreadPool pool_;
  std::vector<FloatBuffer> scratch_;  // one per worker
  std::vector<Sampler> samplers_;     // one per worker
  FloatBuffer staged_x_;
  std::vector<AttentionTask> tasks_;
  FloatBuffer partial_floats_;
  FloatBuffer expert_in_, expert_out_;
  std::vector<int32_t> expert_begin_, expert_rows_;
  std::vector<std::pair<int, GemmPiece>> expert_pieces_;  // by expert
  std::vector<AttentionPartial> partials_;
};

}  // namespace sluice::cpu
