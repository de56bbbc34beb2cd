// Mixtures of experts. Rows are sorted by expert, and each expert's are a matrix product of their
// own; which rows share it changes no bit of them.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/pack.h"

namespace sluice::cpu {

void CpuOps::route(Tensor experts, Tensor weights, Tensor logits, bool normed) {
  const int64_t num_experts = logits.shape[1], k = experts.shape[1];
  pool_.parallel_for(logits.shape[0], [&](int64_t row, int) {
    const float* logit = logits.row<const float>(row);
    int32_t* id = experts.row<int32_t>(row);
    float* weight = weights.row<float>(row);
    for (int64_t j = 0; j < k; ++j) {
      int64_t best = -1;
      for (int64_t e = 0; e < num_experts; ++e) {
        const bool taken = std::find(id, id + j, e) != id + j;
        if (!taken && (best < 0 || logit[e] > logit[best])) best = e;
      }
      id[j] = int32_t(best);
    }
    float sum = 0, all = 0;
    for (int64_t e = 0; e < num_experts; ++e) all += std::exp(logit[e] - logit[id[0]]);
    for (int64_t j = 0; j < k; ++j) sum += weight[j] = std::exp(logit[id[j]] - logit[id[0]]);
    for (int64_t j = 0; j < k; ++j) weight[j] /= normed ? sum : all;
  });
}

void CpuOps::expert_matmul(Tensor out, Tensor x, const Weight& w, Tensor experts) {
  const int64_t rows = out.shape[0], width = out.shape[1], in = x.shape[1];
  if (rows == 0) return;
  const int64_t num_experts = w.out_features() / width, per_x = rows / x.shape[0];
  CHECK(width % kTileCols == 0 && w.in_features() == in);
  const int32_t* expert = experts.as<int32_t>();
  expert_begin_.assign(num_experts + 1, 0);
  for (int64_t i = 0; i < rows; ++i) {
    CHECK(expert[i] >= 0 && expert[i] < num_experts);
    ++expert_begin_[expert[i] + 1];
  }
  for (int64_t e = 0; e < num_experts; ++e) expert_begin_[e + 1] += expert_begin_[e];
  expert_rows_.resize(rows);
  for (int64_t i = 0; i < rows; ++i) expert_rows_[expert_begin_[expert[i]]++] = int32_t(i);
  for (int64_t e = num_experts; e > 0; --e) expert_begin_[e] = expert_begin_[e - 1];
  expert_begin_[0] = 0;

  Tensor sorted = Tensor::of(nullptr, DType::f32, {rows, in});
  sorted.stride[0] = (in + 15) / 16 * 16 + 16;  // no two rows in one set of a cache
  sorted.data = expert_in_.reserve(rows * sorted.stride[0]);
  pool_.parallel_for(rows, [&](int64_t i, int) {
    std::memcpy(sorted.row<float>(i), x.row<const float>(expert_rows_[i] / per_x),
                in * sizeof(float));
  });
  GemmArgs args;
  args.type = weight_type(w.data.dtype);
  args.in = in;
  args.out = width;
  args.y = expert_out_.reserve(rows * width);
  args.y_stride = width;
  stage_x(&args, sorted);
  plan_experts(width / kTileCols, tile_bytes(args.type, in), kernels_.row_block(in));
  int64_t most_rows = 0;
  for (const auto& [e, p] : expert_pieces_)
    most_rows = std::max(most_rows, p.row_end - p.row_begin);
  each_worker_reserves(kernels_.gemm_scratch(most_rows, false));
  pool_.parallel_for(int64_t(expert_pieces_.size()), [&](int64_t i, int worker) {
    const auto& [e, piece] = expert_pieces_[i];
    GemmArgs own = args;
    if (w.scale) own.scale = w.scale.as<const float>() + e * width;
    own.w = w.data.as<char>() + e * (width / kTileCols) * tile_bytes(args.type, in);
    kernels_.gemm(own, piece, scratch_[worker].reserve(0));
  });
  pool_.parallel_for(rows, [&](int64_t i, int) {
    std::memcpy(out.row<float>(expert_rows_[i]), args.y + i * width, width * sizeof(float));
  });
}

// Pieces of about 96 KiB of weights.
void CpuOps::plan_experts(int64_t tiles, int64_t bytes_of_tile, int64_t row_step) {
  const int64_t tile_step = std::max<int64_t>(1, (96 << 10) / bytes_of_tile);
  expert_pieces_.clear();
  for (int e = 0; e + 1 < int(expert_begin_.size()); ++e) {
    const int64_t end = expert_begin_[e + 1];
    for (int64_t row = expert_begin_[e]; row < end; row += row_step) {
      for (int64_t tile = 0; tile < tiles; tile += tile_step) {
        expert_pieces_.push_back(
            {e, {row, std::min(end, row + row_step), tile, std::min(tiles, tile + tile_step)}});
      }
    }
  }
}

void CpuOps::mix_rows(Tensor out, Tensor x, Tensor weights) {
  const int64_t k = weights.shape[1], d = out.shape[1];
  pool_.parallel_for(out.shape[0], [&](int64_t row, int) {
    float* to = out.row<float>(row);
    std::fill(to, to + d, 0.0f);
    for (int64_t j = 0; j < k; ++j) {
      const float* from = x.row<const float>(row * k + j);
      const float weight = weights.row<const float>(row)[j];
      for (int64_t i = 0; i < d; ++i) to[i] += weight * from[i];
    }
  });
}

void CpuOps::add_gated(Tensor out, Tensor x, Tensor gate) {
  pool_.parallel_for(out.shape[0], [&](int64_t row, int) {
    const float share = 1 / (1 + std::exp(-*gate.row<const float>(row)));
    const float* from = x.row<const float>(row);
    float* to = out.row<float>(row);
    for (int64_t i = 0; i < out.shape[1]; ++i) to[i] += share * from[i];
  });
}

}  // namespace sluice::cpu
