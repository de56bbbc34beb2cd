#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "engine/model.h"
#include "kernels/checked_ops.h"
#include "kvcache/kv_store.h"

namespace sluice {

// Some tokens of one sequence in a step.
struct DriverRow {
  int sequence = 0;
  std::span<const int32_t> tokens;
};

// The least that runs a Model: block tables handed out in a scattered order, host memory for the
// step's inputs, every op checked.
class ModelDriver {
 public:
  ModelDriver(Device& device, Model& model, DType kv_dtype, int max_sequences, int max_tokens,
              Ops* ops = nullptr)
      : model_(model),
        checked_(ops ? *ops : device.ops()),
        blocks_per_sequence_((model.max_len() + kBlock - 1) / kBlock),
        kv_(device, shape(model, kv_dtype), max_sequences * blocks_per_sequence_),
        scratch_(device, model.scratch_bytes(max_tokens, max_tokens)),
        lengths_(max_sequences) {
    // 7 and the number of blocks share no factor below, so every block is used once.
    const int total = max_sequences * blocks_per_sequence_;
    int stride = 7;
    while (std::gcd(stride, total) != 1) ++stride;
    for (int i = 0; i < total; ++i) table_.push_back(int(int64_t(i) * stride % total));
  }

  // Logits of every token of the step, f32 [tokens, vocab]; they live until the next step.
  Tensor step(std::span<const DriverRow> rows) {
    ids_.clear(), positions_.clear(), slots_.clear(), lens_.clear(), tables_.clear();
    cu_ = {0};
    AttnBatch attn;
    for (const DriverRow& row : rows) {
      int& length = lengths_[row.sequence];
      const int32_t* table = table_.data() + row.sequence * blocks_per_sequence_;
      for (const int32_t token : row.tokens) {
        ids_.push_back(token);
        positions_.push_back(length);
        slots_.push_back(table[length / kBlock] * kBlock + length % kBlock);
        ++length;
      }
      cu_.push_back(int32_t(ids_.size()));
      lens_.push_back(length);
      tables_.insert(tables_.end(), table, table + blocks_per_sequence_);
      attn.max_q = std::max(attn.max_q, int(row.tokens.size()));
      attn.max_seq_len = std::max(attn.max_seq_len, length);
    }
    const auto n = int64_t(ids_.size());
    rows_.resize(ids_.size());
    std::iota(rows_.begin(), rows_.end(), 0);
    attn.num_seqs = int(rows.size());
    attn.cu_q = Tensor::of(cu_.data(), DType::i32, {int64_t(cu_.size())});
    attn.seq_lens = Tensor::of(lens_.data(), DType::i32, {attn.num_seqs});
    attn.block_tables =
        Tensor::of(tables_.data(), DType::i32, {attn.num_seqs, blocks_per_sequence_});
    attn.slot_mapping = Tensor::of(slots_.data(), DType::i32, {n});
    scratch_.reset();
    const ForwardContext ctx{checked_, comm_, kv_, scratch_, attn};
    const Tensor hidden = model_.hidden(ctx, Tensor::of(ids_.data(), DType::i32, {n}),
                                        Tensor::of(positions_.data(), DType::i32, {n}));
    return model_.logits(ctx, hidden, Tensor::of(rows_.data(), DType::i32, {n}));
  }

  void forget(int sequence) { lengths_[sequence] = 0; }

 private:
  static constexpr int kBlock = 16;
  static KvShape shape(const Model& model, DType dtype) {
    KvShape s = model.kv_shape();
    s.block_size = kBlock;
    s.dtype = dtype;
    return s;
  }

  Model& model_;
  CheckedOps checked_;
  SingleRank comm_;
  const int blocks_per_sequence_;
  KvStore kv_;
  Arena scratch_;
  std::vector<int> lengths_;
  std::vector<int32_t> table_;
  std::vector<int32_t> ids_, positions_, slots_, cu_, lens_, tables_, rows_;
};

}  // namespace sluice
