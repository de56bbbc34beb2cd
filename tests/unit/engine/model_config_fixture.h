#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/model_config.h"
#include "tests/unit/engine/model_files.h"

namespace sluice {

inline Json llama() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
    "tie_word_embeddings": true, "torch_dtype": "bfloat16", "bos_token_id": 1,
    "eos_token_id": [2, 3], "transformers_version": "4.45.0", "use_cache": true})");
}

class ModelConfigTest : public testing::Test {
 protected:
  absl::StatusOr<ModelConfig> read(const Json& config) {
    write_file(dir_.path() / "config.json", config.dump());
    return read_model_config(dir_.path());
  }
  std::string error_of(const Json& config) {
    const auto result = read(config);
    return result.ok() ? "(read)" : std::string(message_of(result.status()));
  }
  void generation(const std::string& text) {
    write_file(dir_.path() / "generation_config.json", text);
  }
  TempDir dir_;
};

}  // namespace sluice
