# Model files, weights and architectures.
sluice_library(models
  SRCS json_util.cc safetensors.cc model_config.cc quantization.cc review_weights.cc weights.cc layers.cc make_model.cc
       random_weights.cc synthetic_tokenizer.cc models/config_keys.cc models/dense.cc models/dense_weights.cc models/experts.cc
       models/gemma.cc models/gpt.cc models/layerwise.cc models/llama.cc models/registry.cc
  DEPS base config kernels kv_store nlohmann_json::nlohmann_json absl::flat_hash_map
       absl::flat_hash_set)
