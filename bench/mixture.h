#pragma once

#include <cstdint>
#include <vector>

namespace sluice {

// The experts of a model's layer: `taken` of them for each token.
struct Mixture {
  const char* name;
  int64_t hidden, ffn, experts, taken;
};

// The experts that tokens go to, evenly at random, `taken` different ones for each, one token's
// behind the other's; and how many there are of different ones in all.
struct Routes {
  std::vector<int32_t> experts;
  int64_t different = 0;
};
Routes even_routes(const Mixture&, int64_t tokens, uint64_t seed);

}  // namespace sluice
