#pragma once

#include <cstdint>

#include "kernels/tensor.h"

// Weights on the host between the types they are stored in, for whoever packs them.
namespace sluice {

// out [rows, columns] = src [rows, columns]: f32, f16 or bf16, or fp8_e4m3 times `scale` (f32
// [rows]; absent for the other types).
void widen_rows(float* out, const Tensor& src, const Tensor& scale);

// x[n] ~ codes * scale, where scale = the largest magnitude / 448. Values are finite.
void quantize_row(uint8_t* codes, float* scale, const float* x, int64_t n);

}  // namespace sluice
