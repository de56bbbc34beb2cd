#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace sluice {

// The p-th percentile (0 to 100) by nearest rank; NaN of nothing. Sorts `values`.
inline double percentile(std::vector<double>& values, double p) {
  if (values.empty()) return std::nan("");
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(p / 100 * static_cast<double>(values.size()));
  return values[static_cast<size_t>(std::clamp(rank, 1.0, double(values.size()))) - 1];
}

inline double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return values.empty() ? std::nan("") : sum / static_cast<double>(values.size());
}

}  // namespace sluice
