#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/device.h"
#include "tests/golden/models/golden_model.h"
#include "tests/golden/models/model_driver.h"

namespace sluice {

constexpr float kF32Bound = 1e-4f;  // share of the reference's range
constexpr int kMaxTokens = 320;

// A fixture loaded on the CPU, and its comparison.
class LoadedCase {
 public:
  LoadedCase(const GoldenCase& golden, const std::string& stored, const std::string& dtype,
             DType kv_dtype, const Json& config, const TensorEdit& edit = {},
             const std::string& isa = "auto")
      : golden_(golden), kv_dtype_(kv_dtype) {
    write_golden_model(golden, dir_.path(), stored, config, edit);
    auto device = make_cpu_device({.threads = 2, .isa = isa});
    if (!device.ok()) {
      unavailable_ = std::string(message_of(device.status()));
      return;
    }
    device_ = *std::move(device);
    Config::Model options;
    options.path = dir_.path();
    options.dtype = dtype;
    options.max_model_len = golden.json.value("max_model_len", 0);
    auto model = load_model(options, *device_, 2);
    if (!model.ok()) {
      ADD_FAILURE() << message_of(model.status());
      return;
    }
    model_ = *std::move(model);
  }
  LoadedCase(const GoldenCase& golden, const std::string& stored, const std::string& dtype,
             DType kv_dtype)
      : LoadedCase(golden, stored, dtype, kv_dtype, golden.json["config"]) {}

  bool ready() const { return model_ != nullptr; }
  const std::string& unavailable() const { return unavailable_; }
  Device& device() { return *device_; }
  Model& model() { return *model_; }

  // All logits of a prompt computed in chunks of `chunk` tokens.
  std::vector<float> logits_of(const GoldenPrompt& prompt, int chunk, Ops* ops = nullptr) {
    ModelDriver driver(*device_, *model_, kv_dtype_, 1, kMaxTokens, ops);
    std::vector<float> all;
    for (size_t at = 0; at < prompt.tokens.size(); at += chunk) {
      const size_t count = std::min<size_t>(chunk, prompt.tokens.size() - at);
      const DriverRow row{0, std::span(prompt.tokens).subspan(at, count)};
      const Tensor out = driver.step({&row, 1});
      all.insert(all.end(), out.as<float>(), out.as<float>() + out.size());
    }
    return all;
  }

  // By compared position, ascending: its largest difference from the reference, as a share of the
  // reference's range.
  std::vector<float> errors(int chunk = kMaxTokens, Ops* ops = nullptr) {
    std::vector<float> errors;
    for (const GoldenPrompt& prompt : golden_.prompts) {
      const std::vector<float> got = logits_of(prompt, chunk, ops);
      for (size_t i = 0; i < prompt.positions.size(); ++i) {
        float worst = 0;
        for (int v = 0; v < golden_.vocab; ++v) {
          const float difference = std::fabs(got[size_t(prompt.positions[i]) * golden_.vocab + v] -
                                             prompt.logits[i * golden_.vocab + v]);
          if (!(difference <= worst)) worst = std::isnan(difference) ? HUGE_VALF : difference;
        }
        errors.push_back(worst / golden_.range);
      }
    }
    std::sort(errors.begin(), errors.end());
    return errors;
  }
  float worst(int chunk = kMaxTokens, Ops* ops = nullptr) { return errors(chunk, ops).back(); }

 private:
  const GoldenCase& golden_;
  const DType kv_dtype_;
  TempDir dir_;
  std::string unavailable_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Model> model_;
};

}  // namespace sluice
