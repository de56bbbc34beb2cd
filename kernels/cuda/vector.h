// Elements by the vector: 16 bytes an access where there are eight of them, or sixteen of fp8.
#pragma once

#include "kernels/simt/simt.h"

namespace sluice::cuda {

template <int kVector, class T>
SIMT_DEVICE void load(float (&to)[kVector], const T* from) {
  static_assert(kVector == 1 || kVector % 8 == 0);
  if constexpr (kVector == 1) {
    to[0] = simt::to_float(*from);
  } else {
    SIMT_UNROLL
    for (int at = 0; at < kVector; at += 8) {
      const simt::Vec4 v = simt::load_16(from + at);
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) {
        to[at + 2 * i] = simt::to_float(T{uint16_t(words[i])});
        to[at + 2 * i + 1] = simt::to_float(T{uint16_t(words[i] >> 16)});
      }
    }
  }
}

template <int kVector>
SIMT_DEVICE void load(float (&to)[kVector], const simt::E4m3* from) {
  static_assert(kVector == 16);
  const simt::Vec4 v = simt::load_16(from);
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint32_t low = simt::widen_e4m3<0, 1>(simt::Bf16{}, words[i]);
    const uint32_t high = simt::widen_e4m3<2, 3>(simt::Bf16{}, words[i]);
    to[4 * i] = simt::to_float(simt::Bf16{uint16_t(low)});
    to[4 * i + 1] = simt::to_float(simt::Bf16{uint16_t(low >> 16)});
    to[4 * i + 2] = simt::to_float(simt::Bf16{uint16_t(high)});
    to[4 * i + 3] = simt::to_float(simt::Bf16{uint16_t(high >> 16)});
  }
}

template <int kVector, class T>
SIMT_DEVICE void store(T* to, const float (&from)[kVector]) {
  static_assert(kVector == 1 || kVector == 8);
  if constexpr (kVector == 1) {
    simt::from_float(*to, from[0]);
  } else {
    simt::store_16(to, {simt::pack(T{}, from[0], from[1]), simt::pack(T{}, from[2], from[3]),
                        simt::pack(T{}, from[4], from[5]), simt::pack(T{}, from[6], from[7])});
  }
}

}  // namespace sluice::cuda
