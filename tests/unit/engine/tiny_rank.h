#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "engine/make_device.h"
#include "engine/models/registry.h"
#include "tests/unit/engine/tiny_model.h"

namespace sluice {

inline TinyModel llama(bool bf16) {
  TinyModel t;
  t.bf16 = bf16;
  return t;
}
inline TinyModel qwen3() {
  TinyModel t;
  t.architecture = "Qwen3ForCausalLM";
  t.qk_norm = true;
  t.bf16 = true;
  return t;
}
// Its blocks behind the window go back to the pool.
inline TinyModel mistral() {
  TinyModel t;
  t.architecture = "MistralForCausalLM";
  t.window = 21;
  t.bf16 = true;
  return t;
}
// Two of its layers see as much, and give back what is behind; one sees everything.
inline TinyModel mixed_windows() {
  TinyModel t = qwen3();
  t.layers = 3;
  t.window = 21;
  t.full_layers = 1;
  return t;
}

// A tiny model on a device of its own.
struct Rank {
  std::unique_ptr<Device> device;
  std::unique_ptr<Model> model;
};
inline Rank load_onto(std::unique_ptr<Device> device, const TinyModel& tiny,
                      const std::string& dtype = "auto") {
  const std::filesystem::path dir =
      std::filesystem::path(testing::TempDir()) /
      fmt::format("tiny-{}-{}-{}", tiny.architecture, tiny.bf16, getpid());
  tiny.write(dir);
  Config::Model config;
  config.path = dir.string();
  config.dtype = dtype;
  Rank rank;
  rank.device = std::move(device);
  auto model = load_model(config, *rank.device, 1);
  EXPECT_TRUE(model.ok()) << message_of(model.status());
  rank.model = *std::move(model);
  std::filesystem::remove_all(dir);
  return rank;
}
inline Rank load(const TinyModel& tiny, const std::string& isa, int threads,
                 const std::string& dtype = "auto") {
  Config config;
  config.device.kind = "cpu";
  config.device.isa = isa;
  config.device.threads = threads;
  auto device = make_device(config);
  if (!device.ok()) return {};  // this chip lacks it
  return load_onto(*std::move(device), tiny, dtype);
}

}  // namespace sluice
