#pragma once

#include <string>
#include <vector>

#include "engine/model_config.h"
#include "engine/weights.h"

namespace sluice {

// What the families share beside Ops.

// Angle per position of each rotated pair, [head_dim / 2].
// llama3 (as in transformers' _compute_llama3_parameters): frequencies whose wavelength exceeds
// original / low_freq_factor are divided by `factor`, those below original / high_freq_factor are
// kept, and those between are blended linearly in original / wavelength.
std::vector<double> rope_frequencies(const RopeConfig&, int head_dim);

// f32 [max_len, head_dim]: cosines, then sines, head_dim / 2 each. Computed in f64: in f32 the
// product of position and frequency is off by 1e-2 radians at position 100,000.
void fill_rope_table(float* out, const RopeConfig&, int head_dim, int max_len, int threads);

// The fused projections of a decoder layer with the Llama naming of tensors.
LinearSpec qkv_spec(Weight* out, const std::string& layer, const ModelConfig&);
LinearSpec gate_up_spec(Weight* out, const std::string& layer, const ModelConfig&);

}  // namespace sluice
