#include "engine/models/experts.h"

namespace sluice {

void ExpertLayer::list(WeightList& list, const ModelConfig& c, const std::string& at) {
  const TensorNames& n = c.names;
  const auto part = [](const std::string& name, int64_t rows) {
    return LinearPart{name + ".weight", rows, ""};
  };
  using Use = LinearSpec::Use;
  LinearSpec gates{&router, c.hidden_size, {part(at + n.router, c.num_experts)}, Use::router};
  if (c.shared_ffn_size > 0) gates.parts.push_back(part(at + n.shared_router, 1));
  LinearSpec ups{&up, c.hidden_size, {}, Use::experts},
      downs{&down, c.expert_ffn_size, {}, Use::experts};
  for (int e = 0; e < c.num_experts; ++e) {
    const std::string expert = at + fmt::format(fmt::runtime(n.expert), e);
    ups.parts.push_back(part(expert + n.expert_gate, c.expert_ffn_size));
    ups.parts.push_back(part(expert + n.expert_up, c.expert_ffn_size));
    downs.parts.push_back(part(expert + n.expert_down, c.hidden_size));
  }
  list.linears.insert(list.linears.end(), {std::move(gates), std::move(ups), std::move(downs)});
  if (c.shared_ffn_size == 0) return;
  const std::string shared = at + n.shared_expert;
  list.linears.push_back({&shared_up,
                          c.hidden_size,
                          {part(shared + n.expert_gate, c.shared_ffn_size),
                           part(shared + n.expert_up, c.shared_ffn_size)}});
  list.linears.push_back(
      {&shared_down, c.shared_ffn_size, {part(shared + n.expert_down, c.hidden_size)}});
}

ExpertLayer::Buffers ExpertLayer::take(Arena& arena, DType act, const ModelConfig& c, int64_t n) {
  const int64_t k = c.experts_per_token, ffn = c.expert_ffn_size, shared = c.shared_ffn_size;
  Buffers b;
  b.logits = arena.take(DType::f32, {n, c.num_experts + (shared > 0)});
  b.experts = arena.take(DType::i32, {n, k});
  b.weights = arena.take(DType::f32, {n, k});
  b.up = arena.take(act, {n * k, 2 * ffn});
  b.activated = arena.take(act, {n * k, ffn});
  b.out = arena.take(act, {n * k, c.hidden_size});
  if (shared == 0) return b;
  b.shared_up = arena.take(act, {n, 2 * shared});
  b.shared_activated = arena.take(act, {n, shared});
  b.shared_out = arena.take(act, {n, c.hidden_size});
  return b;
}

void ExpertLayer::run(Ops& ops, const ModelConfig& c, Tensor out, Tensor x,
                      const Buffers& b) const {
  ops.matmul(b.logits, x, router);
  ops.route(b.experts, b.weights, b.logits.cols(0, c.num_experts), c.normed_experts);
  const Tensor of_row = Tensor::of(b.experts.data, DType::i32, {b.experts.size()});
  ops.expert_silu_mul(b.activated, x, up, of_row, b.up);
  ops.expert_matmul(b.out, b.activated, down, of_row);
  ops.mix_rows(out, b.out, b.weights);
  if (c.shared_ffn_size == 0) return;
  ops.matmul_silu_mul(b.shared_activated, x, shared_up, b.shared_up);
  ops.matmul(b.shared_out, b.shared_activated, shared_down);
  ops.add_gated(out, b.shared_out, b.logits.cols(c.num_experts, 1));
}

}  // namespace sluice
