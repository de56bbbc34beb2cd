#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/ops.h"

// Sampling on the CPU: one draw at a time on one thread; draws run side by side. What a draw gives
// depends on its row, its own parameters, its seed and its position alone.
namespace sluice::cpu {

// A worker's buffers for draws over one vocabulary; grown once, kept.
class Sampler {
 public:
  explicit Sampler(const Kernels* kernels) : kernels_(kernels) {}

  void reserve(int64_t vocab);

  void draw(const SampleOut& out, const Tensor& logits, const SampleBatch& batch, int64_t index);
  void token_logprob(const SampleOut& out, const Tensor& logits, const Tensor& targets, int top,
                     int64_t index);

 private:
  struct Candidate {
    float weight;
    int32_t id;
  };

  float log_sum(const float* row, int64_t vocab, float max) const;
  void best(const float* row, int64_t vocab, float log_sum, int count, int32_t* ids, float* values);
  bool adjust(const float* row, int64_t vocab, const SampleBatch& batch, int64_t index);
  int32_t choose(const float* row, int64_t vocab, const SampleBatch& batch, int64_t index,
                 float max);
  void keep_heaviest(int64_t vocab, int64_t count, float weight);
  int32_t walk(int64_t vocab, double u);

  const Kernels* kernels_;
  std::vector<float> adjusted_;  // logits after penalties, biases and mask
  std::vector<float> weights_;   // e^((logit - max) / temperature), zero once filtered out
  std::vector<Candidate> band_;  // the tokens about where a filter cuts
  std::vector<float> stretch_sums_;
};

// Uniform in [0, 1), from the pair alone.
double uniform(uint64_t seed, int32_t position);

}  // namespace sluice::cpu
