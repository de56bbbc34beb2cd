#pragma once

#include "engine/models/dense.h"
#include "engine/models/experts.h"

namespace sluice {

// The decoder of dense.h. What it computes is in dense.cc, its weights are in dense_weights.cc.
class DenseModel final : public Model {
 public:
  DenseModel(const ModelConfig& config, DType act, int max_len)
      : config_(config), act_(act), max_len_(max_len), layers_(config.num_layers) {}

  absl::Status open(const Safetensors& stored, Device& device, const LoadOptions& options);
  std::vector<CheckpointTensor> checkpoint();
  WeightReview review(const Safetensors& stored) {
    return review_weights(weight_list(base_in(stored)), stored);
  }

  Tensor hidden(const ForwardContext&, Tensor ids, Tensor positions) override;
  Tensor logits(const ForwardContext&, Tensor hidden, Tensor rows) override;

  const ModelConfig& config() const override { return config_; }
  int max_len() const override { return max_len_; }
  KvShape kv_shape() const override;
  std::vector<AttentionHeads> heads() const override;
  DType weight_dtype() const override { return weight_dtype_; }
  int max_fp8_inputs() const override { return max_fp8_inputs_; }
  size_t weight_bytes() const override { return weight_bytes_; }
  size_t scratch_bytes(int64_t max_tokens, int64_t max_logit_rows) const override;

 private:
  using Part = LayerConfig::Part;
  struct Norm {
    Tensor weight;  // [hidden]; absent: there is no such norm
    Tensor bias;    // [hidden]; absent but for layer norms
  };

  struct Layer {
    Norm before_attention, after_attention;
    Weight qkv;                      // [(heads + 2 * kv_heads) * head_dim, hidden]
    Tensor q_norm, k_norm;           // [head_dim], or of all heads; absent: none
    float k_scale = 1, v_scale = 1;  // of keys and values in fp8
    Weight o;                        // [hidden, heads * head_dim], or all there is of attention
    Norm before_mlp, after_mlp;
    Weight up;            // [2 * ffn, hidden], the gate first; [ffn, hidden] without one
    Weight down;          // [hidden, ffn], or all there is of the MLP
    ExpertLayer experts;  // in their place
  };

  // Scratch of one step, shared by all layers, those of sizes that differ by layer as large as the
  // largest; q is a view of qkv.
  struct Buffers {
    Tensor normed, projected;  // [num_tokens, hidden]
    Tensor parallel;           // [num_tokens, hidden]; absent without parallel residuals
    Tensor qkv;                // [num_tokens, (heads + 2 * kv_heads) * head_dim]
    Tensor attended;           // [num_tokens, heads * head_dim]
    Tensor up;                 // [num_tokens, 2 * ffn]; absent without a gate
    Tensor activated;          // [num_tokens, ffn]
    ExpertLayer::Buffers experts;

    // The part of such a buffer that a layer of `columns` uses.
    static Tensor of(const Tensor& t, int64_t columns) {
      CHECK(columns <= t.shape[1]);
      return Tensor::of(t.data, t.dtype, {t.shape[0], columns});
    }
  };
  void embed(const ForwardContext&, Tensor residual, Tensor ids, Tensor positions,
             const Buffers&) const;
  void attend(const ForwardContext&, int layer, Tensor x, Tensor positions, const Buffers&) const;
  void mlp(const ForwardContext&, int layer, Tensor x, Tensor out, const Buffers&) const;
  Tensor normed(Ops&, Tensor out, Tensor x, const Norm&) const;
  Tensor add_normed(Ops&, Tensor out, Tensor residual, Tensor x, const Norm&) const;

  int64_t q_cols(int layer) const {
    return int64_t{config_.layers[layer].num_heads} * config_.head_dim;
  }
  int64_t kv_cols(int layer) const {
    return int64_t{config_.layers[layer].num_kv_heads} * config_.head_dim;
  }
  int64_t up_rows(int64_t ffn_size) const { return ffn_size * (config_.gated_mlp ? 2 : 1); }
  std::string own_base() const;
  std::string base_in(const Safetensors&) const;
  WeightList weight_list(const std::string& base);
  void list_norm(WeightList&, Norm&, const std::string& name) const;
  void list_layer(WeightList&, int layer, const std::string& at);
  void list_attention(WeightList&, int layer, const std::string& at);
  void list_mlp(WeightList&, int layer, const std::string& at);
  void list_cache_scales(WeightList&, Layer&, const std::string& at) const;
  LinearSpec qkv_spec(Weight* out, int layer, const std::string& at) const;
  LinearSpec up_spec(Weight* out, int64_t ffn_size, const std::string& at) const;
  size_t rope_bytes() const;  // of one table
  void make_rope_tables(Device& device, int threads);
  void make_alibi(Device& device);
  void prepare_products(const WeightList& list, Ops& ops) const;
  Tensor take_residual(Arena&, int64_t num_tokens) const;
  Buffers take_buffers(Arena&, int64_t num_tokens) const;
  Tensor take_logits(Arena&, int64_t num_rows) const;
  Tensor take_picked(Arena&, int64_t num_rows) const;

  const ModelConfig config_;
  const TensorNames& names_ = config_.names;
  const DType act_;
  const int max_len_;
  bool has_local_rope_ = false;
  DType weight_dtype_ = DType::f32;
  int max_fp8_inputs_ = 0;
  size_t weight_bytes_ = 0;
  Device::Buffer memory_, rope_memory_, alibi_memory_;

  Weight embedding_;  // [vocab, hidden]
  Norm embedding_norm_;
  Weight positions_;  // [max_positions, hidden]; absent unless positions are learned
  std::vector<Layer> layers_;
  Norm final_norm_;
  Weight head_;                     // [vocab, hidden]; the embedding when tied
  Tensor cos_sin_, local_cos_sin_;  // f32 [max_len, rotary_dim]; absent unless used
  Tensor alibi_;                    // f32 [heads]; the same
};

}  // namespace sluice
