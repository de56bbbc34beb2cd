#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sluice {

// Writes a model directory with random weights and a working tokenizer, for benchmarks and tests:
// the shapes are those of well-known models, the text is noise. The same preset, seed and dtype
// give the same bytes on every machine. Weights are streamed, so memory use does not depend on the
// model's size.
//
// `dtype`: f32, f16, bf16, or fp8: then the linear layers of a bf16 model are e4m3, in the layout
// of compressed-tensors. `out` may be new, empty, or a directory that this wrote before; anything
// else is refused. Without weights: all the rest, for `model.load_format = dummy`.
absl::Status make_model(std::string_view preset, uint64_t seed, std::string_view dtype,
                        const std::filesystem::path& out, bool with_weights = true);

std::vector<std::string> model_preset_names();

}  // namespace sluice
