#pragma once

#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/tensor.h"

// The packed layout of linear layers (kernels.h says what it is): in and out.
namespace sluice::cpu {

// CHECKs that `t` is a type a linear layer can have here.
WeightType weight_type(DType t);

// See Ops::pack_rows. Safe from several threads for different rows.
void pack_rows(const Weight& dst, int64_t first_row, const Tensor& src, const Tensor& src_scale);

// out[in_features] = row `row`, as f32.
void unpack_row(float* out, const Weight& packed, int64_t row);

}  // namespace sluice::cpu
