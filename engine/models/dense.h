#pragma once

#include "engine/models/registry.h"

namespace sluice {

// Llama, Qwen3 and their relatives: pre-norm decoder, rotary grouped-query attention, SwiGLU.
absl::StatusOr<std::unique_ptr<Model>> open_dense(const ModelConfig&, const Safetensors&, Device&,
                                                  const LoadOptions&);

}  // namespace sluice
