#pragma once

#include <cstdint>
#include <string_view>

namespace sluice {

// A strong 64-bit finaliser (splitmix64's): every input bit reaches every output bit.
constexpr uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Order matters: mix64(a, b) != mix64(b, a).
constexpr uint64_t mix64(uint64_t a, uint64_t b) { return mix64(mix64(a) ^ b); }

// Of a text, under a key: who does not know the key cannot look for collisions. Never 0, which
// stands for "none" wherever such a hash goes.
inline uint64_t hash_text(uint64_t key, std::string_view text) {
  uint64_t hash = mix64(key, text.size());
  for (const char c : text) hash = mix64(hash, static_cast<unsigned char>(c));
  return hash != 0 ? hash : 1;
}

}  // namespace sluice
