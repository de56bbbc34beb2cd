#include <cmath>

#include "engine/json_util.h"
#include "engine/models/config_keys.h"
#include "engine/models/registry.h"

// Gemma 1, 2 and 3 (text): embeddings times the root of their size, norm weights that are stored
// less one, a gated GELU; from 2 on norms on both sides, windows in most layers.
namespace sluice {
namespace {

using When = WindowRule::When;

constexpr TensorNames kSandwichNames = {.after_attention = "post_attention_layernorm",
                                        .before_mlp = "pre_feedforward_layernorm",
                                        .after_mlp = "post_feedforward_layernorm"};

void read_common(KeyReader& keys, const ShapeKeys& shape, ModelConfig& c) {
  read_shape(keys, shape, c);
  c.tied_embeddings = keys.boolean("tie_word_embeddings", true);
  keys.only("attention_bias", false);
  keys.only("use_bidirectional_attention", false);
  c.embedding_scale = std::sqrt(static_cast<float>(c.hidden_size));
  c.norm_plus_one = true;
  c.activation = Activation::gelu_tanh;
}

void read_gemma(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {.default_head_dim = 256, .default_eps = 1e-6}, c);
  // The first files say "gelu" and mean the one by tanh, with which the models were trained.
  const std::string name = keys.text("hidden_activation").value_or("gelu_pytorch_tanh");
  const std::string older = keys.text("hidden_act").value_or(name);
  for (const std::string& found : {name, older})
    if (found != "gelu_pytorch_tanh" && found != "gelu")
      keys.fail("\"hidden_act\" is \"{}\", supported: gelu_pytorch_tanh", found.substr(0, 80));
  read_windows(keys, {}, c);
  read_rope(keys, 0, c);
}

void read_soft_caps(KeyReader& keys, double attention, double logits, ModelConfig& c) {
  const auto cap = [&](const char* key, double if_absent) {
    const bool null = keys.contains(key) && !keys.find(key);
    return null ? 0.0f : static_cast<float>(keys.number(key, 0, 1e6, if_absent, true));
  };
  c.attention_softcap = cap("attn_logit_softcapping", attention);
  c.logits_softcap = cap("final_logit_softcapping", logits);
  c.attention_scale =
      1 /
      std::sqrt(static_cast<float>(keys.number("query_pre_attn_scalar", 1e-3, 1e6, 256.0, true)));
}

void read_gemma2(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {.default_head_dim = 256, .default_eps = 1e-6}, c);
  read_activation(keys, "hidden_activation", "gelu_pytorch_tanh", {Activation::gelu_tanh});
  read_activation(keys, "hidden_act", "gelu_pytorch_tanh", {Activation::gelu_tanh});
  c.names = kSandwichNames;
  read_soft_caps(keys, 50, 30, c);
  read_windows(keys,
               {.when = When::if_set, .if_absent = 4096, .by_layer_types = true, .pattern = 2}, c);
  read_rope(keys, 0, c);
}

void read_gemma3(KeyReader& keys, ModelConfig& c) {
  read_common(keys,
              {.default_head_dim = 256,
               .default_eps = 1e-6,
               .default_positions = 131072,
               .default_heads = 8,
               .default_kv_heads = 4,
               .default_vocab = 262208},
              c);
  read_activation(keys, "hidden_activation", "gelu_pytorch_tanh", {Activation::gelu_tanh});
  read_activation(keys, "hidden_act", "gelu_pytorch_tanh", {Activation::gelu_tanh});
  c.names = kSandwichNames;
  read_soft_caps(keys, 0, 0, c);
  c.qk_norm = ModelConfig::QkNorm::head;
  const int pattern = keys.integer("sliding_window_pattern", 1, 1024, 6);
  read_windows(
      keys, {.when = When::if_set, .if_absent = 4096, .by_layer_types = true, .pattern = pattern},
      c);
  for (LayerConfig& layer : c.layers) layer.local_rope = layer.window > 0;

  c.rope.theta = 1e6;
  const Json* both = keys.find("rope_parameters");
  if (!both || !both->is_object() || !both->contains("full_attention")) {
    read_rope(keys, 0, c);
    c.local_rope.theta = keys.number("rope_local_base_freq", 1, 1e12, 1e4);
    return;
  }
  // The newer layout: an object for each kind of layer.
  c.rotary_dim = c.head_dim;
  keys.only("rope_scaling", nullptr);
  KeyReader kinds(*both, keys.place() + ": rope_parameters");
  const double theta = keys.number("rope_theta", 1, 1e12, 1e6);
  const double local = keys.number("rope_local_base_freq", 1, 1e12, 1e4);
  c.rope = read_rope_object(kinds, "full_attention", theta, c);
  c.local_rope = read_rope_object(kinds, "sliding_attention", local, c);
  if (const std::string unused = kinds.unused(); !unused.empty())
    kinds.fail("keys that are not supported: {}", unused);
  keys.adopt(kinds);
}

constexpr Family kFamilies[] = {
    {"GemmaForCausalLM", read_gemma},
    {"Gemma2ForCausalLM", read_gemma2},
    {"Gemma3ForCausalLM", read_gemma3},
};

}  // namespace

std::span<const Family> gemma_families() { return kFamilies; }

}  // namespace sluice
