#include "engine/layers.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <thread>

namespace sluice {
namespace {

double llama3_scaled(double frequency, const RopeConfig& rope) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double turns = rope.original_max_positions / wavelength;
  if (turns < rope.low_freq_factor) return frequency / rope.factor;
  if (turns > rope.high_freq_factor) return frequency;
  const double smooth =
      (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

// The pair that turns `turns` times in the original length.
double yarn_pair(double turns, const RopeConfig& rope, int dim) {
  return dim * std::log(rope.original_max_positions / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

// How far pair i is on its way from its own frequency (0) to the stretched one (1).
double yarn_stretch(int i, const RopeConfig& rope, int dim) {
  double low = yarn_pair(rope.beta_fast, rope, dim), high = yarn_pair(rope.beta_slow, rope, dim);
  if (rope.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  return std::clamp((i - low) / (high - low), 0.0, 1.0);
}

}  // namespace

std::vector<double> rope_frequencies(const RopeConfig& rope, int dim, int max_len) {
  using Type = RopeConfig::Type;
  double theta = rope.theta;
  if (rope.type == Type::dynamic && max_len > rope.original_max_positions) {
    const double grown = rope.factor * max_len / rope.original_max_positions - (rope.factor - 1);
    theta *= std::pow(grown, dim / (dim - 2.0));
  }
  const auto& factors =
      max_len > rope.original_max_positions ? rope.long_factors : rope.short_factors;
  std::vector<double> result(dim / 2);
  for (int i = 0; i < dim / 2; ++i) {
    const double frequency = std::pow(theta, -2.0 * i / dim);
    switch (rope.type) {
      case Type::standard:
      case Type::dynamic:
        result[i] = frequency;
        break;
      case Type::linear:
        result[i] = frequency / rope.factor;
        break;
      case Type::llama3:
        result[i] = llama3_scaled(frequency, rope);
        break;
      case Type::yarn: {
        const double stretch = yarn_stretch(i, rope, dim);
        result[i] = (1 - stretch) * frequency + stretch * frequency / rope.factor;
        break;
      }
      case Type::longrope:
        result[i] = frequency / factors[i];
        break;
    }
  }
  return result;
}

void fill_rope_table(float* out, const RopeConfig& rope, int dim, int max_len, int threads) {
  const std::vector<double> frequencies = rope_frequencies(rope, dim, max_len);
  const int half = dim / 2;
  const auto fill = [&](int begin, int end) {
    for (int position = begin; position < end; ++position) {
      float* row = out + static_cast<int64_t>(position) * dim;
      for (int i = 0; i < half; ++i) {
        const double angle = position * frequencies[i];
        row[i] = static_cast<float>(std::cos(angle) * rope.attention_factor);
        row[half + i] = static_cast<float>(std::sin(angle) * rope.attention_factor);
      }
    }
  };
  std::vector<std::thread> helpers;
  const auto bound = [&](int t) { return static_cast<int>(int64_t{max_len} * t / threads); };
  for (int t = 1; t < threads; ++t) helpers.emplace_back(fill, bound(t), bound(t + 1));
  fill(0, bound(1));
  for (std::thread& t : helpers) t.join();
}

}  // namespace sluice
