#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/status.h"

namespace sluice {

// config.json's `key` ("quantization_config"): whether it describes weights that are read here,
// which are fp8 (e4m3) with a scale for a tensor or for each output:
//  - "compressed-tensors", format "float-quantized";
//  - "fp8" without blocks.
// Which tensors are fp8 is for the tensors to say (weights.h). Activations stay as the device has
// them or are quantised row by row as they come, which is at least as exact as the static scales of
// a checkpoint. A "kv_cache_scheme" is fp8 too, with static scales of tensors, which lie beside the
// layers: `fp8_cache` becomes true. Anything else, and every key that is not known, is refused with
// one line. What is served another way than the file says is added to `warnings`.
absl::Status check_quantization(const std::string& key, const nlohmann::json&, bool& fp8_cache,
                                std::vector<std::string>& warnings);

}  // namespace sluice
