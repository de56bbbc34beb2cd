#pragma once

#include "engine/models/registry.h"
#include "engine/weights.h"

namespace sluice {

// The decoder of every family: what they differ in are the traits of ModelConfig and the names of
// registry.h.
absl::StatusOr<std::unique_ptr<Model>> open_dense(const ModelConfig&, const Safetensors&, Device&,
                                                  const LoadOptions&);

// What open_dense() would say of a checkpoint, all of it.
WeightReview review_checkpoint(const ModelConfig&, const Safetensors&);

// What a checkpoint of this model holds, by the names that its family writes.
struct CheckpointTensor {
  std::string name;
  std::vector<int64_t> shape;
  // What training begins with: this and a little noise for matrices.
  float mean = 0;
  bool layer = false;  // a linear layer's rows, which may be quantised
};
std::vector<CheckpointTensor> checkpoint_tensors(const ModelConfig&);

}  // namespace sluice
