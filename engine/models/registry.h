#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "config/config.h"
#include "engine/model.h"
#include "engine/safetensors.h"
#include "kernels/device.h"

namespace sluice {

class KeyReader;

struct LoadOptions {
  std::optional<DType> dtype;  // of the linear layers in memory; absent: as stored
  int max_len = 0;             // positions to serve
  int threads = 1;             // that pack
  bool plan_only = false;      // check every tensor and count, but load none
};

// An architecture, as config.json names it. Adding one that the decoder can compute is such a line
// beside its relatives' (llama.cc, gemma.cc, gpt.cc,
// layerwise.cc).
struct Family {
  const char* architecture;
  // Sets the shape, the traits and the tensors' names from config.json. What it does not take of
  // the file is named in a warning afterwards; what it cannot serve it refuses.
  void (*read)(KeyReader&, ModelConfig&);
};
// A model of text and images, whose text part is a family's: keys under "text_config", tensors
// behind "language_model.". The rest of it is left out.
struct TextPart {
  const char* architecture;
  const char* family;
  const char* model_type;  // as the text part's keys say it
};
const TextPart* find_text_part(std::string_view architecture);

std::span<const Family> llama_families();
std::span<const Family> gemma_families();
std::span<const Family> gpt_families();
std::span<const Family> layerwise_families();

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
