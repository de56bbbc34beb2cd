#include "kernels/cpu/cpu_ops.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/float8.h"
#include "kernels/cpu/pack.h"

namespace sluice::cpu {
namespace {

// A piece worth handing to another thread, in elements touched.
constexpr int64_t kPieceElements = 16 << 10;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

size_t rounded(size_t bytes) { return (bytes + 63) & ~size_t{63}; }

size_t tiles_bytes(DType type, int64_t out, int64_t in) {
  return rounded(size_t(divide_up(out, kTileCols) * tile_bytes(weight_type(type), in)));
}

const float* floats(const Tensor& t) { return t.as<const float>(); }

KvType kv_type(DType t) {
  CHECK(t == DType::f32 || t == DType::bf16 || t == DType::fp8_e4m3);
  return t == DType::f32 ? KvType::f32 : t == DType::bf16 ? KvType::bf16 : KvType::e4m3;
}

}  // namespace

float* FloatBuffer::reserve(size_t count) {
  if (count > size_) {
    data_.reset(static_cast<float*>(::operator new (count * sizeof(float), std::align_val_t{64})));
    size_ = count;
  }
  return data_.get();
}

CpuOps::CpuOps(const Kernels& kernels, int num_threads)
    : kernels_(kernels),
      pool_(num_threads),
      scratch_(num_threads),
      samplers_(num_threads, Sampler(&kernels_)) {}

template <class Body>
void CpuOps::for_rows(int64_t count, int64_t width, Body&& body) {
  const int64_t per_piece = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(width, 1));
  pool_.parallel_for(divide_up(count, per_piece), [&](int64_t piece, int worker) {
    const int64_t end = std::min(count, (piece + 1) * per_piece);
    for (int64_t row = piece * per_piece; row < end; ++row) body(row, worker);
  });
}

void CpuOps::each_worker_reserves(size_t floats) {
  for (FloatBuffer& s : scratch_) s.reserve(floats);
}

// --- weights ---

// Scales, where there are any, follow the tiles.
size_t CpuOps::weight_bytes(DType type, int64_t out_features, int64_t in_features) const {
  const size_t scales = type == DType::fp8_e4m3 ? size_t(out_features) * sizeof(float) : 0;
  return tiles_bytes(type, out_features, in_features) + rounded(scales);
}

Weight CpuOps::make_weight(void* memory, DType type, int64_t out_features, int64_t in_features) {
  weight_type(type);
  Weight w;
  w.data = Tensor::of(memory, type, {out_features, in_features});
  if (type == DType::fp8_e4m3) {
    char* scales = static_cast<char*>(memory) + tiles_bytes(type, out_features, in_features);
    w.scale = Tensor::of(scales, DType::f32, {out_features});
  }
  return w;
}

void CpuOps::pack_rows(const Weight& dst, int64_t first_row, const Tensor& src,
                       const Tensor& src_scale) {
  cpu::pack_rows(dst, first_row, src, src_scale);
}

void CpuOps::embed(Tensor out, const Weight& table, Tensor ids) {
  const int32_t* id = ids.as<int32_t>();
  for_rows(out.shape[0], out.shape[1], [&](int64_t row, int) {
    CHECK(id[row] >= 0 && id[row] < table.out_features());
    unpack_row(out.row<float>(row), table, id[row]);
  });
}

// --- matmul ---

// x as the kernels want it: bf16 for vdpbf16ps; else as it is, unless its rows are a multiple of a
// page's quarter apart, when the rows of a register tile would share a few sets of the L1 cache.
void CpuOps::stage_x(GemmArgs* args, const Tensor& x) {
  const int64_t rows = x.shape[0], in = x.shape[1];
  args->x = x.data;
  args->x_stride = x.stride[0];
  if (kernels_.takes_bf16(args->type)) {
    const int64_t stride = divide_up(in, 32) * 32 + 32;
    uint16_t* to = reinterpret_cast<uint16_t*>(staged_x_.reserve(rows * stride / 2));
    for_rows(rows, in, [&](int64_t row, int) {
      kernels_.to_bf16(to + row * stride, x.row<const float>(row), in);
      if (in & 1) to[row * stride + in] = 0;
    });
    args->x = to;
    args->x_stride = stride;
  } else if (rows > 8 && x.stride[0] % 256 == 0) {
    const int64_t stride = divide_up(in, 16) * 16 + 16;
    float* to = staged_x_.reserve(rows * stride);
    for_rows(rows, in, [&](int64_t row, int) {
      std::memcpy(to + row * stride, x.row<const float>(row), in * sizeof(float));
    });
    args->x = to;
    args->x_stride = stride;
  }
}

void CpuOps::gemm(Tensor out, Tensor x, const Weight& w, bool silu_mul) {
  const int64_t rows = x.shape[0];
  if (rows == 0) return;
  GemmArgs args;
  args.type = weight_type(w.data.dtype);
  args.w = w.data.as<char>();
  args.in = w.in_features();
  args.out = w.out_features();
  args.scale = floats(w.scale);
  args.bias = floats(w.bias);
  args.y = out.as<float>();
  args.y_stride = out.stride[0];
  args.silu_mul = silu_mul;
  CHECK(x.shape[1] == args.in);
  stage_x(&args, x);

  // Rows in blocks that keep their inputs in L2, as even as they come.
  const int64_t row_pieces = divide_up(rows, std::max<int64_t>(1, kernels_.row_block(args.in)));
  const int64_t row_step = divide_up(rows, row_pieces);
  const int64_t tiles = divide_up(silu_mul ? args.out / 2 : args.out, kTileCols);
  // Outputs in pieces of about 96 KiB of weights, but four pieces a thread at least.
  const int64_t panel = kernels_.panel_tiles(std::min(rows, row_step), args.type);
  const int64_t panels = divide_up(tiles, panel);
  const int64_t panel_bytes = panel * tile_bytes(args.type, args.in) * (silu_mul ? 2 : 1);
  const int64_t per_piece = std::clamp<int64_t>(
      (96 << 10) / panel_bytes, 1, std::max<int64_t>(1, panels * row_pieces / (4 * pool_.size())));
  const int64_t tile_step = per_piece * panel;
  const int64_t tile_pieces = divide_up(tiles, tile_step);
  each_worker_reserves(kernels_.gemm_scratch(row_step, silu_mul));
  pool_.parallel_for(row_pieces * tile_pieces, [&](int64_t i, int worker) {
    GemmPiece piece;
    piece.row_begin = i / tile_pieces * row_step;
    piece.row_end = std::min(rows, piece.row_begin + row_step);
    piece.tile_begin = i % tile_pieces * tile_step;
    piece.tile_end = std::min(tiles, piece.tile_begin + tile_step);
    if (piece.row_begin < piece.row_end) {
      kernels_.gemm(args, piece, scratch_[worker].reserve(0));
    }
  });
}

void CpuOps::matmul(Tensor out, Tensor x, const Weight& w) { gemm(out, x, w, false); }

void CpuOps::matmul_silu_mul(Tensor out, Tensor x, const Weight& w, Tensor scratch) {
  if (w.out_features() % (2 * kTileCols) == 0) {
    gemm(out, x, w, true);
  } else {
    Ops::matmul_silu_mul(out, x, w, scratch);
  }
}

// --- rows ---

void CpuOps::norm_row(const Tensor& out, const Tensor& x, const float* weight, float eps,
                      int64_t row) {
  if (x.rank == 2) {
    kernels_.rms_norm(out.row<float>(row), x.row<const float>(row), weight, x.shape[1], eps);
    return;
  }
  for (int64_t h = 0; h < x.shape[1]; ++h) {
    kernels_.rms_norm(out.row<float>(row) + h * out.stride[1],
                      x.row<const float>(row) + h * x.stride[1], weight, x.shape[2], eps);
  }
}

void CpuOps::rms_norm(Tensor out, Tensor x, Tensor weight, float eps) {
  const int64_t width = x.rank == 2 ? x.shape[1] : x.shape[1] * x.shape[2];
  for_rows(x.shape[0], width,
           [&](int64_t row, int) { norm_row(out, x, floats(weight), eps, row); });
}

void CpuOps::layer_norm(Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  for_rows(x.shape[0], x.shape[1], [&](int64_t row, int) {
    kernels_.layer_norm(out.row<float>(row), x.row<const float>(row), floats(weight), floats(bias),
                        x.shape[1], eps);
  });
}

void CpuOps::add(Tensor out, Tensor a, Tensor b) {
  for_rows(out.shape[0], out.shape[1], [&](int64_t row, int) {
    kernels_.add(out.row<float>(row), a.row<const float>(row), b.row<const float>(row),
                 out.shape[1]);
  });
}

void CpuOps::add_rms_norm(Tensor out, Tensor residual, Tensor x, Tensor weight, float eps) {
  for_rows(x.shape[0], x.shape[1], [&](int64_t row, int) {
    float* r = residual.row<float>(row);
    kernels_.add(r, r, x.row<const float>(row), x.shape[1]);
    kernels_.rms_norm(out.row<float>(row), r, floats(weight), x.shape[1], eps);
  });
}

void CpuOps::silu_mul(Tensor out, Tensor gate_up) {
  const int64_t d = out.shape[1];
  for_rows(out.shape[0], d, [&](int64_t row, int) {
    const float* gate = gate_up.row<const float>(row);
    kernels_.silu_mul(out.row<float>(row), gate, gate + d, d);
  });
}

void CpuOps::gelu_mul(Tensor out, Tensor gate_up) {
  const int64_t d = out.shape[1];
  for_rows(out.shape[0], d, [&](int64_t row, int) {
    const float* gate = gate_up.row<const float>(row);
    kernels_.gelu_mul(out.row<float>(row), gate, gate + d, d);
  });
}

void CpuOps::activate(Tensor x, Activation activation) {
  const auto kernel = activation == Activation::silu        ? kernels_.silu
                      : activation == Activation::gelu      ? kernels_.gelu
                      : activation == Activation::gelu_tanh ? kernels_.gelu_tanh
                                                            : kernels_.relu;
  for_rows(x.shape[0], x.shape[1],
           [&](int64_t row, int) { kernel(x.row<float>(row), x.shape[1]); });
}

void CpuOps::scale(Tensor x, float factor, float softcap) {
  for_rows(x.shape[0], x.shape[1], [&](int64_t row, int) {
    kernels_.scale(x.row<float>(row), x.shape[1], factor, softcap);
  });
}

void CpuOps::rope_row(const Tensor& qk, int64_t position, const Tensor& cos_sin, int64_t row) {
  const int64_t half = cos_sin.shape[1] / 2;
  const float* table = cos_sin.row<const float>(position);
  for (int64_t h = 0; h < qk.shape[1]; ++h) {
    kernels_.rope(qk.row<float>(row) + h * qk.stride[1], table, table + half, half);
  }
}

void CpuOps::rope(Tensor qk, Tensor positions, Tensor cos_sin) {
  const int32_t* position = positions.as<int32_t>();
  for_rows(qk.shape[0], qk.shape[1] * qk.shape[2],
           [&](int64_t row, int) { rope_row(qk, position[row], cos_sin, row); });
}

void CpuOps::write_kv_row(const KvView& cache, const Tensor& k, const Tensor& v, int64_t slot,
                          int64_t row) {
  const int64_t block_size = cache.k.shape[2], dim = cache.k.shape[3];
  CHECK(slot >= 0 && slot < cache.k.shape[0] * block_size);
  const auto write = [&](const Tensor& to, const Tensor& from, float scale) {
    for (int64_t h = 0; h < from.shape[1]; ++h) {
      const float* x = from.row<const float>(row) + h * from.stride[1];
      const int64_t at =
          slot / block_size * to.stride[0] + h * to.stride[1] + slot % block_size * to.stride[2];
      if (to.dtype == DType::fp8_e4m3) {
        const float inverse = 1 / scale;
        for (int64_t d = 0; d < dim; ++d) to.as<uint8_t>()[at + d] = to_e4m3(x[d] * inverse);
      } else if (to.dtype == DType::bf16) {
        kernels_.to_bf16(to.as<uint16_t>() + at, x, dim);
      } else {
        std::memcpy(to.as<float>() + at, x, dim * sizeof(float));
      }
    }
  };
  write(cache.k, k, cache.k_scale);
  write(cache.v, v, cache.v_scale);
}

void CpuOps::write_kv(KvView cache, Tensor k, Tensor v, Tensor slot_mapping) {
  const int32_t* slot = slot_mapping.as<int32_t>();
  for_rows(k.shape[0], 2 * k.shape[1] * k.shape[2],
           [&](int64_t row, int) { write_kv_row(cache, k, v, slot[row], row); });
}

void CpuOps::qkv_rope_write(Tensor qkv, const QkvParams& p, Tensor positions, KvView cache,
                            Tensor slot_mapping) {
  const int64_t q_cols = int64_t{p.num_heads} * p.head_dim;
  const int64_t kv_cols = int64_t{p.num_kv_heads} * p.head_dim;
  const Tensor q = qkv.cols(0, q_cols).heads(p.head_dim);
  const Tensor k = qkv.cols(q_cols, kv_cols).heads(p.head_dim);
  const Tensor v = qkv.cols(q_cols + kv_cols, kv_cols).heads(p.head_dim);
  const int32_t* position = positions.as<int32_t>();
  const int32_t* slot = slot_mapping.as<int32_t>();
  for_rows(qkv.shape[0], qkv.shape[1], [&](int64_t row, int) {
    if (p.q_norm) norm_row(q, q, floats(p.q_norm), p.eps, row);
    if (p.k_norm) norm_row(k, k, floats(p.k_norm), p.eps, row);
    if (p.cos_sin) rope_row(q, position[row], p.cos_sin, row);
    if (p.cos_sin) rope_row(k, position[row], p.cos_sin, row);
    write_kv_row(cache, k, v, slot[row], row);
  });
}

void CpuOps::gather_rows(Tensor out, Tensor x, Tensor rows) {
  const int32_t* from = rows.as<int32_t>();
  const int64_t bytes = out.shape[1] * bits_of(out.dtype) / 8, size = bits_of(out.dtype) / 8;
  for_rows(out.shape[0], out.shape[1], [&](int64_t row, int) {
    CHECK(from[row] >= 0 && from[row] < x.shape[0]);
    std::memcpy(out.as<char>() + row * out.stride[0] * size,
                x.as<char>() + from[row] * x.stride[0] * size, bytes);
  });
}

void CpuOps::move_tokens(Tensor dst, Tensor to, Tensor src, Tensor from) {
  for (int64_t i = 0; i < to.shape[0]; ++i)
    dst.as<int32_t>()[to.as<int32_t>()[i]] = src.as<int32_t>()[from.as<int32_t>()[i]];
}

// --- attention ---

// Cuts the batch into tasks of one KV head and as many query tokens as fit a register-blocked
// tile. Long work first, so that the end of the loop is even.
void CpuOps::plan_attention(const AttentionArgs& args, const AttnBatch& batch,
                            const KvView& cache) {
  tasks_.clear();
  const int num_kv_heads = int(cache.k.shape[1]);
  const int64_t table = cache.table * batch.max_blocks();
  const int32_t* cu_q = batch.cu_q.as<int32_t>();
  const int32_t* seq_lens = batch.seq_lens.as<int32_t>();
  const int tile = kMaxQueryRows / args.group;
  for (int s = 0; s < batch.num_seqs; ++s) {
    const int tokens = cu_q[s + 1] - cu_q[s];
    const int tiles = int(divide_up(tokens, tile));
    for (int t = tiles - 1, end = tokens; t >= 0; --t) {
      const int begin = int(int64_t{tokens} * t / tiles);
      AttentionTask task;
      AttentionPiece& p = task.piece;
      p.blocks = batch.block_tables.row<const int32_t>(s) + table;
      p.token_begin = cu_q[s] + begin;
      p.count = end - begin;
      p.position = seq_lens[s] - tokens + begin;
      const int first = args.window > 0 ? std::max(0, p.position - args.window + 1) : 0;
      p.span_begin = first / kKeySpan;
      p.span_end = (p.position + p.count - 1) / kKeySpan + 1;
      for (p.kv_head = 0; p.kv_head < num_kv_heads; ++p.kv_head) tasks_.push_back(task);
      end = begin;
    }
  }
}

// Every span of every task on its own, then one join a task: for few long sequences on many
// processors. Same bits, since attention() joins spans too.
void CpuOps::attention_by_spans(const AttentionArgs& args) {
  const int64_t dp = divide_up(args.dim, 32) * 32;
  const int64_t per_partial = kMaxQueryRows * (dp + 2);
  int64_t num_partials = 0;
  for (AttentionTask& t : tasks_) {
    t.partial = num_partials;
    num_partials += t.piece.span_end - t.piece.span_begin;
  }
  float* floats = partial_floats_.reserve(num_partials * per_partial);
  partials_.resize(num_partials);
  for (int64_t i = 0; i < num_partials; ++i, floats += per_partial) {
    partials_[i] = {floats, floats + kMaxQueryRows, floats + 2 * kMaxQueryRows};
  }
  const int64_t num_tasks = int64_t(tasks_.size());
  pool_.parallel_for(num_partials, [&](int64_t i, int worker) {
    const auto after =
        std::upper_bound(tasks_.begin(), tasks_.end(), i,
                         [](int64_t v, const AttentionTask& t) { return v < t.partial; });
    const AttentionTask& task = *(after - 1);
    AttentionPiece piece = task.piece;
    piece.span_begin += int(i - task.partial);
    piece.span_end = piece.span_begin + 1;
    kernels_.attention_span(args, piece, scratch_[worker].reserve(0), partials_[i]);
  });
  pool_.parallel_for(num_tasks, [&](int64_t i, int worker) {
    kernels_.attention_join(args, tasks_[i].piece, partials_.data() + tasks_[i].partial,
                            scratch_[worker].reserve(0));
  });
}

void CpuOps::attention(Tensor out, Tensor q, KvView cache, const AttnBatch& batch,
                       const AttnParams& params) {
  AttentionArgs args;
  args.q = floats(q);
  args.q_stride = q.stride[0];
  args.q_head_stride = q.stride[1];
  args.out = out.as<float>();
  args.out_stride = out.stride[0];
  args.out_head_stride = out.stride[1];
  args.k = cache.k.data;
  args.v = cache.v.data;
  args.kv = kv_type(cache.k.dtype);
  args.k_block = cache.k.stride[0];
  args.k_head = cache.k.stride[1];
  args.k_slot = cache.k.stride[2];
  args.v_block = cache.v.stride[0];
  args.v_head = cache.v.stride[1];
  args.v_slot = cache.v.stride[2];
  args.dim = int(q.shape[2]);
  args.block_size = int(cache.k.shape[2]);
  const float unit = args.kv == KvType::e4m3 ? 256 : 1;
  args.scale = params.scale * cache.k_scale * unit;
  args.value_scale = cache.v_scale * unit;
  args.softcap = params.softcap;
  args.window = params.window;
  args.alibi = params.alibi.as<const float>();
  const int num_kv_heads = int(cache.k.shape[1]), group = int(q.shape[1]) / num_kv_heads;
  CHECK(group * num_kv_heads == q.shape[1]);
  // A tile has room for so many heads: of more that share a KV head (Falcon 7B has 71) some come
  // after the others.
  args.of_kv_head = group;
  const int parts = int(divide_up(group, kMaxQueryRows));
  for (int i = 0, begin = 0; i < parts; ++i, begin += args.group) {
    args.group = (group - begin) / (parts - i);
    AttentionArgs part = args;
    part.q += begin * args.q_head_stride;
    part.out += begin * args.out_head_stride;
    if (part.alibi) part.alibi += begin;
    attention_of(part, batch, cache);
  }
}

void CpuOps::attention_of(const AttentionArgs& args, const AttnBatch& batch, const KvView& cache) {
  plan_attention(args, batch, cache);
  each_worker_reserves(kernels_.attention_scratch(args.dim));
  const int64_t num_tasks = int64_t(tasks_.size());
  int most_spans = 1;
  for (const AttentionTask& t : tasks_) {
    most_spans = std::max(most_spans, t.piece.span_end - t.piece.span_begin);
  }
  if (most_spans > 1 && num_tasks < 4 * pool_.size()) return attention_by_spans(args);
  // A short context is not worth a claim of its own.
  const int64_t work = std::max<int64_t>(1, batch.max_seq_len) * args.dim * 2;
  const int64_t per_piece = std::clamp<int64_t>(
      2 * kPieceElements / work, 1, std::max<int64_t>(1, num_tasks / (4 * pool_.size())));
  pool_.parallel_for(divide_up(num_tasks, per_piece), [&](int64_t i, int worker) {
    const int64_t end = std::min(num_tasks, (i + 1) * per_piece);
    for (int64_t t = i * per_piece; t < end; ++t) {
      kernels_.attention(args, tasks_[t].piece, scratch_[worker].reserve(0));
    }
  });
}

// --- sampling ---

void CpuOps::sample(const SampleOut& out, Tensor logits, const SampleBatch& batch) {
  for (Sampler& s : samplers_) s.reserve(logits.shape[1]);
  pool_.parallel_for(batch.num_draws, [&](int64_t i, int worker) {
    const int32_t row = batch.row.as<int32_t>()[i];
    CHECK(row >= 0 && row < logits.shape[0]);
    samplers_[worker].draw(out, logits, batch, i);
  });
}

void CpuOps::token_logprobs(const SampleOut& out, Tensor logits, Tensor targets, int top) {
  pool_.parallel_for(logits.shape[0], [&](int64_t i, int worker) {
    const int32_t target = targets.as<int32_t>()[i];
    CHECK(target >= 0 && target < logits.shape[1]);
    samplers_[worker].token_logprob(out, logits, targets, top, i);
  });
}

}  // namespace sluice::cpu
