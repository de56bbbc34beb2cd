#include "engine/layers.h"

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

}  // namespace

std::vector<double> rope_frequencies(const RopeConfig& rope, int head_dim) {
  std::vector<double> result(head_dim / 2);
  for (int i = 0; i < head_dim / 2; ++i) {
    const double frequency = std::pow(rope.theta, -2.0 * i / head_dim);
    result[i] = rope.type == RopeConfig::Type::llama3 ? llama3_scaled(frequency, rope) : frequency;
  }
  return result;
}

void fill_rope_table(float* out, const RopeConfig& rope, int head_dim, int max_len, int threads) {
  const std::vector<double> frequencies = rope_frequencies(rope, head_dim);
  const int half = head_dim / 2;
  const auto fill = [&](int begin, int end) {
    for (int position = begin; position < end; ++position) {
      float* row = out + static_cast<int64_t>(position) * head_dim;
      for (int i = 0; i < half; ++i) {
        const double angle = position * frequencies[i];
        row[i] = static_cast<float>(std::cos(angle));
        row[half + i] = static_cast<float>(std::sin(angle));
      }
    }
  };
  std::vector<std::thread> helpers;
  const auto bound = [&](int t) { return static_cast<int>(int64_t{max_len} * t / threads); };
  for (int t = 1; t < threads; ++t) helpers.emplace_back(fill, bound(t), bound(t + 1));
  fill(0, bound(1));
  for (std::thread& t : helpers) t.join();
}

LinearSpec qkv_spec(Weight* out, const std::string& layer, const ModelConfig& c) {
  LinearSpec spec{out, c.hidden_size, {}};
  const auto add = [&](const char* name, int heads) {
    const std::string at = layer + "self_attn." + name;
    spec.parts.push_back(
        {at + ".weight", int64_t{heads} * c.head_dim, c.qkv_bias ? at + ".bias" : ""});
  };
  add("q_proj", c.num_heads);
  add("k_proj", c.num_kv_heads);
  add("v_proj", c.num_kv_heads);
  return spec;
}

LinearSpec gate_up_spec(Weight* out, const std::string& layer, const ModelConfig& c) {
  LinearSpec spec{out, c.hidden_size, {}};
  for (const char* name : {"gate_proj", "up_proj"}) {
    const std::string at = layer + "mlp." + name;
    spec.parts.push_back({at + ".weight", c.ffn_size, c.mlp_bias ? at + ".bias" : ""});
  }
  return spec;
}

}  // namespace sluice
