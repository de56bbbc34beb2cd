#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/float16.h"
#include "base/float8.h"
#include "base/random_weights.h"
#include "engine/models/registry.h"
#include "tests/unit/engine/model_files.h"

namespace sluice {

// One of the fixtures beside this file; make_fixtures.py says what is in them.
struct GoldenPrompt {
  std::vector<int32_t> tokens, positions, greedy;
  std::vector<float> gaps;
  const float* logits = nullptr;  // [positions, vocab]
};
struct GoldenCase {
  Json json;
  std::vector<float> logits;
  std::vector<GoldenPrompt> prompts;
  int vocab = 0;
  float range = 0;  // of the reference's logits

  explicit GoldenCase(const std::string& name) {
    const std::string base = SLUICE_SOURCE_DIR "/tests/golden/models/" + name;
    json = Json::parse(read_file(base + ".json"));
    const std::string bytes = read_file(base + ".logits");
    logits.resize(bytes.size() / 4);
    std::memcpy(logits.data(), bytes.data(), bytes.size());
    const auto [low, high] = std::minmax_element(logits.begin(), logits.end());
    range = *high - *low;
    vocab = json["config"]["vocab_size"];
    size_t at = 0;
    for (const Json& p : json["prompts"]) {
      GoldenPrompt prompt{p["tokens"], p["positions"], p["greedy"], p["gaps"], &logits[at]};
      at += prompt.positions.size() * vocab;
      prompts.push_back(std::move(prompt));
    }
    EXPECT_EQ(at, logits.size());
  }
};

using Values = std::vector<float>;
// May change a tensor before it is written, for mutants.
using TensorEdit = std::function<void(const std::string& name, int64_t columns, Values&)>;

inline Values golden_weights(uint64_t seed, const Json& recipe) {
  int64_t size = 1;
  for (const int64_t d : recipe["shape"]) size *= d;
  const uint64_t stream = weight_stream(seed, recipe["name"].get<std::string>());
  const float mean = recipe["mean"];
  const double deviation = recipe["deviation"];
  Values values(size);
  for (int64_t i = 0; i < size; ++i)
    values[i] = from_bf16(to_bf16(random_weight(stream, i, deviation) + mean));
  return values;
}

// A linear layer's tensor as fp8: a scale a row, or, with `whole_gates`, one for all of a gate.
struct Fp8Tensor {
  std::string codes;
  Values scales;
  Fp8Tensor(const std::string& name, int64_t columns, const Values& values, bool whole_gates) {
    const bool whole =
        whole_gates && (name.ends_with("gate_proj.weight") || name.ends_with(".w1.weight"));
    const size_t group = whole ? values.size() : size_t(columns);
    for (size_t at = 0; at < values.size(); at += group) {
      float largest = 0;
      for (size_t i = at; i < at + group; ++i) largest = std::max(largest, std::fabs(values[i]));
      scales.push_back(largest / 448);
      for (size_t i = at; i < at + group; ++i) codes += char(to_e4m3(values[i] / scales.back()));
    }
  }
  static bool is_wanted(const std::string& name) {
    for (const char* end : {"_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight"})
      if (name.ends_with(end)) return true;
    return false;
  }
  float value(size_t i) const {
    return from_e4m3(uint8_t(codes[i])) * scales[i / (codes.size() / scales.size())];
  }
};

// A config.json of such a model, as llm-compressor writes it.
inline Json with_fp8(Json config) {
  const Json weights = {{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}};
  config["quantization_config"] = {
      {"quant_method", "compressed-tensors"},
      {"format", "float-quantized"},
      {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}},
      {"ignore", {"lm_head", "re:.*gate$"}}};
  return config;
}

// The case as a model directory, weights stored as `dtype` ("F32", "F16", "BF16"; "F8_E4M3": linear
// layers, the others as BF16).
inline void write_golden_model(const GoldenCase& golden, const std::filesystem::path& dir,
                               const std::string& dtype, const Json& config,
                               const TensorEdit& edit = {}) {
  write_file(dir / "config.json", config.dump(2));
  std::vector<TensorFile> files;
  for (const Json& recipe : golden.json["tensors"]) {
    Values values = golden_weights(golden.json["seed"], recipe);
    const std::vector<int64_t> shape = recipe["shape"];
    if (edit) edit(recipe["name"], shape.back(), values);
    std::string bytes;
    const std::string name = recipe["name"];
    if (dtype == "F8_E4M3" && Fp8Tensor::is_wanted(name)) {
      const Fp8Tensor fp8(name, shape.back(), values, true);
      files.push_back({name, dtype, shape, fp8.codes});
      files.push_back(
          {name + "_scale", "F32", {int64_t(fp8.scales.size())}, f32_bytes(fp8.scales)});
      continue;
    }
    if (dtype == "F32") {
      bytes = f32_bytes(values);
    } else {
      for (const float x : values) {
        const uint16_t h = dtype == "F16" ? to_f16(x) : to_bf16(x);
        bytes.append(reinterpret_cast<const char*>(&h), 2);
      }
    }
    files.push_back({recipe.value("stored_as", name), dtype == "F8_E4M3" ? "BF16" : dtype, shape,
                     std::move(bytes)});
  }
  write_file(dir / "model.safetensors", safetensors_bytes(files));
}

}  // namespace sluice
