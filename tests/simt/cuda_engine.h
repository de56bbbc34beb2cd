#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "kernels/cuda/device.h"
#include "tests/golden/models/golden_model.h"
#include "tests/unit/engine/trial.h"

namespace sluice {

// On the emulator; linked with the other runtime, on a GPU.
class CudaEngine : public testing::Test {
 protected:
  void SetUp() override {
    if (auto runtime = cuda::open_runtime(0, ""); !runtime.ok())
      GTEST_SKIP() << message_of(runtime.status());
  }
  static Rank load_cuda(const TinyModel& tiny, const std::string& dtype = "auto",
                        bool batch_invariant = false, bool overlap_kernels = true) {
    auto runtime = *cuda::open_runtime(0, "");
    return load_onto(
        cuda::make_device(std::move(runtime), DType::bf16, batch_invariant, {}, overlap_kernels),
        tiny, dtype);
  }
  static bool has_fp8() { return (*cuda::open_runtime(0, ""))->info().has_fp8_products; }
};

inline Scenario roomy() {
  Scenario s;
  s.policy = policy_of("sluice");
  s.policy.max_step_tokens = 32;
  s.policy.max_seqs = 16;
  s.block_size = 16;
  return s;
}

inline Rank load_golden(std::unique_ptr<Device> device, const GoldenCase& golden,
                        const std::string& stored = "BF16", const std::string& dtype = "auto") {
  TempDir dir;
  const Json& config_json = golden.json["config"];
  write_golden_model(golden, dir.path(), stored,
                     stored == "F8_E4M3" ? with_fp8(config_json) : config_json);
  Config::Model config;
  config.path = dir.path().string(), config.dtype = dtype;
  config.max_model_len = golden.json.value("max_model_len", 0);
  Rank rank;
  rank.device = std::move(device);
  auto model = load_model(config, *rank.device, 1);
  EXPECT_TRUE(model.ok()) << message_of(model.status());
  rank.model = *std::move(model);
  return rank;
}

}  // namespace sluice
