#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "config/config.h"
#include "engine/model.h"
#include "engine/safetensors.h"
#include "kernels/device.h"

namespace sluice {

struct LoadOptions {
  std::optional<DType> dtype;  // of the linear layers in memory; absent: as stored
  int max_len = 0;             // positions to serve
  int threads = 1;             // that pack
  bool plan_only = false;      // check every tensor and count, but load none
};

// What tells the members of a family apart. A new architecture is one line in registry.cc, and a
// file beside it when no class here computes it.
struct Family {
  const char* architecture;  // as config.json names it
  bool qk_norm;
  enum class Bias { by_config, qkv } bias;  // by_config: attention_bias and mlp_bias decide
  // Whether config.json asks for a sliding window: by a "sliding_window" that is not null, also by
  // leaving it out, or by one together with "use_sliding_window".
  enum class Window { if_set, unless_null, if_used } window;
  int default_head_dim;  // 0: hidden_size / heads
  absl::StatusOr<std::unique_ptr<Model>> (*open)(const ModelConfig&, const Safetensors&, Device&,
                                                 const LoadOptions&);
};
const Family* find_family(std::string_view architecture);
std::string supported_architectures();  // for messages

// Loads the directory `config.path` for `device` and logs what it takes. Refuses, with one line,
// what cannot be served.
absl::StatusOr<std::unique_ptr<Model>> load_model(const Config::Model& config, Device& device,
                                                  int threads);
// The same checks and a Model that answers everything except hidden() and logits(): no tensor is
// read and no memory taken. For memory plans.
absl::StatusOr<std::unique_ptr<Model>> plan_model(const Config::Model& config, Device& device);

}  // namespace sluice
