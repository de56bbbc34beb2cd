#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "kernels/tensor.h"

namespace sluice {

// How rotary frequencies are made from head_dim.
struct RopeConfig {
  enum class Type { standard, llama3 };
  Type type = Type::standard;
  double theta = 10000;
  // llama3 only: long wavelengths are stretched by `factor`, short ones kept, between them blended.
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  double original_max_positions = 8192;
};

// What generation_config.json asks for when a request does not say. Absent: not in the file.
struct GenerationDefaults {
  std::optional<bool> do_sample;  // false: greedy, whatever the rest says
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
  std::optional<int> max_new_tokens;
};

// A model directory's config.json and generation_config.json, checked: every size is positive and
// fits, and everything the files ask for is something the models here do. Immutable after reading.
struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  int num_layers = 0;
  int hidden_size = 0;
  int ffn_size = 0;
  int num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int vocab_size = 0;
  int max_positions = 0;
  float rms_norm_eps = 1e-6f;
  bool tied_embeddings = false;  // the head is the embedding
  bool qk_norm = false;          // RMS norm of each query and key head before the rotation
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  RopeConfig rope;
  std::optional<DType> dtype;  // as the file declares it; the tensors themselves decide
  std::vector<TokenId> eos_ids;
  std::optional<TokenId> bos_id;
  GenerationDefaults generation;
  std::vector<std::string> warnings;  // one line each, for the log of whoever loads the model
};

// Reads `dir`. A model that cannot be served is refused with one line that names the file, the key,
// what was found and what is supported. Keys without a meaning here are named in `warnings`.
absl::StatusOr<ModelConfig> read_model_config(const std::filesystem::path& dir);

}  // namespace sluice
