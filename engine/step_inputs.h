#pragma once

#include <span>
#include <vector>

#include "engine/packed_buffer.h"
#include "engine/sampler.h"
#include "kernels/ops.h"
#include "scheduler/step.h"

namespace sluice {

// What a step may come to; memory is reserved for it.
struct StepLimits {
  int max_seqs = 0;         // rows, and draws
  int max_step_tokens = 0;  // tokens
  int max_model_len = 0;    // tokens of context
  int block_size = 0;
  std::vector<KvGroup> groups = {KvGroup{}};  // each has as many tables as its width
  int vocab_size = 0;
  int max_logit_rows = 0;  // rows of logits computed together
  // Steps follow each other before their tokens are known to the host: those stay on the device.
  bool overlapped = false;
  // Steps of decodes alone are filled up to the widths of DecodeCaptures by rows that write their
  // keys and values here. Negative: they are not.
  int pad_slot = -1;
};

// Rows of logits that are computed together, and what is drawn from them.
struct SampleChunk {
  Tensor rows;         // i32 [at most max_logit_rows]  into the hidden states
  int first_draw = 0;  // of the step's draws
  SampleBatch batch;   // `row` counts within the chunk
};
// Likewise for prompt logprobs.
struct TargetChunk {
  Tensor rows;           // i32 [at most max_logit_rows]
  Tensor targets;        // i32 [same]  the prompt token that follows
  int first_target = 0;  // of the step's targets
};

// What a row has in the outputs: its draws and targets follow those of the rows before it.
struct RowOutputs {
  int num_draws = 0;
  int top_logprobs = 0;
  int num_targets = 0;
  int prompt_logprobs = 0;
};

// Tokens moved on the device: element from[i] of one array to element to[i] of another.
struct TokenMoves {
  Tensor from, to;  // i32 [n]
};

// From the scheduler's words (sequences and counts) to the kernels' (arrays). The only place that
// knows both. Owned by a runner; engine thread only. Everything it hands out lives until the next
// build(), needs the plan's sequences no more, and is for the device to read, but for what is said
// to be the host's.
class StepInputs {
 public:
  StepInputs(Device&, const StepLimits&, std::vector<TokenId> eos_ids);

  // Puts the upload of all arrays on the compute stream. No allocation within the limits.
  void build(const StepPlan& plan);

  Tensor ids() const { return ids_; }              // i32 [num_tokens]
  Tensor positions() const { return positions_; }  // i32 [num_tokens]
  const AttnBatch& attn() const { return attn_; }
  const AttnBatch& host_attn() const { return host_attn_; }
  // Rows with those that fill it up, where it is a step of decodes alone; else 0. Its arrays are
  // where those of every step of this width are, while base() stays the same.
  int width() const { return width_; }
  const void* base() const { return buffer_.base(); }
  // The rows to sample from of a step with a width, filled up to it; absent elsewhere, and where
  // their logits do not fit at once.
  Tensor padded_sample_rows() const { return padded_sample_rows_; }  // i32 [width]
  // Tokens that only the device knows: from the sequences' slots to the step's ids and to the
  // draws' `unseen`, and from the draws to the slots. None unless steps overlap.
  const TokenMoves& ids_from_slots() const { return ids_from_slots_; }
  const TokenMoves& unseen_from_slots() const { return unseen_from_slots_; }
  const TokenMoves& draws_to_slots() const { return draws_to_slots_; }
  Tensor unseen() const { return batch_.unseen; }  // i32 [num_draws]
  std::span<const RowOutputs> rows() const { return rows_; }

  int num_draws() const { return int(draws_.size()); }
  int top_logprobs() const { return batch_.top_logprobs; }  // most that any draw wants
  std::span<const SampleChunk> samples() const { return samples_; }

  int num_targets() const { return int(target_rows_.shape[0]); }
  int prompt_logprobs() const { return prompt_logprobs_; }  // most that any target wants
  Tensor host_targets() const { return targets_; }          // i32 [num_targets]
  std::span<const TargetChunk> target_chunks() const { return target_chunks_; }

  size_t capacity_bytes() const { return buffer_.capacity(); }
  // What one for these limits takes.
  static size_t reserve_bytes(const StepLimits&);

 private:
  struct Need {
    int64_t tables = 1;
    int64_t tokens = 0, rows = 0, blocks = 0, sample_rows = 0, targets = 0;
    int64_t unknown = 0, unseen = 0, kept = 0;  // tokens from slots, and to them
    size_t bytes() const;
  };
  Need survey(const StepPlan& plan);
  void take_arrays(const Need& need);
  void fill_up(int num_rows);
  void write_row(const StepRow& row, int index, int first_token, int first_target);
  void write_blocks(const StepRow& row, int index, int first_token);
  void write_moves(const StepPlan& plan);
  void cut_chunks(const Need& need);
  void upload();

  const StepLimits limits_;
  const int num_tables_;
  Sampler sampler_;
  PackedBuffer buffer_;
  std::vector<Draw> draws_;
  std::vector<int32_t> sample_tokens_;  // per logits row to sample from: its token in the step

  int width_ = 0;
  Tensor ids_, positions_;
  AttnBatch attn_, host_attn_;
  TokenMoves ids_from_slots_, unseen_from_slots_, draws_to_slots_;
  SampleBatch batch_;   // over all draws
  Tensor sample_rows_;  // i32 [logits rows to sample from, or width]
  Tensor padded_sample_rows_;
  Tensor target_rows_;  // i32 [num_targets]
  Tensor targets_;      // i32 [num_targets]
  int prompt_logprobs_ = 0;
  std::vector<RowOutputs> rows_;
  std::vector<SampleChunk> samples_;
  std::vector<TargetChunk> target_chunks_;
};

}  // namespace sluice
