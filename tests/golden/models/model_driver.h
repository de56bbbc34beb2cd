#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
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
// step's inputs, every op checked. What a window has passed is named no more: a block of NaNs is.
class ModelDriver {
 public:
  ModelDriver(Device& device, Model& model, DType kv_dtype, int max_sequences, int max_tokens,
              Ops* ops = nullptr)
      : model_(model),
        checked_(ops ? *ops : device.ops()),
        blocks_per_sequence_((model.max_len() + kBlock - 1) / kBlock),
        kv_(device, shape(model, kv_dtype),
            max_sequences * blocks_per_sequence_ *
                    grouping_of(shape(model, kv_dtype)).num_tables() +
                1),
        num_tables_(kv_.grouping().num_tables()),
        gone_(kv_.num_blocks() - 1),
        scratch_(device, model.scratch_bytes(max_tokens, max_tokens)),
        lengths_(max_sequences) {
    // 7 and the number of blocks share no factor below, so every block is used once.
    const int total = gone_;
    int stride = 7;
    while (std::gcd(stride, total) != 1) ++stride;
    for (int i = 0; i < total; ++i) table_.push_back(int(int64_t(i) * stride % total));
    for (int layer = 0; layer < int(kv_.shape().layers.size()); ++layer) {
      const KvView view = kv_.layer(layer);
      for (const Tensor& t : {view.k, view.v}) {
        const int64_t bytes = bits_of(t.dtype) / 8;
        auto* block = static_cast<char*>(t.data) + gone_ * t.stride[0] * bytes;
        std::memset(block, 0xff, size_t(t.shape[1] * t.stride[1] * bytes));
      }
    }
  }

  // Logits of every token of the step, f32 [tokens, vocab]; they live until the next step.
  Tensor step(std::span<const DriverRow> rows) {
    ids_.clear(), positions_.clear(), slots_.clear(), lens_.clear(), tables_.clear();
    cu_ = {0};
    AttnBatch attn;
    for (const DriverRow& row : rows) {
      int& length = lengths_[row.sequence];
      give_back(row.sequence, length);
      const int32_t* tables = tables_of(row.sequence);
      for (const int32_t token : row.tokens) {
        ids_.push_back(token);
        positions_.push_back(length++);
      }
      cu_.push_back(int32_t(ids_.size()));
      lens_.push_back(length);
      tables_.insert(tables_.end(), tables, tables + num_tables_ * blocks_per_sequence_);
      attn.max_q = std::max(attn.max_q, int(row.tokens.size()));
      attn.max_seq_len = std::max(attn.max_seq_len, length);
    }
    const auto n = int64_t(ids_.size());
    for (int t = 0; t < num_tables_; ++t) {
      size_t at = 0;
      for (const DriverRow& row : rows) {
        const int32_t* table = tables_of(row.sequence) + t * blocks_per_sequence_;
        for (size_t i = 0; i < row.tokens.size(); ++i, ++at)
          slots_.push_back(table[positions_[at] / kBlock] * kBlock + positions_[at] % kBlock);
      }
    }
    rows_.resize(ids_.size());
    std::iota(rows_.begin(), rows_.end(), 0);
    attn.num_seqs = int(rows.size());
    attn.cu_q = Tensor::of(cu_.data(), DType::i32, {int64_t(cu_.size())});
    attn.seq_lens = Tensor::of(lens_.data(), DType::i32, {attn.num_seqs});
    attn.block_tables =
        Tensor::of(tables_.data(), DType::i32, {attn.num_seqs, num_tables_ * blocks_per_sequence_});
    attn.slot_mapping = Tensor::of(slots_.data(), DType::i32, {num_tables_ * n});
    attn.num_tables = num_tables_;
    scratch_.reset();
    const ForwardContext ctx{checked_, comm_, kv_, scratch_, attn};
    const Tensor hidden = model_.hidden(ctx, Tensor::of(ids_.data(), DType::i32, {n}),
                                        Tensor::of(positions_.data(), DType::i32, {n}));
    return model_.logits(ctx, hidden, Tensor::of(rows_.data(), DType::i32, {n}));
  }

  void forget(int sequence) {
    lengths_[sequence] = 0;
    for (auto& [at, block] : given_back_)
      if (at / (num_tables_ * blocks_per_sequence_) == sequence) table_[size_t(at)] = block;
    std::erase_if(given_back_, [&](const auto& g) {
      return g.first / (num_tables_ * blocks_per_sequence_) == sequence;
    });
  }

 private:
  static constexpr int kBlock = 16;
  int32_t* tables_of(int sequence) {
    return table_.data() + sequence * num_tables_ * blocks_per_sequence_;
  }
  // What no token from `length` on sees.
  void give_back(int sequence, int length) {
    int table = 0;
    for (const KvGroup& g : kv_.grouping().groups) {
      const int gone = g.reach > 0 ? std::max(length - g.reach + 1, 0) / kBlock : 0;
      for (int k = 0; k < g.width; ++k, ++table) {
        for (int i = 0; i < gone; ++i) {
          int32_t& block = tables_of(sequence)[table * blocks_per_sequence_ + i];
          if (block != gone_) given_back_.emplace_back(&block - table_.data(), block);
          block = gone_;
        }
      }
    }
  }
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
  const int num_tables_;
  const int32_t gone_;
  Arena scratch_;
  std::vector<int> lengths_;
  std::vector<int32_t> table_;  // [sequences, num_tables, blocks_per_sequence]
  std::vector<std::pair<int64_t, int32_t>> given_back_;
  std::vector<int32_t> ids_, positions_, slots_, cu_, lens_, tables_, rows_;
};

}  // namespace sluice
