#include "engine/models/dense.h"

#include "engine/layers.h"
#include "engine/models/experts.h"
#include "engine/weights.h"

namespace sluice {
namespace {

constexpr const char* kTextPart = "language_model.";  // of a larger model

struct Norm {
  Tensor weight;  // [hidden]; absent: there is no such norm
  Tensor bias;    // [hidden]; absent but for layer norms
};

struct Layer {
  Norm before_attention, after_attention;
  Weight qkv;                      // [(heads + 2 * kv_heads) * head_dim, hidden]
  Tensor q_norm, k_norm;           // [head_dim], or of all heads; absent: none
  float k_scale = 1, v_scale = 1;  // of keys and values in fp8
  Weight o;                        // [hidden, heads * head_dim]
  Norm before_mlp, after_mlp;
  Weight up;            // [2 * ffn, hidden], the gate first; [ffn, hidden] without one
  Weight down;          // [hidden, ffn]
  ExpertLayer experts;  // in their place
};

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
  AttentionHeads heads() const override;
  DType weight_dtype() const override { return weight_dtype_; }
  size_t weight_bytes() const override { return weight_bytes_; }
  size_t scratch_bytes(int64_t max_tokens, int64_t max_logit_rows) const override;

 private:
  // Scratch of one step, shared by all layers; q is a view of qkv.
  struct Buffers {
    Tensor normed, projected;  // [num_tokens, hidden]
    Tensor parallel;           // [num_tokens, hidden]; absent without parallel residuals
    Tensor qkv;                // [num_tokens, (heads + 2 * kv_heads) * head_dim]
    Tensor attended;           // [num_tokens, heads * head_dim]
    Tensor up;                 // [num_tokens, 2 * ffn]; absent without a gate
    Tensor activated;          // [num_tokens, ffn]
    ExpertLayer::Buffers experts;
  };
  void embed(const ForwardContext&, Tensor residual, Tensor ids, Tensor positions,
             const Buffers&) const;
  void attend(const ForwardContext&, int layer, Tensor x, Tensor positions, const Buffers&) const;
  void mlp(const ForwardContext&, int layer, Tensor x, Tensor out, const Buffers&) const;
  Tensor normed(Ops&, Tensor out, Tensor x, const Norm&) const;
  Tensor add_normed(Ops&, Tensor out, Tensor residual, Tensor x, const Norm&) const;

  int64_t q_cols() const { return int64_t{config_.num_heads} * config_.head_dim; }
  int64_t kv_cols() const { return int64_t{config_.num_kv_heads} * config_.head_dim; }
  int64_t up_rows() const { return int64_t{config_.ffn_size} * (config_.gated_mlp ? 2 : 1); }
  std::string own_base() const {
    return (names_.text_part ? kTextPart : "") + std::string(names_.base);
  }
  std::string base_in(const Safetensors&) const;
  WeightList weight_list(const std::string& base);
  void list_layer(WeightList&, int layer, const std::string& at);
  void list_cache_scales(WeightList&, Layer&, const std::string& at) const;
  LinearSpec qkv_spec(Weight* out, const std::string& at) const;
  LinearSpec up_spec(Weight* out, const std::string& at) const;
  size_t rope_bytes() const;  // of one table
  void make_rope_tables(Device& device, int threads);
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
  size_t weight_bytes_ = 0;
  Device::Buffer memory_, rope_memory_;

  Weight embedding_;  // [vocab, hidden]
  Weight positions_;  // [max_positions, hidden]; absent unless positions are learned
  std::vector<Layer> layers_;
  Norm final_norm_;
  Weight head_;                     // [vocab, hidden]; the embedding when tied
  Tensor cos_sin_, local_cos_sin_;  // f32 [max_len, rotary_dim]; absent unless used
};

// --- a step ---

Tensor DenseModel::hidden(const ForwardContext& ctx, Tensor ids, Tensor positions) {
  CHECK(embedding_.data);  // a plan has no weights
  const ModelConfig& c = config_;
  Ops& ops = ctx.ops;
  const Tensor residual = take_residual(ctx.scratch, ids.shape[0]);
  Arena::Scope scope(ctx.scratch);
  const Buffers b = take_buffers(ctx.scratch, ids.shape[0]);

  embed(ctx, residual, ids, positions, b);
  Tensor x = normed(ops, b.normed, residual, layers_[0].before_attention);
  for (int i = 0; i < c.num_layers; ++i) {
    const Layer& layer = layers_[i];
    attend(ctx, i, x, positions, b);
    if (c.parallel_residual) {
      const Tensor y =
          layer.before_mlp.weight ? normed(ops, b.parallel, residual, layer.before_mlp) : x;
      mlp(ctx, i, y, b.parallel, b);
      ops.add(b.projected, b.projected, b.parallel);
    } else {
      normed(ops, b.projected, b.projected, layer.after_attention);
      x = add_normed(ops, b.normed, residual, b.projected, layer.before_mlp);
      mlp(ctx, i, x, b.projected, b);
      normed(ops, b.projected, b.projected, layer.after_mlp);
    }
    const Norm next = i + 1 < c.num_layers ? layers_[i + 1].before_attention : Norm{};
    x = add_normed(ops, b.normed, residual, b.projected, next);
  }
  return residual;
}

void DenseModel::embed(const ForwardContext& ctx, Tensor residual, Tensor ids, Tensor positions,
                       const Buffers& b) const {
  ctx.ops.embed(residual, embedding_, ids);
  if (config_.embedding_scale != 1) ctx.ops.scale(residual, config_.embedding_scale);
  if (!positions_.data) return;
  ctx.ops.embed(b.projected, positions_, positions);
  ctx.ops.add(residual, residual, b.projected);
}

// projected = attention of x.
void DenseModel::attend(const ForwardContext& ctx, int i, Tensor x, Tensor positions,
                        const Buffers& b) const {
  const ModelConfig& c = config_;
  const Layer& layer = layers_[i];
  const KvView kv = ctx.kv.layer(i);
  QkvParams qkv{c.num_heads,
                c.num_kv_heads,
                c.head_dim,
                layer.q_norm,
                layer.k_norm,
                c.norm_eps,
                c.layers[i].local_rope ? local_cos_sin_ : cos_sin_};
  ctx.ops.matmul(b.qkv, x, layer.qkv);
  if (c.qk_norm == ModelConfig::QkNorm::row) {
    const Tensor q = b.qkv.cols(0, q_cols()), k = b.qkv.cols(q_cols(), kv_cols());
    ctx.ops.rms_norm(q, q, layer.q_norm, c.norm_eps);
    ctx.ops.rms_norm(k, k, layer.k_norm, c.norm_eps);
    qkv.q_norm = qkv.k_norm = {};
  }
  ctx.ops.qkv_rope_write(b.qkv, qkv, positions, kv, ctx.attn.slot_mapping);
  ctx.ops.attention(b.attended.heads(c.head_dim), b.qkv.cols(0, q_cols()).heads(c.head_dim), kv,
                    ctx.attn, {c.attention_scale, c.layers[i].window, c.attention_softcap});
  ctx.ops.matmul(b.projected, b.attended, layer.o);
  ctx.comm.all_reduce(b.projected);
}

// out may be x where there are no experts.
void DenseModel::mlp(const ForwardContext& ctx, int i, Tensor x, Tensor out,
                     const Buffers& b) const {
  const Layer& layer = layers_[i];
  if (config_.layers[i].experts) {
    layer.experts.run(ctx.ops, config_, out, x, b.experts);
    return ctx.comm.all_reduce(out);
  }
  if (!config_.gated_mlp) {
    ctx.ops.matmul(b.activated, x, layer.up);
    ctx.ops.activate(b.activated, config_.activation);
  } else if (config_.activation == Activation::silu) {
    ctx.ops.matmul_silu_mul(b.activated, x, layer.up, b.up);
  } else {
    ctx.ops.matmul(b.up, x, layer.up);
    ctx.ops.gelu_mul(b.activated, b.up);
  }
  ctx.ops.matmul(out, b.activated, layer.down);
  ctx.comm.all_reduce(out);
}

// x, or its norm in `out`, where there is one.
Tensor DenseModel::normed(Ops& ops, Tensor out, Tensor x, const Norm& norm) const {
  if (!norm.weight) return x;
  if (config_.norm == ModelConfig::Norm::rms) {
    ops.rms_norm(out, x, norm.weight, config_.norm_eps);
  } else {
    ops.layer_norm(out, x, norm.weight, norm.bias, config_.norm_eps);
  }
  return out;
}

// residual += x; then its norm.
Tensor DenseModel::add_normed(Ops& ops, Tensor out, Tensor residual, Tensor x,
                              const Norm& norm) const {
  if (config_.residual_scale != 1) ops.scale(x, config_.residual_scale);
  if (norm.weight && config_.norm == ModelConfig::Norm::rms) {
    ops.add_rms_norm(out, residual, x, norm.weight, config_.norm_eps);
    return out;
  }
  ops.add(residual, residual, x);
  return normed(ops, out, residual, norm);
}

Tensor DenseModel::logits(const ForwardContext& ctx, Tensor hidden, Tensor rows) {
  // The logits outlive this call, the gathered rows need not: taken last, given back.
  const Tensor out = take_logits(ctx.scratch, rows.shape[0]);
  Arena::Scope scope(ctx.scratch);
  const Tensor picked = take_picked(ctx.scratch, rows.shape[0]);
  ctx.ops.gather_rows(picked, hidden, rows);
  normed(ctx.ops, picked, picked, final_norm_);
  ctx.ops.matmul(out, picked, head_);
  if (config_.logits_scale != 1 || config_.logits_softcap > 0)
    ctx.ops.scale(out, config_.logits_scale, config_.logits_softcap);
  return out;
}

// --- memory ---

Tensor DenseModel::take_residual(Arena& arena, int64_t num_tokens) const {
  return arena.take(act_, {num_tokens, config_.hidden_size});
}

DenseModel::Buffers DenseModel::take_buffers(Arena& arena, int64_t n) const {
  const ModelConfig& c = config_;
  Buffers b;
  b.normed = arena.take(act_, {n, c.hidden_size});
  b.projected = arena.take(act_, {n, c.hidden_size});
  if (c.parallel_residual) b.parallel = arena.take(act_, {n, c.hidden_size});
  b.qkv = arena.take(act_, {n, q_cols() + 2 * kv_cols()});
  b.attended = arena.take(act_, {n, q_cols()});
  if (c.gated_mlp) b.up = arena.take(act_, {n, up_rows()});
  b.activated = arena.take(act_, {n, c.ffn_size});
  if (c.num_experts > 0) b.experts = ExpertLayer::take(arena, act_, c, n);
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
  for (const Layer& l : layers_)
    shape.layers.push_back(
        {config_.num_kv_heads, config_.head_dim, config_.head_dim, l.k_scale, l.v_scale});
  return shape;
}

AttentionHeads DenseModel::heads() const {
  AttentionHeads h{config_.num_heads, config_.num_kv_heads, config_.head_dim, {}};
  for (const LayerConfig& layer : config_.layers)
    if (std::find(h.windows.begin(), h.windows.end(), layer.window) == h.windows.end())
      h.windows.push_back(layer.window);
  return h;
}

// --- weights ---

LinearPart part(const std::string& name, int64_t rows, bool bias) {
  return {name + ".weight", rows, bias ? name + ".bias" : ""};
}

void list_norm(WeightList& list, const ModelConfig& c, Norm& norm, const std::string& name) {
  list.vectors.push_back(
      {&norm.weight, name + ".weight", c.hidden_size, c.norm_plus_one ? 1.0f : 0.0f});
  if (c.norm_bias) list.vectors.push_back({&norm.bias, name + ".bias", c.hidden_size});
}

WeightList DenseModel::weight_list(const std::string& base) {
  const ModelConfig& c = config_;
  WeightList list;
  list.linears.push_back({&embedding_,
                          c.hidden_size,
                          {part(base + names_.embedding, c.vocab_size, false)},
                          LinearSpec::Use::table});
  if (c.positions == ModelConfig::Positions::learned) {
    LinearPart rows = part(base + names_.positions, c.max_positions, false);
    rows.first = names_.first_position;
    rows.stored_rows = c.max_positions + rows.first;
    list.linears.push_back({&positions_, c.hidden_size, {rows}, LinearSpec::Use::table});
  }
  for (int i = 0; i < c.num_layers; ++i)
    list_layer(list, i, base + fmt::format(fmt::runtime(names_.layer), i));
  list_norm(list, c, final_norm_, base + names_.final_norm);
  const std::string head =
      (base.starts_with(kTextPart) ? kTextPart : "") + std::string(names_.head);
  if (!c.tied_embeddings)
    list.linears.push_back(
        {&head_, c.hidden_size, {part(head, c.vocab_size, c.head_bias)}, LinearSpec::Use::head});
  return list;
}

void DenseModel::list_layer(WeightList& list, int i, const std::string& at) {
  Layer& layer = layers_[i];
  const ModelConfig& c = config_;
  const TensorNames& n = names_;
  const auto norm = [&](Norm& to, const char* name) {
    if (name) list_norm(list, c, to, at + name);
  };
  norm(layer.before_attention, n.before_attention);
  list.linears.push_back(qkv_spec(&layer.qkv, at));
  list.linears.back().use = LinearSpec::Use::attention;
  if (c.qk_norm != ModelConfig::QkNorm::none) {
    const bool row = c.qk_norm == ModelConfig::QkNorm::row;
    const float plus = c.norm_plus_one ? 1.0f : 0.0f;
    list.vectors.push_back(
        {&layer.q_norm, at + n.q_norm + ".weight", row ? q_cols() : c.head_dim, plus});
    list.vectors.push_back(
        {&layer.k_norm, at + n.k_norm + ".weight", row ? kv_cols() : c.head_dim, plus});
  }
  list_cache_scales(list, layer, at);
  list.linears.push_back(
      {&layer.o, q_cols(), {part(at + n.o, c.hidden_size, c.o_bias)}, LinearSpec::Use::attention});
  norm(layer.after_attention, n.after_attention);
  norm(layer.before_mlp, n.before_mlp);
  if (c.layers[i].experts) {
    layer.experts.list(list, c, at);
  } else {
    list.linears.push_back(up_spec(&layer.up, at));
    list.linears.push_back(
        {&layer.down, c.ffn_size, {part(at + n.down, c.hidden_size, c.mlp_bias)}});
  }
  norm(layer.after_mlp, n.after_mlp);
  if (!n.transposed) return;
  for (LinearSpec& linear : list.linears)
    for (LinearPart& p : linear.parts) p.transposed |= p.weight.starts_with(at);
}

// As compressed-tensors names them today, as other quantisers do, and as both did before.
void DenseModel::list_cache_scales(WeightList& list, Layer& layer, const std::string& at) const {
  const auto names = [&](const char* projection, const std::string& which) {
    const std::string_view q = names_.q;
    const std::string attention = at + std::string(q.substr(0, q.rfind('.') + 1));
    std::vector<std::string> all = {attention + which, attention + "kv_scale"};
    if (projection) {
      all.push_back(at + projection + "." + which);
      all.push_back(at + projection + ".output_scale");
    }
    return all;
  };
  list.scales.push_back({&layer.k_scale, names(names_.k, "k_scale")});
  list.scales.push_back({&layer.v_scale, names(names_.v, "v_scale")});
}

LinearSpec DenseModel::qkv_spec(Weight* out, const std::string& at) const {
  const ModelConfig& c = config_;
  const int64_t q = q_cols(), kv = kv_cols();
  if (names_.k)
    return {out,
            c.hidden_size,
            {part(at + names_.q, q, c.qkv_bias), part(at + names_.k, kv, c.qkv_bias),
             part(at + names_.v, kv, c.qkv_bias)}};
  if (!names_.qkv_by_kv_head)
    return {out, c.hidden_size, {part(at + names_.q, q + 2 * kv, c.qkv_bias)}};
  // The queries, the key and the value of a KV head lie together.
  const int64_t dim = c.head_dim, queries = q / c.num_kv_heads, step = queries + 2 * dim;
  LinearSpec spec{out, c.hidden_size, {}};
  const auto add = [&](int64_t rows, int64_t first, int64_t run) {
    LinearPart p = part(at + names_.q, rows, c.qkv_bias);
    p.stored_rows = q + 2 * kv, p.first = first, p.run = run, p.step = step;
    spec.parts.push_back(p);
  };
  add(q, 0, queries);
  add(kv, queries, dim);
  add(kv, queries + dim, dim);
  return spec;
}

LinearSpec DenseModel::up_spec(Weight* out, const std::string& at) const {
  const ModelConfig& c = config_;
  if (!names_.gate) return {out, c.hidden_size, {part(at + names_.up, up_rows(), c.mlp_bias)}};
  return {out,
          c.hidden_size,
          {part(at + names_.gate, c.ffn_size, c.mlp_bias),
           part(at + names_.up, c.ffn_size, c.mlp_bias)}};
}

// Some files leave it out; of a larger model newer files have the text part inside, where older
// ones have it outside.
std::string DenseModel::base_in(const Safetensors& stored) const {
  if (names_.text_part) {
    const std::string inside = names_.base + std::string(kTextPart);
    return stored.find(inside + names_.embedding + ".weight") ? inside : own_base();
  }
  return stored.find(std::string(names_.embedding) + ".weight") ? "" : names_.base;
}

absl::Status DenseModel::open(const Safetensors& stored, Device& device,
                              const LoadOptions& options) {
  const WeightList list = weight_list(base_in(stored));
  absl::StatusOr<WeightPlan> plan = plan_weights(list, stored, device.ops(), options.dtype);
  if (!plan.ok()) return plan.status();
  for (const LayerConfig& layer : config_.layers) has_local_rope_ |= layer.local_rope;
  weight_dtype_ = plan->dtype;
  weight_bytes_ = plan->bytes + rope_bytes() * (has_local_rope_ ? 2 : 1);
  if (options.plan_only) return absl::OkStatus();

  absl::StatusOr<Device::Buffer> memory =
      load_weights(list, stored, *plan, device, options.threads);
  if (!memory.ok()) return memory.status();
  memory_ = *std::move(memory);
  if (config_.tied_embeddings) head_ = embedding_;
  if (config_.rotary_dim > 0) make_rope_tables(device, options.threads);
  return absl::OkStatus();
}

std::vector<CheckpointTensor> DenseModel::checkpoint() {
  const WeightList list = weight_list(own_base());
  std::vector<CheckpointTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, float mean,
                       bool layer = false) {
    if (name.empty() || (!tensors.empty() && tensors.back().name == name)) return;
    tensors.push_back({name, std::move(shape), mean, layer});
  };
  for (const LinearSpec& linear : list.linears) {
    for (const LinearPart& p : linear.parts) {
      std::vector<int64_t> shape = {p.rows_stored(), linear.in_features};
      if (p.transposed) std::swap(shape[0], shape[1]);
      add(p.weight, std::move(shape), 0, linear.is_layer() && !p.transposed);
    }
    for (const LinearPart& p : linear.parts) add(p.bias, {p.rows_stored()}, 0);
  }
  for (const VectorSpec& v : list.vectors)
    add(v.name, {v.size}, v.name.ends_with(".bias") ? 0 : 1 - v.plus);
  return tensors;
}

size_t DenseModel::rope_bytes() const {
  return size_t(max_len_) * size_t(config_.rotary_dim) * sizeof(float);
}

void DenseModel::make_rope_tables(Device& device, int threads) {
  const size_t bytes = rope_bytes();
  const int tables = has_local_rope_ ? 2 : 1;
  rope_memory_ = device.allocate(bytes * tables, Memory::device);
  const Device::Buffer host = device.allocate(bytes, Memory::pinned_host);
  char* at = static_cast<char*>(rope_memory_.get());
  for (int i = 0; i < tables; ++i, at += bytes) {
    fill_rope_table(static_cast<float*>(host.get()), i == 0 ? config_.rope : config_.local_rope,
                    config_.rotary_dim, max_len_, threads);
    device.copy(at, host.get(), bytes, device.copy_stream());
    device.sync(device.record(device.copy_stream()));
    (i == 0 ? cos_sin_ : local_cos_sin_) =
        Tensor::of(at, DType::f32, {max_len_, config_.rotary_dim});
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> open_dense(const ModelConfig& config,
                                                  const Safetensors& stored, Device& device,
                                                  const LoadOptions& options) {
  auto model = std::make_unique<DenseModel>(config, device.ops().act_dtype(), options.max_len);
  if (absl::Status s = model->open(stored, device, options); !s.ok()) return s;
  return model;
}

WeightReview review_checkpoint(const ModelConfig& config, const Safetensors& stored) {
  return DenseModel(config, DType::f32, 1).review(stored);
}

std::vector<CheckpointTensor> checkpoint_tensors(const ModelConfig& config) {
  return DenseModel(config, DType::f32, 1).checkpoint();
}

}  // namespace sluice
