#include "engine/models/dense_model.h"

#include <algorithm>
#include <utility>

namespace sluice {

// --- a step ---

Tensor DenseModel::hidden(const ForwardContext& ctx, Tensor ids, Tensor positions) {
  CHECK(embedding_.data);  // a plan has no weights
  const ModelConfig& c = config_;
  Ops& ops = ctx.ops;
  const Tensor residual = take_residual(ctx.scratch, ids.shape[0]);
  Arena::Scope scope(ctx.scratch);
  const Buffers b = take_buffers(ctx.scratch, ids.shape[0]);

  embed(ctx, residual, ids, positions, b);
  // What one linear layer alone reads may go there as it takes it.
  const bool fp8 = c.norm == ModelConfig::Norm::rms && !c.parallel_residual;
  // What attention or MLP has computed is added to the residual as the next one takes its input.
  bool pending = false;
  const auto input = [&](const Norm& norm, const Weight& reader) {
    const Tensor to = fp8 && ops.takes_fp8_rows(reader) ? fp8_rows(b.normed) : b.normed;
    const bool add = std::exchange(pending, true);
    return add ? add_normed(ops, to, residual, b.projected, norm) : normed(ops, to, residual, norm);
  };
  for (int i = 0; i < c.num_layers; ++i) {
    const Layer& layer = layers_[i];
    if (c.parallel_residual) {
      const Tensor x = input(layer.before_attention, layer.qkv);
      attend(ctx, i, x, positions, b);
      const Tensor y =
          layer.before_mlp.weight ? normed(ops, b.parallel, residual, layer.before_mlp) : x;
      mlp(ctx, i, y, b.parallel, b);
      ops.add(b.projected, b.projected, b.parallel);
      continue;
    }
    if (c.layers[i].attention != Part::none) {
      const bool whole = c.layers[i].attention == Part::whole;
      attend(ctx, i, input(layer.before_attention, whole ? layer.qkv : layer.o), positions, b);
      normed(ops, b.projected, b.projected, layer.after_attention);
    }
    if (c.layers[i].mlp != Part::none) {
      const bool whole = c.layers[i].mlp == Part::whole;
      mlp(ctx, i, input(layer.before_mlp, whole ? layer.up : layer.down), b.projected, b);
      normed(ops, b.projected, b.projected, layer.after_mlp);
    }
  }
  if (pending) add_normed(ops, b.normed, residual, b.projected, {});
  return residual;
}

void DenseModel::embed(const ForwardContext& ctx, Tensor residual, Tensor ids, Tensor positions,
                       const Buffers& b) const {
  ctx.ops.embed(residual, embedding_, ids);
  if (config_.embedding_scale != 1) ctx.ops.scale(residual, config_.embedding_scale);
  normed(ctx.ops, residual, residual, embedding_norm_);
  if (!positions_.data) return;
  ctx.ops.embed(b.projected, positions_, positions);
  ctx.ops.add(residual, residual, b.projected);
}

// projected = attention of x.
void DenseModel::attend(const ForwardContext& ctx, int i, Tensor x, Tensor positions,
                        const Buffers& b) const {
  const ModelConfig& c = config_;
  const LayerConfig& of = c.layers[i];
  const Layer& layer = layers_[i];
  if (of.attention == Part::linear) {
    ctx.ops.matmul(b.projected, x, layer.o);
    return ctx.comm.all_reduce(b.projected);
  }
  const KvView kv = ctx.kv.layer(i);
  const int64_t q_cols = this->q_cols(i), kv_cols = this->kv_cols(i);
  const Tensor all = Buffers::of(b.qkv, q_cols + 2 * kv_cols);
  const Tensor q = all.cols(0, q_cols), k = all.cols(q_cols, kv_cols);
  const Tensor attended = Buffers::of(b.attended, q_cols);
  QkvParams qkv{of.num_heads,
                of.num_kv_heads,
                c.head_dim,
                layer.q_norm,
                layer.k_norm,
                c.norm_eps,
                of.local_rope ? local_cos_sin_ : cos_sin_};
  ctx.ops.matmul(all, x, layer.qkv);
  if (c.qk_norm == ModelConfig::QkNorm::row) {
    ctx.ops.rms_norm(q, q, layer.q_norm, c.norm_eps);
    ctx.ops.rms_norm(k, k, layer.k_norm, c.norm_eps);
    qkv.q_norm = qkv.k_norm = {};
  }
  ctx.ops.qkv_rope_write(all, qkv, positions, kv, ctx.attn.slots(kv));
  ctx.ops.attention(attended.heads(c.head_dim), q.heads(c.head_dim), kv, ctx.attn,
                    {c.attention_scale, of.window, c.attention_softcap, alibi_});
  ctx.ops.matmul(b.projected, attended, layer.o);
  ctx.comm.all_reduce(b.projected);
}

// out may be x where the MLP is whole and there are no experts.
void DenseModel::mlp(const ForwardContext& ctx, int i, Tensor x, Tensor out,
                     const Buffers& b) const {
  const Layer& layer = layers_[i];
  if (config_.layers[i].experts) {
    layer.experts.run(ctx.ops, config_, out, x, b.experts);
    return ctx.comm.all_reduce(out);
  }
  if (config_.layers[i].mlp == Part::linear) {
    ctx.ops.matmul(out, x, layer.down);
    return ctx.comm.all_reduce(out);
  }
  const int64_t ffn = config_.layers[i].ffn_size;
  Tensor activated = Buffers::of(b.activated, ffn);
  if (config_.gated_mlp && ctx.ops.takes_fp8_rows(layer.down)) activated = fp8_rows(activated);
  if (!config_.gated_mlp) {
    ctx.ops.matmul_activate(activated, x, layer.up, config_.activation);
  } else if (config_.activation == Activation::silu) {
    ctx.ops.matmul_silu_mul(activated, x, layer.up, Buffers::of(b.up, up_rows(ffn)));
  } else {
    const Tensor up = Buffers::of(b.up, up_rows(ffn));
    ctx.ops.matmul(up, x, layer.up);
    ctx.ops.gelu_mul(activated, up);
  }
  ctx.ops.matmul(out, activated, layer.down);
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
  int64_t qkv = 0, attended = 0;
  for (int i = 0; i < c.num_layers; ++i) {
    qkv = std::max(qkv, q_cols(i) + 2 * kv_cols(i));
    attended = std::max(attended, q_cols(i));
  }
  const int64_t ffn = c.most(&LayerConfig::ffn_size);
  b.qkv = arena.take(act_, {n, qkv});
  b.attended = arena.take(act_, {n, attended});
  if (c.gated_mlp) b.up = arena.take(act_, {n, up_rows(ffn)});
  b.activated = arena.take(act_, {n, ffn});
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
  for (int i = 0; i < config_.num_layers; ++i)
    shape.layers.push_back({config_.layers[i].num_kv_heads, config_.head_dim, config_.head_dim,
                            layers_[i].k_scale, layers_[i].v_scale, config_.layers[i].window});
  return shape;
}

std::vector<AttentionHeads> DenseModel::heads() const {
  std::vector<AttentionHeads> all;
  for (const LayerConfig& layer : config_.layers) {
    if (layer.attention != Part::whole) continue;
    auto kind = std::find_if(all.begin(), all.end(), [&](const AttentionHeads& h) {
      return h.num_heads == layer.num_heads && h.num_kv_heads == layer.num_kv_heads;
    });
    if (kind == all.end())
      kind = all.insert(kind, {layer.num_heads, layer.num_kv_heads, config_.head_dim, {}});
    if (std::find(kind->windows.begin(), kind->windows.end(), layer.window) == kind->windows.end())
      kind->windows.push_back(layer.window);
  }
  return all;
}

}  // namespace sluice
