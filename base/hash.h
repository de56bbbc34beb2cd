#pragma once

#include <cstdint>

namespace sluice {

// A strong 64-bit finaliser (splitmix64's): every input bit reaches every output bit.
inline uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Order matters: mix64(a, b) != mix64(b, a).
inline uint64_t mix64(uint64_t a, uint64_t b) { return mix64(mix64(a) ^ b); }

}  // namespace sluice
