#pragma once

#include <cstdint>
#include <string_view>

#include "base/float16.h"
#include "base/float8.h"
#include "base/hash.h"

namespace sluice {

// Weights that are a function of (seed, tensor name, index) alone: any thread can make any part of
// any tensor, and tests/golden/models/make_fixtures.py makes the same bits with numpy.

inline uint64_t weight_stream(uint64_t seed, std::string_view tensor) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : tensor) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return mix64(seed, hash);
}

// Near-normal, mean 0: the sum of four uniform 16-bit numbers, so exact until the one
// multiplication. Tails end at 3.46 deviations, which suits weights.
constexpr float random_weight(uint64_t stream, uint64_t index, double deviation) {
  const uint64_t bits = mix64(stream + index);
  const auto sum = static_cast<int32_t>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                        (bits >> 32 & 0xffff) + (bits >> 48)) -
                   131070;
  constexpr double kUnit = 1.0 / 37837.22;  // deviation of the sum: sqrt((2^32 - 1) / 3)
  return static_cast<float>(sum * (deviation * kUnit));
}

// Of the matrices of models with such weights.
inline constexpr double kWeightDeviation = 0.02;

// Of a row of such in fp8: a function of the row alone, so that pieces need not see the whole. No
// weight is beyond 3.47 deviations, which 448 steps of the smallest scale reach. A row has the
// scale of the one kRandomScales before it.
inline constexpr int kRandomScales = 8;
inline float random_scale(int64_t row) {
  const double steps = 1 + double(row % kRandomScales) / kRandomScales;
  return from_bf16(to_bf16(float(3.5 * kWeightDeviation / kMaxE4m3 * steps)));
}

}  // namespace sluice
