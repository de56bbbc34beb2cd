#include "engine/models/dense.h"

#include <cmath>

#include "engine/layers.h"
#include "engine/weights.h"

namespace sluice {
namespace {

struct Layer {
  Tensor input_norm;      // [hidden]
  Weight qkv;             // [(heads + 2 * kv_heads) * head_dim, hidden]
  Tensor q_norm, k_norm;  // [head_dim]; absent in Llama
  Weight o;               // [hidden, heads * head_dim]
  Tensor post_norm;       // [hidden]
  Weight gate_up;         // [2 * ffn, hidden]
  Weight down;            // [hidden, ffn]
};

class DenseModel final : public Model {
 public:
  DenseModel(const ModelConfig& config, DType act, int max_len)
      : config_(config), act_(act), max_len_(max_len), layers_(config.num_layers) {}

  absl::Status open(const Safetensors& stored, Device& device, const LoadOptions& options);

  Tensor hidden(const ForwardContext&, Tensor ids, Tensor positions) override;
  Tensor logits(const ForwardContext&, Tensor hidden, Tensor rows) override;

  const ModelConfig& config() const override { return config_; }
  int max_len() const override { return max_len_; }
  KvShape kv_shape() const override;
  AttentionHeads heads() const override {
    return {config_.num_heads, config_.num_kv_heads, config_.head_dim};
  }
  DType weight_dtype() const override { return weight_dtype_; }
  size_t weight_bytes() const override { return weight_bytes_; }
  size_t scratch_bytes(int64_t max_tokens, int64_t max_logit_rows) const override;

 private:
  // Scratch of one step, shared by all layers; q is a view of qkv.
  struct Buffers {
    Tensor normed, projected;  // [num_tokens, hidden]
    Tensor qkv;                // [num_tokens, (heads + 2 * kv_heads) * head_dim]
    Tensor attended;           // [num_tokens, heads * head_dim]
    Tensor gate_up;            // [num_tokens, 2 * ffn]
    Tensor activated;          // [num_tokens, ffn]
  };
  WeightList weight_list();
  Tensor take_residual(Arena&, int64_t num_tokens) const;
  Buffers take_buffers(Arena&, int64_t num_tokens) const;
  Tensor take_logits(Arena&, int64_t num_rows) const;
  Tensor take_picked(Arena&, int64_t num_rows) const;

  const ModelConfig config_;
  const DType act_;
  const int max_len_;
  DType weight_dtype_ = DType::f32;
  size_t weight_bytes_ = 0;
  Device::Buffer memory_, rope_memory_;

  Weight embedding_;  // [vocab, hidden]
  std::vector<Layer> layers_;
  Tensor final_norm_;  // [hidden]
  Weight head_;        // [vocab, hidden]; the embedding when tied
  Tensor cos_sin_;     // f32 [max_len, head_dim]
};

Tensor DenseModel::hidden(const ForwardContext& ctx, Tensor ids, Tensor positions) {
  CHECK(embedding_.data);  // a plan has no weights
  const ModelConfig& c = config_;
  Ops& ops = ctx.ops;
  const AttnParams attn{.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim))};
  const Tensor residual = take_residual(ctx.scratch, ids.shape[0]);
  Arena::Scope scope(ctx.scratch);
  const Buffers b = take_buffers(ctx.scratch, ids.shape[0]);
  const Tensor q = b.qkv.cols(0, int64_t{c.num_heads} * c.head_dim).heads(c.head_dim);

  ops.embed(residual, embedding_, ids);
  ops.rms_norm(b.normed, residual, layers_[0].input_norm, c.rms_norm_eps);
  for (int i = 0; i < c.num_layers; ++i) {
    const Layer& layer = layers_[i];
    const KvView kv = ctx.kv.layer(i);
    ops.matmul(b.qkv, b.normed, layer.qkv);
    ops.qkv_rope_write(b.qkv,
                       {c.num_heads, c.num_kv_heads, c.head_dim, layer.q_norm, layer.k_norm,
                        c.rms_norm_eps, cos_sin_},
                       positions, kv, ctx.attn.slot_mapping);
    ops.attention(b.attended.heads(c.head_dim), q, kv, ctx.attn, attn);
    ops.matmul(b.projected, b.attended, layer.o);
    ctx.comm.all_reduce(b.projected);
    ops.add_rms_norm(b.normed, residual, b.projected, layer.post_norm, c.rms_norm_eps);
    ops.matmul_silu_mul(b.activated, b.normed, layer.gate_up, b.gate_up);
    ops.matmul(b.projected, b.activated, layer.down);
    ctx.comm.all_reduce(b.projected);
    if (i + 1 < c.num_layers) {
      ops.add_rms_norm(b.normed, residual, b.projected, layers_[i + 1].input_norm, c.rms_norm_eps);
    } else {
      ops.add(residual, residual, b.projected);
    }
  }
  return residual;
}

Tensor DenseModel::logits(const ForwardContext& ctx, Tensor hidden, Tensor rows) {
  // The logits outlive this call, the gathered rows need not: taken last, given back.
  const Tensor out = take_logits(ctx.scratch, rows.shape[0]);
  Arena::Scope scope(ctx.scratch);
  const Tensor picked = take_picked(ctx.scratch, rows.shape[0]);
  ctx.ops.gather_rows(picked, hidden, rows);
  ctx.ops.rms_norm(picked, picked, final_norm_, config_.rms_norm_eps);
  ctx.ops.matmul(out, picked, head_);
  return out;
}

Tensor DenseModel::take_residual(Arena& arena, int64_t num_tokens) const {
  return arena.take(act_, {num_tokens, config_.hidden_size});
}

DenseModel::Buffers DenseModel::take_buffers(Arena& arena, int64_t n) const {
  const ModelConfig& c = config_;
  const int64_t q_cols = int64_t{c.num_heads} * c.head_dim;
  const int64_t kv_cols = int64_t{c.num_kv_heads} * c.head_dim;
  Buffers b;
  b.normed = arena.take(act_, {n, c.hidden_size});
  b.projected = arena.take(act_, {n, c.hidden_size});
  b.qkv = arena.take(act_, {n, q_cols + 2 * kv_cols});
  b.attended = arena.take(act_, {n, q_cols});
  b.gate_up = arena.take(act_, {n, 2 * int64_t{c.ffn_size}});
  b.activated = arena.take(act_, {n, c.ffn_size});
  return b;
}

Tensor DenseModel::take_logits(Arena& arena, int64_t num_rows) const {
  return arena.take(DType::f32, {num_rows, config_.vocab_size});
}

Tensor DenseModel::take_picked(Arena& arena, int64_t num_rows) const {
  return arena.take(act_, {num_rows, config_.hidden_size});
}

size_t DenseModel::scratch_bytes(int64_t max_tokens, int64_t max_logit_rows) const {
  Arena count;
  take_residual(count, max_tokens);
  {
    Arena::Scope scope(count);
    take_buffers(count, max_tokens);
  }
  take_logits(count, max_logit_rows);
  take_picked(count, max_logit_rows);
  return count.peak();
}

KvShape DenseModel::kv_shape() const {
  KvShape shape;
  shape.layers.assign(config_.num_layers,
                      {config_.num_kv_heads, config_.head_dim, config_.head_dim});
  return shape;
}

WeightList DenseModel::weight_list() {
  const ModelConfig& c = config_;
  const int64_t q_cols = int64_t{c.num_heads} * c.head_dim;
  WeightList list;
  list.linears.push_back({&embedding_,
                          c.hidden_size,
                          {{"model.embed_tokens.weight", c.vocab_size, ""}},
                          LinearSpec::Use::table});
  for (int i = 0; i < c.num_layers; ++i) {
    Layer& layer = layers_[i];
    const std::string at = fmt::format("model.layers.{}.", i);
    const auto bias = [&](bool has, const char* name) { return has ? at + name : std::string(); };
    list.vectors.push_back({&layer.input_norm, at + "input_layernorm.weight", c.hidden_size});
    list.linears.push_back(qkv_spec(&layer.qkv, at, c));
    if (c.qk_norm) {
      list.vectors.push_back({&layer.q_norm, at + "self_attn.q_norm.weight", c.head_dim});
      list.vectors.push_back({&layer.k_norm, at + "self_attn.k_norm.weight", c.head_dim});
    }
    list.linears.push_back({&layer.o,
                            q_cols,
                            {{at + "self_attn.o_proj.weight", c.hidden_size,
                              bias(c.o_bias, "self_attn.o_proj.bias")}}});
    list.vectors.push_back(
        {&layer.post_norm, at + "post_attention_layernorm.weight", c.hidden_size});
    list.linears.push_back(gate_up_spec(&layer.gate_up, at, c));
    list.linears.push_back(
        {&layer.down,
         c.ffn_size,
         {{at + "mlp.down_proj.weight", c.hidden_size, bias(c.mlp_bias, "mlp.down_proj.bias")}}});
  }
  list.vectors.push_back({&final_norm_, "model.norm.weight", c.hidden_size});
  if (!c.tied_embeddings)
    list.linears.push_back(
        {&head_, c.hidden_size, {{"lm_head.weight", c.vocab_size, ""}}, LinearSpec::Use::head});
  return list;
}

absl::Status DenseModel::open(const Safetensors& stored, Device& device,
                              const LoadOptions& options) {
  const WeightList list = weight_list();
  absl::StatusOr<WeightPlan> plan = plan_weights(list, stored, device.ops(), options.dtype);
  if (!plan.ok()) return plan.status();
  const size_t table_bytes = size_t(max_len_) * config_.head_dim * sizeof(float);
  weight_dtype_ = plan->dtype;
  weight_bytes_ = plan->bytes + table_bytes;
  if (options.plan_only) return absl::OkStatus();

  absl::StatusOr<Device::Buffer> memory =
      load_weights(list, stored, *plan, device, options.threads);
  if (!memory.ok()) return memory.status();
  memory_ = *std::move(memory);
  if (config_.tied_embeddings) head_ = embedding_;

  rope_memory_ = device.allocate(table_bytes, Memory::device);
  const Device::Buffer host = device.allocate(table_bytes, Memory::pinned_host);
  fill_rope_table(static_cast<float*>(host.get()), config_.rope, config_.head_dim, max_len_,
                  options.threads);
  device.copy(rope_memory_.get(), host.get(), table_bytes, device.copy_stream());
  device.sync(device.record(device.copy_stream()));
  cos_sin_ = Tensor::of(rope_memory_.get(), DType::f32, {max_len_, config_.head_dim});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> open_dense(const ModelConfig& config,
                                                  const Safetensors& stored, Device& device,
                                                  const LoadOptions& options) {
  auto model = std::make_unique<DenseModel>(config, device.ops().act_dtype(), options.max_len);
  if (absl::Status s = model->open(stored, device, options); !s.ok()) return s;
  return model;
}

}  // namespace sluice
