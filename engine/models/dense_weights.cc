#include "engine/layers.h"
#include "engine/models/dense_model.h"

namespace sluice {
namespace {

constexpr const char* kTextPart = "language_model.";  // of a larger model

LinearPart part(const std::string& name, int64_t rows, bool bias) {
  return {name + ".weight", rows, bias ? name + ".bias" : ""};
}

}  // namespace

void DenseModel::list_norm(WeightList& list, Norm& norm, const std::string& name) const {
  const ModelConfig& c = config_;
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
  if (names_.embedding_norm) list_norm(list, embedding_norm_, base + names_.embedding_norm);
  if (c.positions == ModelConfig::Positions::learned) {
    LinearPart rows = part(base + names_.positions, c.max_positions, false);
    rows.first = names_.first_position;
    rows.stored_rows = c.max_positions + rows.first;
    list.linears.push_back({&positions_, c.hidden_size, {rows}, LinearSpec::Use::table});
  }
  for (int i = 0; i < c.num_layers; ++i)
    list_layer(list, i, base + fmt::format(fmt::runtime(names_.layer), i));
  list_norm(list, final_norm_, base + names_.final_norm);
  const std::string head =
      (base.starts_with(kTextPart) ? kTextPart : "") + std::string(names_.head);
  if (!c.tied_embeddings)
    list.linears.push_back(
        {&head_, c.hidden_size, {part(head, c.vocab_size, c.head_bias)}, LinearSpec::Use::head});
  return list;
}

void DenseModel::list_layer(WeightList& list, int i, const std::string& at) {
  list_attention(list, i, at);
  list_mlp(list, i, at);
  if (!names_.transposed) return;
  for (LinearSpec& linear : list.linears)
    for (LinearPart& p : linear.parts) p.transposed |= p.weight.starts_with(at);
}

void DenseModel::list_attention(WeightList& list, int i, const std::string& at) {
  Layer& layer = layers_[i];
  const ModelConfig& c = config_;
  const TensorNames& n = names_;
  using Use = LinearSpec::Use;
  if (c.layers[i].attention == Part::none) return;
  if (n.before_attention) list_norm(list, layer.before_attention, at + n.before_attention);
  if (c.layers[i].attention == Part::linear) {
    list.linears.push_back({&layer.o,
                            c.hidden_size,
                            {part(at + n.attention_linear, c.hidden_size, false)},
                            Use::attention});
  } else {
    list.linears.push_back(qkv_spec(&layer.qkv, i, at));
    list.linears.back().use = Use::attention;
    if (c.qk_norm != ModelConfig::QkNorm::none) {
      const bool row = c.qk_norm == ModelConfig::QkNorm::row;
      const float plus = c.norm_plus_one ? 1.0f : 0.0f;
      list.vectors.push_back(
          {&layer.q_norm, at + n.q_norm + ".weight", row ? q_cols(i) : c.head_dim, plus});
      list.vectors.push_back(
          {&layer.k_norm, at + n.k_norm + ".weight", row ? kv_cols(i) : c.head_dim, plus});
    }
    list_cache_scales(list, layer, at);
    list.linears.push_back(
        {&layer.o, q_cols(i), {part(at + n.o, c.hidden_size, c.o_bias)}, Use::attention});
  }
  if (n.after_attention) list_norm(list, layer.after_attention, at + n.after_attention);
}

void DenseModel::list_mlp(WeightList& list, int i, const std::string& at) {
  Layer& layer = layers_[i];
  const ModelConfig& c = config_;
  const TensorNames& n = names_;
  const LayerConfig& of = c.layers[i];
  if (of.mlp == Part::none) return;
  if (n.before_mlp) list_norm(list, layer.before_mlp, at + n.before_mlp);
  if (of.experts) {
    layer.experts.list(list, c, at);
  } else if (of.mlp == Part::linear) {
    list.linears.push_back(
        {&layer.down, c.hidden_size, {part(at + n.mlp_linear, c.hidden_size, false)}});
  } else {
    list.linears.push_back(up_spec(&layer.up, of.ffn_size, at));
    list.linears.push_back(
        {&layer.down, of.ffn_size, {part(at + n.down, c.hidden_size, c.mlp_bias)}});
  }
  if (n.after_mlp) list_norm(list, layer.after_mlp, at + n.after_mlp);
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

LinearSpec DenseModel::qkv_spec(Weight* out, int i, const std::string& at) const {
  const ModelConfig& c = config_;
  const int64_t q = q_cols(i), kv = kv_cols(i);
  if (names_.k)
    return {out,
            c.hidden_size,
            {part(at + names_.q, q, c.qkv_bias), part(at + names_.k, kv, c.qkv_bias),
             part(at + names_.v, kv, c.qkv_bias)}};
  if (!names_.qkv_by_kv_head)
    return {out, c.hidden_size, {part(at + names_.q, q + 2 * kv, c.qkv_bias)}};
  // The queries, the key and the value of a KV head lie together.
  const int64_t dim = c.head_dim, queries = q / c.layers[i].num_kv_heads, step = queries + 2 * dim;
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

LinearSpec DenseModel::up_spec(Weight* out, int64_t ffn, const std::string& at) const {
  const ModelConfig& c = config_;
  if (!names_.gate) return {out, c.hidden_size, {part(at + names_.up, up_rows(ffn), c.mlp_bias)}};
  return {out,
          c.hidden_size,
          {part(at + names_.gate, ffn, c.mlp_bias), part(at + names_.up, ffn, c.mlp_bias)}};
}

std::string DenseModel::own_base() const {
  return (names_.text_part ? kTextPart : "") + std::string(names_.base);
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
  weight_dtype_ = plan->dtype, max_fp8_inputs_ = plan->max_fp8_inputs;
  weight_bytes_ =
      plan->bytes + rope_bytes() * (has_local_rope_ ? 2 : 1) + config_.alibi.size() * sizeof(float);
  if (options.plan_only) return absl::OkStatus();

  absl::StatusOr<Device::Buffer> memory =
      load_weights(list, stored, *plan, device, options.threads);
  if (!memory.ok()) return memory.status();
  memory_ = *std::move(memory);
  if (config_.tied_embeddings) head_ = embedding_;
  prepare_products(list, device.ops());
  if (config_.rotary_dim > 0) make_rope_tables(device, options.threads);
  if (!config_.alibi.empty()) make_alibi(device);
  return absl::OkStatus();
}

// Logits are f32, those of routers too. A table is no layer, but where it is the head.
void DenseModel::prepare_products(const WeightList& list, Ops& ops) const {
  std::vector<Weight> layers, heads = {head_};
  for (const LinearSpec& linear : list.linears) {
    using Use = LinearSpec::Use;
    if (linear.use == Use::mlp || linear.use == Use::attention) layers.push_back(*linear.out);
    if (linear.use == Use::router) heads.push_back(*linear.out);
  }
  ops.prepare(layers, ops.act_dtype());
  ops.prepare(heads, DType::f32);
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
      add(p.weight, std::move(shape), 0, linear.is_quantised() && !p.transposed);
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

void DenseModel::make_alibi(Device& device) {
  const size_t bytes = config_.alibi.size() * sizeof(float);
  alibi_memory_ = device.allocate(bytes, Memory::device);
  const Device::Buffer host = device.allocate(bytes, Memory::pinned_host);
  std::copy(config_.alibi.begin(), config_.alibi.end(), static_cast<float*>(host.get()));
  device.copy(alibi_memory_.get(), host.get(), bytes, device.copy_stream());
  device.sync(device.record(device.copy_stream()));
  alibi_ = Tensor::of(alibi_memory_.get(), DType::f32, {int64_t(config_.alibi.size())});
}

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
