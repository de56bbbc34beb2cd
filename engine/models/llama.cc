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
  keys.find("pretraining_tp");  // how training split its sums, which are the same
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
    return static_cast<float>(keys.number(key, 1e-6, 1e6, 1.0, true));
  };
  c.embedding_scale = factor("embedding_multiplier");
  c.residual_scale = factor("residual_multiplier");
  c.attention_scale = factor("attention_multiplier");
  c.logits_scale = 1 / factor("logits_scaling");
}

void read_experts(KeyReader& keys, const char* count, const char* ffn, ModelConfig& c) {
  c.num_experts = keys.integer(count, 1, 512, {});
  c.experts_per_token = keys.integer("num_experts_per_tok", 1, 64, {});
  if (c.experts_per_token > c.num_experts)
    keys.conflict("\"num_experts_per_tok\" {} is above \"{}\" {}", c.experts_per_token, count,
                  c.num_experts);
  c.expert_ffn_size = keys.integer(ffn, 1, 1 << 20, {});
  for (const auto& [key, size] :
       {std::pair{ffn, c.expert_ffn_size}, {"hidden_size", c.hidden_size}})
    if (size % 16 != 0)
      keys.fail("\"{}\" is {}, expected a multiple of 16 with experts", key, size);
  constexpr std::string_view kInert[] = {"router_aux_loss_coef", "output_router_logits",
                                         "router_jitter_noise"};
  keys.inert(kInert);
}

void read_mixtral(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {}, {.when = When::if_set}, 0, c);
  read_experts(keys, "num_local_experts", "intermediate_size", c);
  c.normed_experts = true;
  for (LayerConfig& layer : c.layers) layer.experts = true;
  c.names.router = "block_sparse_moe.gate";
  c.names.expert = "block_sparse_moe.experts.{}.";
  c.names.expert_gate = "w1";
  c.names.expert_up = "w3";
  c.names.expert_down = "w2";
}

// Every decoder_sparse_step-th layer has experts, but for those of mlp_only_layers.
void read_qwen_experts(KeyReader& keys, ModelConfig& c) {
  read_experts(keys, "num_experts", "moe_intermediate_size", c);
  c.normed_experts = keys.boolean("norm_topk_prob", false);
  const int step = keys.integer("decoder_sparse_step", 1, 1024, 1);
  for (int i = 0; i < c.num_layers; ++i) c.layers[i].experts = (i + 1) % step == 0;
  for (const TokenId layer : keys.ids("mlp_only_layers", c.num_layers))
    c.layers[layer].experts = false;
}

void read_qwen2_moe(KeyReader& keys, ModelConfig& c) {
  read_qwen2(keys, c);
  c.qkv_bias = keys.boolean("qkv_bias", true);
  read_qwen_experts(keys, c);
  c.shared_ffn_size = keys.integer("shared_expert_intermediate_size", 1, 1 << 20, {});
}

void read_qwen3_moe(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {}, {.when = When::if_used, .if_absent = 4096, .by_layer_types = true}, 0, c);
  read_biases(keys, c);
  c.qk_norm = QkNorm::head;
  read_qwen_experts(keys, c);
}

constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", read_llama},        {"MistralForCausalLM", read_mistral},
    {"Qwen2ForCausalLM", read_qwen2},        {"Qwen3ForCausalLM", read_qwen3},
    {"Phi3ForCausalLM", read_phi3},          {"Olmo2ForCausalLM", read_olmo2},
    {"GraniteForCausalLM", read_granite},    {"MixtralForCausalLM", read_mixtral},
    {"Qwen2MoeForCausalLM", read_qwen2_moe}, {"Qwen3MoeForCausalLM", read_qwen3_moe},
};

}  // namespace

std::span<const Family> llama_families() { return kFamilies; }

}  // namespace sluice
