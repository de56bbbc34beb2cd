#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/model_config.h"
#include "engine/safetensors.h"

namespace sluice {

// A checkpoint that nobody stored: every tensor that a model of this config asks for, with values
// that are a function of the seed, the tensor's name and the place in it (base/random_weights.h):
// matrices of noise, norms as training begins with. `dtype`: f32, f16, bf16, or fp8_e4m3, then the
// linear layers have a scale for each output and what else there is is bf16.
std::vector<StoredTensor> random_checkpoint(const ModelConfig&, DType, uint64_t seed);
// The type that the config says its weights have.
DType declared_dtype(const ModelConfig&);

// Elements [begin, begin + count) of such a tensor, as a file would have them.
void random_elements(const StoredTensor&, int64_t begin, int64_t count, std::byte* out);

}  // namespace sluice
