#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/tensor.h"

namespace sluice {

// How far a kernel may be from exact arithmetic on the same stored inputs: root of the mean squared
// error over the root mean square of the exact values. Written once, used by every kernel test.
struct Tolerance {
  // Products exact (but for inputs that were rounded), sums in f32 over up to a few thousand terms.
  static constexpr double sum(bool activations_rounded_to_bf16 = false) {
    return activations_rounded_to_bf16 ? 4e-3 : 2e-6;
  }
  // A value that was stored as this type.
  static constexpr double stored(DType t) {
    switch (t) {
      case DType::bf16:
        return 4e-3;
      case DType::f16:
        return 5e-4;
      default:
        return 2e-7;
    }
  }
  // Elementwise functions in f32.
  static constexpr double elementwise() { return 5e-7; }
};

// Root mean squared error of n values over the root mean square of `exact`; 0 for two equal rows,
// infinity where one is not finite and the other is.
template <class T>
double relative_rms(const T* got, const double* exact, int64_t n) {
  double error = 0, norm = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(static_cast<double>(got[i])) || !std::isfinite(exact[i])) return INFINITY;
    error += (got[i] - exact[i]) * (got[i] - exact[i]);
    norm += exact[i] * exact[i];
  }
  return error == 0 ? 0 : std::sqrt(error / (norm > 0 ? norm : 1e-300));
}

}  // namespace sluice
