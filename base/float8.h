#pragma once

#include <bit>
#include <cstdint>

namespace sluice {

// 8-bit floats as their bits: OCP e4m3 ("e4m3fn": sign, 4 bits of exponent, 3 of mantissa, no
// infinity, one NaN of each sign). Subnormals are multiples of 2^-9.

inline constexpr float kMaxE4m3 = 448;

// To nearest, ties to even; what is beyond the largest, infinity too, becomes the largest.
inline uint8_t to_e4m3(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7f;
  if (magnitude >= std::bit_cast<uint32_t>(kMaxE4m3)) return sign | 0x7e;
  if (magnitude < std::bit_cast<uint32_t>(0x1p-6f)) {
    // Floats in [2^14, 2^15) are 2^-9 apart: the addition rounds to that.
    const float sum = std::bit_cast<float>(magnitude) + 0x1p14f;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(sum) - 0x46800000));
  }
  const uint32_t rounded = magnitude + 0x7ffff + (magnitude >> 20 & 1) - (120u << 23);
  return static_cast<uint8_t>(sign | rounded >> 20);
}

inline bool is_nan_e4m3(uint8_t code) { return (code & 0x7f) == 0x7f; }

inline float from_e4m3(uint8_t code) {
  const uint32_t sign = uint32_t{code & 0x80u} << 24, magnitude = code & 0x7f;
  if (magnitude == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000);
  if (magnitude < 8) {
    const float subnormal = static_cast<float>(magnitude) * 0x1p-9f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(subnormal));
  }
  return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));
}

}  // namespace sluice
