#include "engine/json_util.h"
#include "engine/models/config_keys.h"
#include "engine/models/registry.h"

// Llama and the families that differ from it by a trait or two: RMS norms, rotary grouped-query
// attention, a gated SiLU.
namespace sluice {
namespace {

using When = WindowRule::When;
using QkNorm = ModelConfig::QkNorm;

// What they all have.
void read_common(KeyReader& keys, const ShapeKeys& shape, const WindowRule& windows, double share,
                 ModelConfig& c) {
  read_shape(keys, shape, c);
  keys.only("hidden_act", "silu");
  keys.only("pretraining_tp", 1);
  c.tied_embeddings = keys.boolean("tie_word_embeddings", false);
  read_windows(keys, windows, c);
  read_rope(keys, share, c);
}

void read_biases(KeyReader& keys, ModelConfig& c) {
  c.qkv_bias = c.o_bias = keys.boolean("attention_bias", false);
  c.mlp_bias = keys.boolean("mlp_bias", false);
}

void read_llama(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {}, {}, 0, c);
  read_biases(keys, c);
}

void read_mistral(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {}, {.when = When::if_set, .if_absent = 4096}, 0, c);
}

void read_qwen2(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {}, {.when = When::if_used, .if_absent = 4096, .by_layer_types = true}, 0, c);
  c.qkv_bias = true;
}

void read_qwen3(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {.default_head_dim = 128},
              {.when = When::if_used, .if_absent = 4096, .by_layer_types = true}, 0, c);
  read_biases(keys, c);
  c.qk_norm = QkNorm::head;
}

// Phi-3, 3.5 and 4: the projections come fused, and only a part of each head may rotate.
void read_phi3(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {}, {.when = When::if_set}, 1, c);
  c.names = {.q = "self_attn.qkv_proj",
             .k = nullptr,
             .v = nullptr,
             .gate = nullptr,
             .up = "mlp.gate_up_proj"};
  keys.only("attention_bias", false);
  keys.find("original_max_position_embeddings");  // said again for models that are not extended
}

// OLMo-2: norms after attention and MLP instead of before, and of all queries (keys) of a token.
void read_olmo2(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {}, {}, 0, c);
  read_biases(keys, c);
  c.qk_norm = QkNorm::row;
  c.names = {.before_attention = nullptr,
             .after_attention = "post_attention_layernorm",
             .before_mlp = nullptr,
             .after_mlp = "post_feedforward_layernorm"};
}

// Granite 3: Llama with four factors.
void read_granite(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {}, {}, 0, c);
  read_biases(keys, c);
  const auto factor = [&](const char* key) {
    return static_cast<float>(keys.number(key, 0, 1e6, 1.0));
  };
  c.embedding_scale = factor("embedding_multiplier");
  c.residual_scale = factor("residual_multiplier");
  c.attention_scale = factor("attention_multiplier");
  c.logits_scale = 1 / factor("logits_scaling");
}

constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", read_llama},     {"MistralForCausalLM", read_mistral},
    {"Qwen2ForCausalLM", read_qwen2},     {"Qwen3ForCausalLM", read_qwen3},
    {"Phi3ForCausalLM", read_phi3},       {"Olmo2ForCausalLM", read_olmo2},
    {"GraniteForCausalLM", read_granite},
};

}  // namespace

std::span<const Family> llama_families() { return kFamilies; }

}  // namespace sluice
