#include "engine/json_util.h"
#include "engine/models/config_keys.h"
#include "engine/models/registry.h"

// The families with LayerNorm and an MLP without a gate: GPT-2, GPT-NeoX, OPT, Falcon, BLOOM, MPT,
// StarCoder2, Phi 1 to 2.
namespace sluice {
namespace {

using When = WindowRule::When;

void read_common(KeyReader& keys, const ShapeKeys& shape, bool tied, ModelConfig& c) {
  read_shape(keys, shape, c);
  c.tied_embeddings = keys.boolean("tie_word_embeddings", tied);
  c.norm = ModelConfig::Norm::layer;
  c.norm_bias = true;
  c.gated_mlp = false;
}

void set_biases(ModelConfig& c, bool there) { c.qkv_bias = c.o_bias = c.mlp_bias = there; }

Activation any_activation(KeyReader& keys, const char* key, const char* fallback) {
  return read_activation(
      keys, key, fallback,
      {Activation::gelu, Activation::gelu_tanh, Activation::relu, Activation::silu});
}

void read_gpt2(KeyReader& keys, ModelConfig& c) {
  read_common(keys,
              {.num_layers = "n_layer",
               .hidden_size = "n_embd",
               .ffn_size = "n_inner",
               .num_heads = "n_head",
               .num_kv_heads = nullptr,
               .max_positions = "n_positions",
               .head_dim = nullptr,
               .eps = "layer_norm_epsilon",
               .default_ffn = 4,
               .default_eps = 1e-5},
              true, c);
  set_biases(c, true);
  c.activation = any_activation(keys, "activation_function", "gelu_new");
  c.positions = ModelConfig::Positions::learned;
  keys.only("scale_attn_weights", true);
  keys.only("scale_attn_by_inverse_layer_idx", false);
  keys.only("reorder_and_upcast_attn", false);  // another rounding, not another model
  keys.only("add_cross_attention", false);
  constexpr std::string_view kInert[] = {
      "n_ctx",        "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
      "summary_type", "summary_use_proj"};
  keys.inert(kInert);
  c.names = {.base = "transformer.",
             .embedding = "wte",
             .positions = "wpe",
             .layer = "h.{}.",
             .before_attention = "ln_1",
             .before_mlp = "ln_2",
             .q = "attn.c_attn",
             .k = nullptr,
             .v = nullptr,
             .o = "attn.c_proj",
             .gate = nullptr,
             .up = "mlp.c_fc",
             .down = "mlp.c_proj",
             .final_norm = "ln_f",
             .transposed = true};
}

void read_neox(KeyReader& keys, ModelConfig& c) {
  read_common(
      keys,
      {.num_kv_heads = nullptr, .head_dim = nullptr, .eps = "layer_norm_eps", .default_eps = 1e-5},
      false, c);
  c.mlp_bias = true;
  c.qkv_bias = c.o_bias = keys.boolean("attention_bias", true);
  c.activation = any_activation(keys, "hidden_act", "gelu");
  c.parallel_residual = keys.boolean("use_parallel_residual", true);
  c.rope.theta = keys.number("rotary_emb_base", 1, 1e12, 1e4);
  read_rope(keys, keys.number("rotary_pct", 0, 1, 0.25), c);
  constexpr std::string_view kInert[] = {"classifier_dropout"};
  keys.inert(kInert);
  c.names = {.base = "gpt_neox.",
             .embedding = "embed_in",
             .q = "attention.query_key_value",
             .k = nullptr,
             .v = nullptr,
             .o = "attention.dense",
             .gate = nullptr,
             .up = "mlp.dense_h_to_4h",
             .down = "mlp.dense_4h_to_h",
             .final_norm = "final_layer_norm",
             .head = "embed_out",
             .qkv_by_kv_head = true};
}

void read_opt(KeyReader& keys, ModelConfig& c) {
  read_common(keys,
              {.ffn_size = "ffn_dim",
               .num_kv_heads = nullptr,
               .head_dim = nullptr,
               .eps = "layer_norm_eps",
               .default_eps = 1e-5},
              true, c);
  set_biases(c, keys.boolean("enable_bias", true));
  c.activation = any_activation(keys, "activation_function", "relu");
  c.positions = ModelConfig::Positions::learned;
  keys.only("do_layer_norm_before", true);
  keys.only("layer_norm_elementwise_affine", true);
  keys.only("_remove_final_layer_norm", false);
  keys.only("word_embed_proj_dim", c.hidden_size);
  constexpr std::string_view kInert[] = {"dropout", "layerdrop", "activation_dropout", "init_std",
                                         "prefix"};
  keys.inert(kInert);
  c.names = {.base = "model.decoder.",
             .positions = "embed_positions",
             .first_position = 2,
             .before_attention = "self_attn_layer_norm",
             .before_mlp = "final_layer_norm",
             .o = "self_attn.out_proj",
             .gate = nullptr,
             .up = "fc1",
             .down = "fc2",
             .final_norm = "final_layer_norm"};
}

// Three forms: one key and value for all heads (7B), for groups of heads (40B and later), and for
// each head. The models trained on RefinedWeb alone have ALiBi, whose biases are scaled as scores
// are.
void read_falcon(KeyReader& keys, ModelConfig& c) {
  const bool grouped = keys.boolean("new_decoder_architecture", false);
  const bool one_kv = keys.boolean("multi_query", true) && !grouped;
  read_common(keys,
              {.ffn_size = "ffn_hidden_size",
               .num_kv_heads = grouped ? "num_kv_heads" : nullptr,
               .head_dim = nullptr,
               .eps = "layer_norm_epsilon",
               .default_ffn = 4,
               .default_eps = 1e-5,
               .default_positions = 2048},
              true, c);
  keys.find("num_kv_heads");
  keys.find("n_head_kv");  // the same, in old files
  for (LayerConfig& layer : c.layers)
    if (one_kv) layer.num_kv_heads = 1;
  set_biases(c, keys.boolean("bias", false));
  c.activation = any_activation(keys, "activation", "gelu");
  c.parallel_residual = keys.boolean("parallel_attn", true) || grouped;
  if (keys.boolean("alibi", false)) {
    constexpr std::string_view kRotary[] = {"rope_theta", "rope_scaling", "rope_parameters"};
    keys.inert(kRotary);
    set_alibi(keys, 8, c.attention_scale, c);
  } else {
    read_rope(keys, 0, c);
  }
  const int norms = keys.integer("num_ln_in_parallel_attn", 1, 2, grouped ? 2 : 1);
  c.names = {.base = "transformer.",
             .embedding = "word_embeddings",
             .layer = "h.{}.",
             .q = "self_attention.query_key_value",
             .k = nullptr,
             .v = nullptr,
             .o = "self_attention.dense",
             .gate = nullptr,
             .up = "mlp.dense_h_to_4h",
             .down = "mlp.dense_4h_to_h",
             .final_norm = "ln_f",
             .qkv_by_kv_head = !one_kv};
  if (grouped && norms == 2) {
    c.names.before_attention = "ln_attn";
    c.names.before_mlp = "ln_mlp";
  } else if (c.parallel_residual) {
    c.names.before_mlp = nullptr;  // reads what attention reads
  }
}

// Some keys have an old and a new name.
const char* either(const KeyReader& keys, const char* older, const char* newer) {
  return keys.contains(older) ? older : newer;
}

void read_bloom(KeyReader& keys, ModelConfig& c) {
  read_common(keys,
              {.num_layers = either(keys, "n_layer", "num_hidden_layers"),
               .hidden_size = either(keys, "n_embed", "hidden_size"),
               .ffn_size = nullptr,
               .num_heads = either(keys, "n_head", "num_attention_heads"),
               .num_kv_heads = nullptr,
               .max_positions = "seq_length",
               .head_dim = nullptr,
               .eps = "layer_norm_epsilon",
               .default_ffn = 4,
               .default_eps = 1e-5,
               .default_positions = 2048},
              true, c);
  keys.only("n_inner", 4 * c.hidden_size);
  set_biases(c, true);
  c.activation = Activation::gelu_tanh;
  set_alibi(keys, 8, 1, c);
  keys.only("apply_residual_connection_post_layernorm", false);
  constexpr std::string_view kInert[] = {"attention_softmax_in_fp32",
                                         "bias_dropout_fusion",
                                         "masked_softmax_fusion",
                                         "offset_alibi",
                                         "pretraining_tp",
                                         "skip_bias_add",
                                         "skip_bias_add_qkv",
                                         "slow_but_exact"};
  keys.inert(kInert);
  c.names = {.base = "transformer.",
             .embedding = "word_embeddings",
             .embedding_norm = "word_embeddings_layernorm",
             .layer = "h.{}.",
             .q = "self_attention.query_key_value",
             .k = nullptr,
             .v = nullptr,
             .o = "self_attention.dense",
             .gate = nullptr,
             .up = "mlp.dense_h_to_4h",
             .down = "mlp.dense_4h_to_h",
             .final_norm = "ln_f",
             .qkv_by_kv_head = true};
}

void read_mpt_attention(KeyReader& file, ModelConfig& c) {
  static const Json kNone = Json::object();
  const Json* json = file.find("attn_config");
  if (json && !json->is_object())
    return file.fail("\"attn_config\" is {}, expected an object", describe(*json));
  KeyReader keys(json ? *json : kNone, file.place() + ": attn_config");
  keys.only("alibi", true);
  keys.only("attn_type", "multihead_attention");
  keys.only("attn_uses_sequence_id", false);
  keys.only("clip_qkv", nullptr);
  keys.only("kv_n_heads", c.layers[0].num_heads);
  keys.only("prefix_lm", false);
  keys.only("qk_gn", false);
  keys.only("qk_ln", false);
  keys.only("rope", false);
  keys.only("sliding_window_size", -1);
  c.attention_scale = float(keys.number("softmax_scale", 0, 100, c.attention_scale));
  set_alibi(keys, keys.number("alibi_bias_max", 0, 64, 8.0), 1, c);
  constexpr std::string_view kInert[] = {"attn_impl", "attn_pdrop", "model_type"};
  keys.inert(kInert);
  if (const std::string unused = keys.unused(); !unused.empty())
    c.warnings.push_back(
        fmt::format("{}: keys that have no effect here: {}", keys.place(), unused));
  file.adopt(keys);
}

void read_mpt(KeyReader& keys, ModelConfig& c) {
  read_common(keys,
              {.num_layers = "n_layers",
               .hidden_size = "d_model",
               .ffn_size = nullptr,
               .num_heads = "n_heads",
               .num_kv_heads = nullptr,
               .max_positions = "max_seq_len",
               .head_dim = nullptr,
               .eps = "layer_norm_epsilon",
               .default_ffn = keys.integer("expansion_ratio", 1, 64, 4),
               .default_eps = 1e-5},
              true, c);
  keys.only("no_bias", true);
  c.norm_bias = false;
  c.activation = Activation::gelu;
  read_mpt_attention(keys, c);
  const std::string norm = keys.text("norm_type").value_or("layernorm");
  if (norm != "layernorm" && norm != "low_precision_layernorm")
    keys.fail("\"norm_type\" is \"{}\", supported are layernorm and low_precision_layernorm",
              norm.substr(0, 80));
  keys.only("embedding_fraction", 1.0);
  constexpr std::string_view kInert[] = {"emb_pdrop",     "resid_pdrop", "init_config",
                                         "init_device",   "verbose",     "learned_pos_emb",
                                         "tokenizer_name"};
  keys.inert(kInert);
  c.names = {.base = "transformer.",
             .embedding = "wte",
             .layer = "blocks.{}.",
             .before_attention = "norm_1",
             .before_mlp = "norm_2",
             .q = "attn.Wqkv",
             .k = nullptr,
             .v = nullptr,
             .o = "attn.out_proj",
             .gate = nullptr,
             .up = "ffn.up_proj",
             .down = "ffn.down_proj",
             .final_norm = "norm_f"};
}

void read_starcoder2(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {.eps = "norm_epsilon", .default_eps = 1e-5}, true, c);
  set_biases(c, keys.boolean("use_bias", true));
  c.activation = any_activation(keys, "hidden_act", "gelu_pytorch_tanh");
  keys.only("norm_type", "layer_norm");
  keys.only("mlp_type", "default");
  read_windows(keys, {.when = When::if_set}, c);
  read_rope(keys, 0, c);
  constexpr std::string_view kInert[] = {"embedding_dropout", "residual_dropout",
                                         "attention_softmax_in_fp32",
                                         "scale_attention_softmax_in_fp32", "scale_attn_weights"};
  keys.inert(kInert);
  c.names = {.gate = nullptr, .up = "mlp.c_fc", .down = "mlp.c_proj"};
}

void read_phi(KeyReader& keys, ModelConfig& c) {
  read_common(keys, {.head_dim = nullptr, .eps = "layer_norm_eps", .default_eps = 1e-5}, false, c);
  set_biases(c, true);
  c.head_bias = true;
  c.activation = any_activation(keys, "hidden_act", "gelu_new");
  c.parallel_residual = true;
  keys.only("qk_layernorm", false);
  read_rope(keys, 0.5, c);
  c.names = {.before_mlp = nullptr,
             .o = "self_attn.dense",
             .gate = nullptr,
             .up = "mlp.fc1",
             .down = "mlp.fc2",
             .final_norm = "final_layernorm"};
}

constexpr Family kFamilies[] = {
    {"GPT2LMHeadModel", read_gpt2},
    {"GPTNeoXForCausalLM", read_neox},
    {"OPTForCausalLM", read_opt},
    {"FalconForCausalLM", read_falcon},
    {"BloomForCausalLM", read_bloom},
    {"MPTForCausalLM", read_mpt},
    {"MptForCausalLM", read_mpt},
    {"PhiForCausalLM", read_phi},
    {"Starcoder2ForCausalLM", read_starcoder2},
};

}  // namespace

std::span<const Family> gpt_families() { return kFamilies; }

}  // namespace sluice
