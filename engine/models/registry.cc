#include "engine/models/registry.h"

#include <array>
#include <chrono>

#include "base/log.h"
#include "engine/models/dense.h"
#include "engine/random_weights.h"
#include "engine/weights.h"

namespace sluice {
namespace {

auto all_families() {
  return std::array{llama_families(), gemma_families(), gpt_families(), layerwise_families()};
}

constexpr TextPart kTextParts[] = {
    {"Gemma3ForConditionalGeneration", "Gemma3ForCausalLM", "gemma3_text"},
    {"Mistral3ForConditionalGeneration", "MistralForCausalLM", "mistral"},
};

absl::StatusOr<Safetensors> tensors_of(const Config::Model& config, const ModelConfig& model) {
  if (config.load_format != "dummy") return Safetensors::open(config.path);
  constexpr uint64_t kSeed = 0;  // as make-model has by default
  return Safetensors::of(random_checkpoint(model, declared_dtype(model), kSeed), "config.json");
}

absl::StatusOr<std::unique_ptr<Model>> open_model(const Config::Model& config, Device& device,
                                                  LoadOptions options) {
  absl::StatusOr<std::optional<DType>> dtype = parse_weight_dtype(config.dtype);
  if (!dtype.ok()) return dtype.status();
  options.dtype = *dtype;
  const std::filesystem::path dir = config.path;
  std::error_code error;
  if (!std::filesystem::is_directory(dir, error))
    return not_found("model: {}: {}", dir.string(), error ? error.message() : "not a directory");
  absl::StatusOr<ModelConfig> model = read_model_config(dir);
  if (!model.ok()) return model.status();
  if (config.max_model_len < 0 || config.max_model_len > model->max_positions)
    return invalid_argument("model.max_model_len: {} is outside 1 to {}, the model's own limit",
                            config.max_model_len, model->max_positions);
  options.max_len = config.max_model_len > 0 ? config.max_model_len : model->max_positions;
  absl::StatusOr<Safetensors> tensors = tensors_of(config, *model);
  if (!tensors.ok()) return tensors.status();
  return open_dense(*model, *tensors, device, options);
}

}  // namespace

const Family* find_family(std::string_view architecture) {
  for (const std::span<const Family> families : all_families())
    for (const Family& family : families)
      if (architecture == family.architecture) return &family;
  return nullptr;
}

const TextPart* find_text_part(std::string_view architecture) {
  for (const TextPart& part : kTextParts)
    if (architecture == part.architecture) return &part;
  return nullptr;
}

std::string supported_architectures() {
  std::string names;
  for (const std::span<const Family> families : all_families()) {
    for (const Family& family : families) {
      if (!names.empty()) names += ", ";
      names += family.architecture;
    }
  }
  for (const TextPart& part : kTextParts) names += fmt::format(", {} (text)", part.architecture);
  return names;
}

absl::StatusOr<std::unique_ptr<Model>> load_model(const Config::Model& config, Device& device,
                                                  int threads) {
  const auto start = std::chrono::steady_clock::now();
  auto model = open_model(config, device, {.threads = threads});
  if (!model.ok()) return model;
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const ModelConfig& c = (*model)->config();
  for (const std::string& warning : c.warnings) log_warn("{}", warning);
  if (config.load_format == "dummy")
    log_warn("model: the weights are RANDOM (model.load_format = dummy): no tensor of {} was read",
             config.path);
  log_info(
      "model: {}, {} layers, hidden {}, vocabulary {}, context {}; {} weights, {:.1f} MB, {:.2f} s",
      c.architecture, c.num_layers, c.hidden_size, c.vocab_size, (*model)->max_len(),
      name_of((*model)->weight_dtype()), (*model)->weight_bytes() / 1e6, took.count());
  return model;
}

absl::StatusOr<std::unique_ptr<Model>> plan_model(const Config::Model& config, Device& device) {
  return open_model(config, device, {.plan_only = true});
}

}  // namespace sluice
