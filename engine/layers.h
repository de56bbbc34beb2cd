#pragma once

#include <vector>

#include "engine/model_config.h"

namespace sluice {

// What the families share beside Ops.

// Angle per position of each rotated pair, [rotary_dim / 2], for a model that serves `max_len`
// positions.
// llama3: frequencies whose wavelength exceeds original / low_freq_factor are divided by `factor`,
// those below original / high_freq_factor are kept, and those between are blended linearly in
// original / wavelength.
// yarn (Peng et al. 2023): blended linearly in the pair's number instead.
// dynamic: theta grows with what is served beyond the original length.
// longrope (Ding et al. 2024): the long or the short list of factors, by what is served.
std::vector<double> rope_frequencies(const RopeConfig&, int rotary_dim, int max_len);

// f32 [max_len, rotary_dim]: cosines, then sines, rotary_dim / 2 each. Computed in f64: in f32 the
// product of position and frequency is off by 1e-2 radians at position 100,000.
void fill_rope_table(float* out, const RopeConfig&, int rotary_dim, int max_len, int threads);

}  // namespace sluice
