#include "bench/mixture.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/hash.h"

namespace sluice {

Routes even_routes(const Mixture& mixture, int64_t tokens, uint64_t seed) {
  Routes to;
  std::vector<int32_t> all(static_cast<size_t>(mixture.experts));
  std::iota(all.begin(), all.end(), 0);
  std::vector<bool> seen(all.size());
  for (int64_t i = 0; i < tokens; ++i) {
    for (size_t j = 0; j < size_t(mixture.taken); ++j) {
      const uint64_t random = mix64(seed, uint64_t(i * mixture.taken) + j);
      std::swap(all[j], all[j + random % (all.size() - j)]);
      to.experts.push_back(all[j]);
      seen[size_t(all[j])] = true;
    }
  }
  to.different = std::count(seen.begin(), seen.end(), true);
  return to;
}

}  // namespace sluice
