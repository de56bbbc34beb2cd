#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/packed_buffer.h"
#include "kernels/ops.h"
#include "scheduler/sequence.h"

namespace sluice {

// One token to be drawn.
struct Draw {
  const Sequence* seq = nullptr;
  int context_len = 0;  // tokens before it: its index in the sequence
  int sample = 0;       // whose seed it takes
  int row = 0;          // of the logits it is drawn from, as the kernel sees them
};

bool has_penalties(const SamplingParams&);

// Turns requests' sampling parameters into the arrays of a SampleBatch. What few requests use
// (penalties, biases, masks) costs nothing in a step where none does; a draw with penalties costs
// one pass over its context. Owned by StepInputs; engine thread only.
class Sampler {
 public:
  Sampler(int vocab_size, std::vector<TokenId> eos_ids);

  // What write() takes of the buffer, at most.
  size_t bytes(std::span<const Draw> draws) const;
  // Arrays over all `draws`, in their order. A token that would end the sample is banned
  // until it has min_tokens.
  SampleBatch write(std::span<const Draw> draws, PackedBuffer& out);

  // What bytes() can come to for `max_draws` draws, by a bound that covers ordinary use: draws with
  // long penalised contexts beyond it make the buffer grow.
  static size_t reserve_bytes(int max_draws, int max_model_len, int vocab_size);

 private:
  void write_parameters(std::span<const Draw> draws, SampleBatch& b, PackedBuffer& out) const;
  void write_history(std::span<const Draw> draws, SampleBatch& b, PackedBuffer& out);
  void write_biases(std::span<const Draw> draws, SampleBatch& b, PackedBuffer& out) const;
  void write_masks(std::span<const Draw> draws, SampleBatch& b, PackedBuffer& out) const;
  int num_biases(const Draw& d) const;

  const int vocab_size_;
  const int mask_words_;
  const std::vector<TokenId> eos_ids_;
  // By token: its place in the list being written, valid when the stamp is the draw's.
  std::vector<uint32_t> stamp_;
  std::vector<int32_t> place_;
  uint32_t epoch_ = 0;
};

// All arrays of a batch; absent ones, too.
std::array<Tensor*, 18> tensors_of(SampleBatch& b);
// Part of a batch: draws [begin, begin + count).
SampleBatch slice(const SampleBatch& b, int begin, int count);

}  // namespace sluice
