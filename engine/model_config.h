#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "kernels/ops.h"

namespace sluice {

// How rotary frequencies are made from the number of dims that rotate. The scaled kinds and their
// formulas are those of transformers' modeling_rope_utils; what depends there on the length of a
// prompt depends here on the longest that is served, so that no token's keys change afterwards.
struct RopeConfig {
  enum class Type { standard, linear, dynamic, llama3, yarn, longrope };
  Type type = Type::standard;
  double theta = 10000;
  double factor = 1;                     // linear: all wavelengths are stretched by it
  double original_max_positions = 8192;  // of training; not of standard and linear
  // llama3: long wavelengths are stretched by `factor`, short ones kept, between them blended.
  double low_freq_factor = 1, high_freq_factor = 4;
  // yarn: the same, between the dims that turn beta_slow and beta_fast times in the original
  // length; rounded outwards to whole dims with `truncate`.
  double beta_fast = 32, beta_slow = 1;
  bool truncate = true;
  // longrope: each wavelength has its factor, by whether more than the original length is served.
  std::vector<double> short_factors, long_factors;
  double attention_factor = 1;  // yarn, longrope: cosines and sines are multiplied by it
};

// What generation_config.json asks for when a request does not say. Absent: not in the file.
struct GenerationDefaults {
  std::optional<bool> do_sample;  // false: greedy, whatever the rest says
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
  std::optional<int> max_new_tokens;
};

// Where a family keeps the tensors of a decoder, without ".weight" and ".bias"; null: it has none.
// Defaults are Llama's.
struct TensorNames {
  const char* base = "model.";  // before all but the head; some files leave it out
  bool text_part = false;       // of a larger model: all are behind "language_model."
  const char* embedding = "embed_tokens";
  const char* embedding_norm = nullptr;
  const char* positions = nullptr;   // learned
  int first_position = 0;            // its row for position 0
  const char* layer = "layers.{}.";  // before all of the following, up to `down`
  // A norm before attention or MLP is of their input, one after it of their output.
  const char* before_attention = "input_layernorm";
  const char* after_attention = nullptr;
  const char* before_mlp = "post_attention_layernorm";
  const char* after_mlp = nullptr;
  const char* q = "self_attn.q_proj";  // or all of q, k and v
  const char* k = "self_attn.k_proj";
  const char* v = "self_attn.v_proj";
  const char* q_norm = "self_attn.q_norm";
  const char* k_norm = "self_attn.k_norm";
  const char* o = "self_attn.o_proj";
  const char* gate = "mlp.gate_proj";  // null: there is no gate, or it is in `up`
  const char* up = "mlp.up_proj";
  const char* down = "mlp.down_proj";
  // One linear layer in the place of attention, or of the MLP.
  const char* attention_linear = "self_attn.linear_attn";
  const char* mlp_linear = "mlp.linear_mlp";
  // Layers with experts. Gates and down have names of their own in each.
  const char* router = "mlp.gate";
  const char* expert = "mlp.experts.{}.";
  const char* shared_expert = "mlp.shared_expert.";
  const char* shared_router = "mlp.shared_expert_gate";
  const char* expert_gate = "gate_proj";
  const char* expert_up = "up_proj";
  const char* expert_down = "down_proj";
  const char* final_norm = "norm";
  const char* head = "lm_head";
  // How a fused q, k, v lies in its tensor: all queries, all keys, all values; or these of one KV
  // head after those of another.
  bool qkv_by_kv_head = false;
  bool transposed = false;  // linear layers of `layer` are stored as [in_features, out_features]
};

// What tells one layer of a decoder from another. Of pruned models, and of those that were searched
// for by their speed, every layer has sizes of its own, and some lack attention or the MLP.
struct LayerConfig {
  enum class Part : uint8_t { whole, linear, none };  // linear: one linear layer in its place
  Part attention = Part::whole, mlp = Part::whole;
  int num_heads = 0, num_kv_heads = 0;  // of whole attention
  int ffn_size = 0;                     // of a whole MLP
  int window = 0;           // > 0: a token sees the last `window` positions only, itself included
  bool local_rope = false;  // rotates by `local_rope` rather than by `rope`
  bool experts = false;     // its MLP is a mixture of experts
};

// A model directory's config.json and generation_config.json, checked: every size is positive and
// fits, and everything the files ask for is something the models here do. Immutable after reading.
// The traits say what a decoder computes; a family (engine/models/) is the keys and tensor names
// they are read from.
struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  int num_layers = 0;
  int hidden_size = 0;
  int head_dim = 0;
  int vocab_size = 0;
  int max_positions = 0;
  bool tied_embeddings = false;  // the head is the embedding

  TensorNames names;

  // --- traits ---
  std::vector<LayerConfig> layers;  // num_layers; at least one has whole attention
  enum class Norm { rms, layer } norm = Norm::rms;
  float norm_eps = 1e-6f;
  bool norm_plus_one = false;  // a stored norm weight w means 1 + w
  bool norm_bias = false;      // of layer norms
  // RMS norm of queries and keys before the rotation: of each head, or of all heads together.
  enum class QkNorm { none, head, row } qk_norm = QkNorm::none;
  bool parallel_residual = false;  // attention and MLP read the same residual
  Activation activation = Activation::silu;
  bool gated_mlp = true;  // activation(gate) * up; silu and gelu_tanh alone are gated
  // Layers with experts: how many, how many of them a token goes to, and whether their weights are
  // made to sum up to 1. A shared expert sees every token.
  int num_experts = 0, experts_per_token = 0;
  bool normed_experts = false;
  int expert_ffn_size = 0, shared_ffn_size = 0;  // 0: there is no shared one
  bool qkv_bias = false, o_bias = false, mlp_bias = false, head_bias = false;
  enum class Positions { rotary, learned, alibi } positions = Positions::rotary;
  int rotary_dim = 0;        // of each head, the first ones; 0 unless rotary
  std::vector<float> alibi;  // [heads], as AttnParams has them; empty unless alibi
  RopeConfig rope, local_rope;
  float attention_scale = 1;                        // of scores, before softmax
  float attention_softcap = 0, logits_softcap = 0;  // 0: none
  float embedding_scale = 1, residual_scale = 1;    // of embeddings, of what is added to them
  float logits_scale = 1;

  std::optional<DType> dtype;  // as the file declares it; the tensors themselves decide
  bool fp8_layers = false;     // the same of a "quantization_config"
  bool fp8_cache = false;      // its keys and values are meant to be kept as fp8
  std::vector<TokenId> eos_ids;
  std::optional<TokenId> bos_id;
  GenerationDefaults generation;
  std::vector<std::string> warnings;  // one line each, for the log of whoever loads the model

  // The largest of a layer's sizes over all of them.
  int most(int LayerConfig::*size) const {
    int result = 0;
    for (const LayerConfig& layer : layers) result = std::max(result, layer.*size);
    return result;
  }
};

// What a directory's files say, and everything in them that keeps the model from being served: a
// line each, which names the file, the key, what was found and what is supported.
struct ConfigReview {
  ModelConfig config;  // as far as it could be read; a refused value is some other one
  std::vector<absl::Status> problems;
  bool has_sizes = false;  // what tensors a checkpoint must have is known, whatever the problems
};
ConfigReview review_model_config(const std::filesystem::path& dir);

// Reads `dir`. A model that cannot be served is refused with one line that names the file, the key,
// what was found and what is supported. Keys without a meaning here are named in `warnings`.
absl::StatusOr<ModelConfig> read_model_config(const std::filesystem::path& dir);

}  // namespace sluice
