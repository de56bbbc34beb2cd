#include "kernels/quantize.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "base/check.h"
#include "base/float16.h"
#include "base/float8.h"

namespace sluice {

void widen_rows(float* out, const Tensor& src, const Tensor& scale) {
  CHECK(src.rank == 2 && bool(scale) == (src.dtype == DType::fp8_e4m3));
  const auto each = [&]<class T>(T, auto widen) {
    for (int64_t r = 0; r < src.shape[0]; ++r, out += src.shape[1]) {
      const T* from = src.row<const T>(r);
      for (int64_t i = 0; i < src.shape[1]; ++i) out[i] = widen(from[i]);
      if (!scale) continue;
      for (int64_t i = 0; i < src.shape[1]; ++i) out[i] *= scale.as<const float>()[r];
    }
  };
  switch (src.dtype) {
    case DType::f32:
      return each(float{}, [](float x) { return x; });
    case DType::f16:
      return each(uint16_t{}, from_f16);
    case DType::bf16:
      return each(uint16_t{}, from_bf16);
    case DType::fp8_e4m3:
      return each(uint8_t{}, from_e4m3);
    default:
      CHECK(!"weights are f32, f16, bf16 or fp8_e4m3");
  }
}

void quantize_row(uint8_t* codes, float* scale, const float* x, int64_t n) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  *scale = std::max(largest / kMaxE4m3, FLT_MIN);  // never zero: 0 / 0 is no number
  for (int64_t i = 0; i < n; ++i) codes[i] = to_e4m3(x[i] / *scale);
}

}  // namespace sluice
