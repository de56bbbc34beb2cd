#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/float16.h"
#include "base/status.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/quantize.h"

namespace sluice::cuda {
namespace {

constexpr int kHeadDims[] = {32, 64, 96, 128, 256};
constexpr int kMostGroup = 16;
// Rows to an expert, in the mean, from which on tiles are computed. Below, reading the weights is
// what takes the time, and the kernel that reads them has no rows to sort first; its arithmetic
// takes longer from about here on, by the instructions it needs for a weight. Not measured.
constexpr int kRowsForTiles = 4;
constexpr int kBlocksPerMultiprocessor = 2;  // of the kernels that stay for several items

size_t rounded(size_t bytes) { return (bytes + 255) & ~size_t{255}; }

// Where more query heads read a KV head than a kernel takes at once, it counts as so many.
AttentionShape shape_of(int num_heads, int num_kv_heads, int window) {
  const int group = num_heads / num_kv_heads;
  int share = 1;
  while (group % share != 0 || group / share > kMostGroup) ++share;
  return {num_kv_heads * share, group / share, window};
}
AttentionShape shape_of(const AttentionHeads& h, int window) {
  return shape_of(h.num_heads, h.num_kv_heads, window);
}

}  // namespace

CudaOps::CudaOps(Runtime& runtime, Stream stream, DType act, bool batch_invariant, PlanCache plans)
    : runtime_(runtime),
      stream_(stream),
      act_(act),
      products_(runtime, stream, batch_invariant, std::move(plans)) {
  CHECK(act == DType::bf16 || act == DType::f16);
  runtime_.set_trace(&trace_);
}

// A launch of the op before that could not be made is found while that op is the last.
void CudaOps::note(const char* op, std::initializer_list<const Tensor*> operands) {
  runtime_.check_launches();
  trace_.add(op, operands);
}

// --- set-up ---

std::string CudaOps::lacks(const AttentionHeads& h, int block_size) const {
  if (std::find(std::begin(kHeadDims), std::end(kHeadDims), h.head_dim) == std::end(kHeadDims))
    return fmt::format("head_dim = {} (it has {})", h.head_dim, fmt::join(kHeadDims, ", "));
  if (block_size < 16 || !std::has_single_bit(unsigned(block_size)))
    return fmt::format("cache.block_size = {} (a power of two, at least 16)", block_size);
  return {};
}

// Partial results of one sequence of full length, or of several short ones, are held at once; steps
// with more run in rounds.
CudaOps::Partials::Partials(const OpsLimits& l) {
  constexpr int64_t kChunksPerSequence = 4;
  for (const AttentionHeads& h : l.heads) {
    const int64_t of_these =
        num_partials(shape_of(h, 0), l.max_context) + kChunksPerSequence * l.max_seqs * h.num_heads;
    rows = std::max(rows, of_these);
    out = std::max(out, of_these * h.head_dim);
    tickets = std::max(tickets, int64_t{l.max_seqs} * shape_of(h, 0).num_kv_heads);
  }
  stats = rows * 2;
}

CudaOps::Quantized::Quantized(const OpsLimits& l) {
  const int64_t rows = l.max_fp8_inputs > 0 ? std::max(l.max_tokens, l.max_logit_rows) : 0;
  codes = rounded(size_t(rows * l.max_fp8_inputs));
  scales = rounded(size_t(rows) * sizeof(float));
}

// Draws wait for each other where there are more of them than blocks at a time.
int CudaOps::sample_blocks(const OpsLimits& l) const {
  return std::min(l.max_seqs, kBlocksPerMultiprocessor * runtime_.info().num_multiprocessors);
}

size_t CudaOps::workspace_bytes(const OpsLimits& l) const {
  const Partials p(l);
  const Quantized q(l);
  size_t list_bytes = 0;
  for (const AttentionHeads& h : l.heads)
    for (const int window : h.windows) list_bytes += AttentionLists::bytes(shape_of(h, window), l);
  return size_t(p.out + p.stats + p.tickets) * 4 + q.codes + q.scales +
         sample_scratch_bytes(l.vocab_size, sample_blocks(l)) +
         grouped_scratch_bytes(l.max_expert_rows, l.num_experts) + list_bytes;
}

void CudaOps::reserve(const OpsLimits& limits) {
  limits_ = limits;
  const Partials p(limits);
  partials_ = allocate(runtime_, size_t(p.out + p.stats + p.tickets) * 4, Memory::device);
  sample_scratch_ = allocate(
      runtime_, sample_scratch_bytes(limits.vocab_size, sample_blocks(limits)), Memory::device);
  const Quantized q(limits);
  quantized_ = allocate(runtime_, q.codes + q.scales, Memory::device);
  grouped_ = allocate(runtime_, grouped_scratch_bytes(limits.max_expert_rows, limits.num_experts),
                      Memory::device);
  lists_.clear();
  for (const AttentionHeads& h : limits.heads)
    for (const int window : h.windows)
      lists_.push_back(
          std::make_unique<AttentionLists>(runtime_, shape_of(h, window), limits, p.rows));
}

const AttentionLists& CudaOps::lists(const AttentionShape& shape) const {
  for (const auto& l : lists_)
    if (l->shape() == shape) return *l;
  CHECK(!"attention of a shape that was not reserved");
  return *lists_[0];
}

// A captured step has the launches of one round of decodes.
bool CudaOps::begin_step(const AttnBatch& host) {
  CHECK(partials_ != nullptr);
  runtime_.check_launches();
  trace_.begin_step(host);
  bool as_captured = true;
  for (const auto& l : lists_) {
    l->plan(host, stream_);
    as_captured &= l->num_rounds() == 1 && l->num_prefill_items() == 0;
  }
  return as_captured;
}

// The library wants multiples of 16 for fp8, and our own kernel reads as many codes at a time.
DType CudaOps::kept_as(DType wanted, int64_t out_features, int64_t in_features) const {
  const bool fits = out_features % 16 == 0 && in_features % 16 == 0;
  return wanted == DType::fp8_e4m3 && fits ? wanted : act_;
}

// Scales, where there are any, follow the codes.
size_t CudaOps::weight_bytes(DType type, int64_t out_features, int64_t in_features) const {
  const size_t size = size_t(out_features * in_features);
  if (kept_as(type, out_features, in_features) == act_) return rounded(size * sizeof(uint16_t));
  return rounded(size) + rounded(size_t(out_features) * sizeof(float));
}

Weight CudaOps::make_weight(void* memory, DType type, int64_t out_features, int64_t in_features) {
  const DType kept = kept_as(type, out_features, in_features);
  Weight w;
  w.data = Tensor::of(memory, kept, {out_features, in_features});
  if (kept == DType::fp8_e4m3) {
    void* scales = static_cast<char*>(memory) + rounded(size_t(w.data.size()));
    w.scale = Tensor::of(scales, DType::f32, {out_features});
  }
  return w;
}

void CudaOps::pack_rows(const Weight& dst, int64_t first_row, const Tensor& src,
                        const Tensor& src_scale) {
  const Tensor to = dst.data.rows(first_row, src.shape[0]);
  const size_t size = size_t(to.size()), bytes = size * size_t(bits_of(to.dtype)) / 8;
  const Tensor scale = dst.scale ? dst.scale.rows(first_row, src.shape[0]) : Tensor();
  const size_t scale_bytes = size_t(src.shape[0]) * sizeof(float);
  if (src.dtype == to.dtype && src.contiguous()) {
    if (scale) runtime_.upload(scale.data, src_scale.data, scale_bytes);
    return runtime_.upload(to.data, src.data, bytes);
  }
  std::vector<float> wide(size);
  widen_rows(wide.data(), src, src_scale);
  if (scale) {
    std::vector<uint8_t> codes(size);
    std::vector<float> scales(size_t(src.shape[0]));
    const int64_t in = src.shape[1];
    for (int64_t r = 0; r < src.shape[0]; ++r)
      quantize_row(codes.data() + r * in, &scales[size_t(r)], wide.data() + r * in, in);
    runtime_.upload(scale.data, scales.data(), scale_bytes);
    return runtime_.upload(to.data, codes.data(), bytes);
  }
  std::vector<uint16_t> narrow(size);
  std::transform(wide.begin(), wide.end(), narrow.begin(), act_ == DType::bf16 ? to_bf16 : to_f16);
  runtime_.upload(to.data, narrow.data(), bytes);
}

// What is quantised or widened at load is left to pack_rows().
bool CudaOps::make_rows(const Weight& dst, int64_t first_row, const RandomRows& rows) {
  if ((rows.stored == DType::fp8_e4m3) != (dst.data.dtype == DType::fp8_e4m3)) return false;
  const Tensor scale = dst.scale ? dst.scale.rows(first_row, rows.count) : Tensor();
  random_rows(stream_, dst.data.rows(first_row, rows.count), scale, rows);
  return true;
}

// --- ops ---

void CudaOps::embed(Tensor out, const Weight& table, Tensor ids) {
  note("embed", {&out, &table.data, &ids});
  CHECK(table.data.dtype == act_);
  copy_rows(stream_, out, table.data, ids, {}, out.shape[0]);
}

void CudaOps::matmul(Tensor out, Tensor x, const Weight& w) {
  note("matmul", {&out, &x, &w.data});
  multiply(out, x, w, {});
}

void CudaOps::multiply(const Tensor& out, const Tensor& x, const Weight& w,
                       std::optional<Activation> activation) {
  if (out.shape[0] == 0) return;
  if (w.data.dtype != DType::fp8_e4m3) return products_.multiply(out, x, w, activation);
  Tensor codes = x, scale;
  if (x.dtype == DType::fp8_e4m3) {
    scale = scales_of(x);
  } else {
    const Quantized q(limits_);
    CHECK(size_t(x.size()) <= q.codes && size_t(x.shape[0]) * sizeof(float) <= q.scales);
    auto* memory = static_cast<char*>(quantized_.get());
    codes = Tensor::of(memory, w.data.dtype, {x.shape[0], x.shape[1]});
    scale = Tensor::of(memory + q.codes, DType::f32, {x.shape[0]});
    quantize_rows(stream_, codes, scale, x);
  }
  products_.multiply_scaled(out, codes, scale, w, activation);
}

void CudaOps::rms_norm(Tensor out, Tensor x, Tensor weight, float eps) {
  note("rms_norm", {&out, &x});
  if (out.dtype == DType::fp8_e4m3)
    return quantize_normed(stream_, out, scales_of(out), x, {}, weight, eps);
  cuda::rms_norm(stream_, out, x, {}, weight, eps);
}

void CudaOps::layer_norm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  note("layer_norm", {&out, &x});
  cuda::layer_norm(stream_, out, x, weight, bias, eps);
}

void CudaOps::add(Tensor out, Tensor a, Tensor b) {
  note("add", {&out, &a, &b});
  cuda::add(stream_, out, a, b);
}

void CudaOps::silu_mul(Tensor out, Tensor gate_up) {
  note("silu_mul", {&out, &gate_up});
  if (out.dtype == DType::fp8_e4m3)
    return quantize_gated(stream_, out, scales_of(out), gate_up, Activation::silu);
  cuda::silu_mul(stream_, out, gate_up);
}

void CudaOps::gelu_mul(Tensor out, Tensor gate_up) {
  note("gelu_mul", {&out, &gate_up});
  if (out.dtype == DType::fp8_e4m3)
    return quantize_gated(stream_, out, scales_of(out), gate_up, Activation::gelu_tanh);
  cuda::gelu_mul(stream_, out, gate_up);
}

void CudaOps::activate(Tensor x, Activation activation) {
  note("activate", {&x});
  cuda::activate(stream_, x, activation);
}

void CudaOps::scale(Tensor x, float factor, float softcap) {
  note("scale", {&x});
  cuda::scale(stream_, x, factor, softcap);
}

void CudaOps::rope(Tensor qk, Tensor positions, Tensor cos_sin) {
  note("rope", {&qk});
  cuda::rope(stream_, qk, positions, cos_sin);
}

void CudaOps::write_kv(KvView cache, Tensor k, Tensor v, Tensor slots) {
  note("write_kv", {&cache.k, &k});
  cuda::write_kv(stream_, cache, k, v, slots);
}

void CudaOps::attention(Tensor out, Tensor q, KvView cache, const AttnBatch& batch,
                        const AttnParams& params) {
  note("attention", {&out, &q, &cache.k});
  const int kv_heads = int(cache.k.shape[1]), head_dim = int(q.shape[2]);
  const AttentionShape shape = shape_of(int(q.shape[1]), kv_heads, params.window);
  const AttentionLists& work = lists(shape);
  CHECK(cache.k.stride[2] == head_dim);
  CHECK(q.stride[1] == head_dim && out.stride[1] == head_dim);
  dispatch(q.dtype, cache.k.dtype, [&]<class T, class Kv>(T, Kv) {
    const PagedKv<Kv> kv{cache.k.as<Kv>(),
                         cache.v.as<Kv>(),
                         cache.k.stride[0],
                         cache.k.stride[1],
                         std::countr_zero(unsigned(cache.k.shape[2])),
                         shape.num_kv_heads / kv_heads};
    const PagedAttention<T, Kv> step{
        q.as<T>(),
        out.as<T>(),
        q.stride[0],
        out.stride[0],
        kv,
        batch.block_tables.as<int32_t>(),
        work.table_stride(),
        batch.seq_lens.as<int32_t>(),
        shape.num_kv_heads,
        shape.group,
        AttentionScores::of(params.scale * cache.k_scale, params.window, params.softcap),
        cache.v_scale,
        params.alibi.as<const float>(),
        cache.table,
        batch.num_tables};
    const Partials sizes(limits_);
    auto* partials = static_cast<float*>(partials_.get());
    for (int round = 0; round < work.num_rounds(); ++round) {
      const DecodeParams<T, Kv> p{step,
                                  work.token_of(),
                                  work.decode_items(round),
                                  work.num_items(round),
                                  work.partial_of(),
                                  partials,
                                  partials + sizes.out,
                                  reinterpret_cast<uint32_t*>(partials + sizes.out + sizes.stats),
                                  nullptr};
      attention_decode(stream_, p, head_dim,
                       kBlocksPerMultiprocessor * runtime_.info().num_multiprocessors);
    }
    const PrefillParams<T, Kv> p{step, batch.cu_q.as<int32_t>(), work.prefill_items(), nullptr};
    attention_prefill(stream_, p, head_dim, work.num_prefill_items());
  });
}

void CudaOps::route(Tensor experts, Tensor weights, Tensor logits, bool normed) {
  note("route", {&experts, &logits});
  cuda::route(stream_, experts, weights, logits, normed);
}

void CudaOps::expert_matmul(Tensor out, Tensor x, const Weight& w, Tensor experts) {
  note("expert_matmul", {&out, &x, &w.data});
  if (takes_tiles(out, x, w, out.shape[1]))
    return grouped_matmul(stream_, out, x, w.data, w.scale, experts, false, grouped_.get());
  cuda::expert_matmul(stream_, out, x, w.data, w.scale, experts);
}

// By the number of rows, or, where results must not depend on that, always.
bool CudaOps::takes_tiles(const Tensor& out, const Tensor& x, const Weight& w,
                          int64_t width) const {
  const int64_t rows = out.shape[0], num_experts = w.out_features() / width;
  if (!grouped_can(out, x, w.data)) return false;
  if (!products_.invariant() && rows < kRowsForTiles * num_experts) return false;
  CHECK(rows <= limits_.max_expert_rows && num_experts <= limits_.num_experts);
  return true;
}

void CudaOps::expert_silu_mul(Tensor out, Tensor x, const Weight& w, Tensor experts,
                              Tensor scratch) {
  if (!takes_tiles(out, x, w, 2 * out.shape[1]))
    return Ops::expert_silu_mul(out, x, w, experts, scratch);
  note("expert_silu_mul", {&out, &x, &w.data});
  grouped_matmul(stream_, out, x, w.data, w.scale, experts, true, grouped_.get());
}

void CudaOps::mix_rows(Tensor out, Tensor x, Tensor weights) {
  note("mix_rows", {&out, &x, &weights});
  cuda::mix_rows(stream_, out, x, weights);
}

void CudaOps::add_gated(Tensor out, Tensor x, Tensor gate) {
  note("add_gated", {&out, &x, &gate});
  cuda::add_gated(stream_, out, x, gate);
}

void CudaOps::gather_rows(Tensor out, Tensor x, Tensor rows) {
  note("gather_rows", {&out, &x, &rows});
  copy_rows(stream_, out, x, rows, {}, out.shape[0]);
}

void CudaOps::move_tokens(Tensor dst, Tensor to, Tensor src, Tensor from) {
  note("move_tokens", {&dst, &to, &src});
  const auto rows = [](Tensor t) { return Tensor::of(t.data, t.dtype, {t.shape[0], 1}); };
  copy_rows(stream_, rows(dst), rows(src), from, to, to.shape[0]);
}

void CudaOps::sample(const SampleOut& out, Tensor logits, const SampleBatch& batch) {
  note("sample", {&out.token, &logits});
  cuda::sample(stream_, out, logits, batch, sample_scratch_.get(), sample_blocks(limits_));
}

void CudaOps::token_logprobs(const SampleOut& out, Tensor logits, Tensor targets, int top) {
  note("token_logprobs", {&out.logprob, &logits, &targets});
  cuda::token_logprobs(stream_, out, logits, targets, top);
}

// --- fusions ---

void CudaOps::matmul_activate(Tensor out, Tensor x, const Weight& w, Activation activation) {
  note("matmul_activate", {&out, &x, &w.data});
  multiply(out, x, w, activation);
}

void CudaOps::matmul_silu_mul(Tensor out, Tensor x, const Weight& w, Tensor scratch) {
  note("matmul_silu_mul", {&out, &x, &w.data});
  if (out.shape[0] == 0) return;
  if (out.dtype == DType::fp8_e4m3 || !products_.multiply_silu_mul(out, x, w))
    Ops::matmul_silu_mul(out, x, w, scratch);
}

void CudaOps::add_rms_norm(Tensor out, Tensor residual, Tensor x, Tensor weight, float eps) {
  note("add_rms_norm", {&out, &residual, &x});
  if (out.dtype == DType::fp8_e4m3)
    return quantize_normed(stream_, out, scales_of(out), residual, x, weight, eps);
  cuda::rms_norm(stream_, out, residual, x, weight, eps);
}

void CudaOps::qkv_rope_write(Tensor qkv, const QkvParams& p, Tensor positions, KvView cache,
                             Tensor slots) {
  note("qkv_rope_write", {&qkv, &cache.k});
  cuda::qkv_rope_write(stream_, qkv, p, positions, cache, slots);
}

}  // namespace sluice::cuda
