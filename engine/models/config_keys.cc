#include "engine/models/config_keys.h"

#include <algorithm>
#include <cmath>

#include "engine/json_util.h"

namespace sluice {
namespace {

constexpr int kMostHeads = 4096, kMostFfn = 1 << 20;

std::string per_layer(const char* key) { return fmt::format("{}_per_layer", key); }

bool has_sizes(KeyReader& keys, const char* key) {
  return keys.find(key) || keys.find(per_layer(key));
}

// Of each layer.
std::vector<int> read_sizes(KeyReader& keys, const char* key, int high, std::optional<int> fallback,
                            int num_layers) {
  std::string name = per_layer(key);
  const Json* list = keys.find(name);
  const Json* plain = keys.find(key);
  if (!list && plain && plain->is_array()) list = plain, name = key;
  if (!list) return std::vector<int>(num_layers, keys.integer(key, 1, high, fallback));
  if (!list->is_array() || int(list->size()) != num_layers)
    keys.conflict("\"{}\" is {}, expected a size for each of {} layers", name,
                  list->is_array() ? fmt::format("a list of {}", list->size()) : describe(*list),
                  num_layers);
  std::vector<int> sizes;
  for (const Json& size : list->is_array() ? *list : Json::array()) {
    if (!size.is_number_integer() || size < 1 || size > high) {
      keys.conflict("\"{}\" has {}, expected integers from 1 to {}", name, describe(size), high);
      break;
    }
    sizes.push_back(size.get<int>());
  }
  sizes.resize(num_layers, 1);
  return sizes;
}

// Without "head_dim".
int usual_head_dim(KeyReader& keys, const ShapeKeys& k, const std::vector<int>& heads,
                   const ModelConfig& c) {
  if (k.default_head_dim > 0) return k.default_head_dim;
  if (std::count(heads.begin(), heads.end(), heads[0]) != std::ptrdiff_t(heads.size())) {
    if (k.head_dim)
      keys.conflict("\"{}\" is missing, which a model needs where \"{}\" differs by layer",
                    k.head_dim, k.num_heads);
    else
      keys.conflict("\"{}\" differs by layer, which {} cannot", k.num_heads, c.architecture);
  }
  if (c.hidden_size % heads[0] != 0)
    keys.conflict("\"{}\" {} is not a multiple of \"{}\" {}", k.hidden_size, c.hidden_size,
                  k.num_heads, heads[0]);
  return c.hidden_size / heads[0];
}

}  // namespace

void read_shape(KeyReader& keys, const ShapeKeys& k, ModelConfig& c) {
  c.num_layers = keys.integer(k.num_layers, 1, 1024, {});
  c.hidden_size = keys.integer(k.hidden_size, 1, 1 << 18, {});
  const auto unless_said = [](int value) {
    return value > 0 ? std::optional(value) : std::nullopt;
  };
  const auto heads =
      read_sizes(keys, k.num_heads, kMostHeads, unless_said(k.default_heads), c.num_layers);
  auto kv_heads = heads;
  if (k.default_kv_heads > 0) kv_heads.assign(size_t(c.num_layers), k.default_kv_heads);
  if (k.num_kv_heads && has_sizes(keys, k.num_kv_heads))
    kv_heads = read_sizes(keys, k.num_kv_heads, kMostHeads, {}, c.num_layers);
  std::vector<int> ffn(c.num_layers, k.default_ffn * c.hidden_size);
  if (k.ffn_size) {
    std::optional<int> fallback;
    if (k.default_ffn > 0) fallback = ffn[0];
    ffn = read_sizes(keys, k.ffn_size, kMostFfn, fallback, c.num_layers);
  }
  c.vocab_size = keys.integer("vocab_size", 1, 1 << 24, unless_said(k.default_vocab));
  c.max_positions = keys.integer(k.max_positions, 1, 1 << 26, unless_said(k.default_positions));
  std::optional<double> eps;
  if (k.default_eps > 0) eps = k.default_eps;
  c.norm_eps = static_cast<float>(keys.number(k.eps, 0, 1, eps, true));
  if (k.head_dim && keys.find(k.head_dim))
    c.head_dim = keys.integer(k.head_dim, 2, 1024, {});
  else
    c.head_dim = usual_head_dim(keys, k, heads, c);
  if (c.head_dim < 2 || c.head_dim > 1024 || c.head_dim % 2 != 0)
    keys.conflict("\"head_dim\" is {}, expected an even size from 2 to 1024", c.head_dim);
  c.head_dim = std::clamp(c.head_dim, 2, 1024);  // whatever was refused: others divide by it
  c.layers.resize(c.num_layers);
  for (int i = 0; i < c.num_layers; ++i) {
    if (heads[i] % kv_heads[i] != 0)
      keys.conflict("\"{}\" {} is not a multiple of \"{}\" {}", k.num_heads, heads[i],
                    k.num_kv_heads, kv_heads[i]);
    c.layers[i].num_heads = heads[i];
    c.layers[i].num_kv_heads = kv_heads[i];
    c.layers[i].ffn_size = ffn[i];
  }
  c.attention_scale = 1.0f / std::sqrt(static_cast<float>(std::max(c.head_dim, 1)));
}

void set_alibi(KeyReader& keys, double max, double factor, ModelConfig& c) {
  const int heads = c.layers[0].num_heads;
  for (const LayerConfig& layer : c.layers)
    if (layer.num_heads != heads)
      return keys.conflict("layers with {} and {} heads are not supported with ALiBi", heads,
                           layer.num_heads);
  c.positions = ModelConfig::Positions::alibi;
  int power = 1;
  while (2 * power <= heads) power *= 2;
  c.alibi.clear();
  for (int i = 1; i <= power; ++i) c.alibi.push_back(float(factor * std::exp2(-max * i / power)));
  for (int i = 1; int(c.alibi.size()) < heads; i += 2)
    c.alibi.push_back(float(factor * std::exp2(-max * i / (2 * power))));
}

void read_windows(KeyReader& keys, const WindowRule& rule, ModelConfig& c) {
  using When = WindowRule::When;
  const bool said = keys.contains("sliding_window");
  const Json* set = keys.find("sliding_window");
  const bool in_use = keys.boolean("use_sliding_window", rule.when != When::if_used);
  int window = 0, first = 0;
  if (rule.when == When::never) {
    if (set && in_use)
      keys.fail("\"sliding_window\" is {}, only full attention is supported", describe(*set));
  } else if (in_use) {
    if (set || rule.if_absent > 0)
      window = said && !set ? 0 : keys.integer("sliding_window", 1, 1 << 26, rule.if_absent);
    if (rule.when == When::if_used)
      first = keys.integer("max_window_layers", 0, 1 << 20, c.num_layers);
  }
  keys.find("max_window_layers");
  for (int i = first; i < c.num_layers; ++i)
    if (rule.pattern == 1 || (i + 1) % rule.pattern != 0) c.layers[i].window = window;

  const Json* types = keys.find("layer_types");
  if (!types) return;
  if (!types->is_array() || types->size() != size_t(c.num_layers))
    return keys.conflict("\"layer_types\" is {}, expected a list with a type for each of {} layers",
                         describe(*types), c.num_layers);
  for (int i = 0; i < c.num_layers; ++i) {
    const Json& type = (*types)[i];
    const bool sliding = type == "sliding_attention";
    if (!sliding && type != "full_attention")
      return keys.fail("\"layer_types\" has {}, supported are full_attention and sliding_attention",
                       describe(type));
    if (sliding == (c.layers[i].window > 0)) continue;
    if (!rule.by_layer_types || (sliding && window == 0))
      return keys.fail("\"layer_types\" has {} for layer {}, expected {}", describe(type), i,
                       sliding ? "full_attention" : "sliding_attention");
    c.layers[i].window = sliding ? window : 0;
  }
}

namespace {

std::vector<double> read_factors(KeyReader& keys, const char* key, size_t count) {
  std::vector<double> factors;
  const Json* list = keys.find(key);
  if (!list || !list->is_array() || list->size() != count) {
    keys.fail("\"{}\" is {}, expected a list of {} numbers", key,
              !list              ? "missing"
              : list->is_array() ? fmt::format("a list of {}", list->size())
                                 : describe(*list),
              count);
    return factors;
  }
  for (const Json& x : *list) {
    if (!x.is_number() || !(x.get<double>() >= 1e-3 && x.get<double>() <= 1e6)) {
      keys.fail("\"{}\" has {}, expected numbers from 0.001 to 1000000", key, describe(x));
      return factors;
    }
    factors.push_back(x.get<double>());
  }
  return factors;
}

void read_llama3(KeyReader& keys, RopeConfig& rope) {
  rope.type = RopeConfig::Type::llama3;
  rope.factor = keys.number("factor", 1, 1e6, {}, true);
  rope.low_freq_factor = keys.number("low_freq_factor", 0, 1e6, {});
  rope.high_freq_factor = keys.number("high_freq_factor", 0, 1e6, {});
  rope.original_max_positions = keys.number("original_max_position_embeddings", 0, 1e9, {});
  if (keys.status().ok() && rope.high_freq_factor <= rope.low_freq_factor)
    keys.fail("\"high_freq_factor\" {} must be above \"low_freq_factor\" {}", rope.high_freq_factor,
              rope.low_freq_factor);
}

// Peng et al. 2023. DeepSeek's mscale and mscale_all_dim replace the paper's 0.1 ln(factor) + 1.
void read_yarn(KeyReader& keys, RopeConfig& rope, ModelConfig& c) {
  rope.type = RopeConfig::Type::yarn;
  rope.factor = keys.number("factor", 1, 1e6, {}, true);
  rope.original_max_positions =
      keys.number("original_max_position_embeddings", 1, 1e9, c.max_positions);
  rope.beta_fast = keys.number("beta_fast", 0, 1e6, 32.0);
  rope.beta_slow = keys.number("beta_slow", 0, 1e6, 1.0);
  rope.truncate = keys.boolean("truncate", true);
  keys.find("finetuned");  // whether the model has seen such lengths
  const auto scaled = [&](double m) {
    return rope.factor <= 1 ? 1.0 : 0.1 * m * std::log(rope.factor) + 1;
  };
  const double mscale = keys.number("mscale", 0, 100, 0.0, true);
  const double all_dim = keys.number("mscale_all_dim", 0, 100, 0.0, true);
  const double by_paper = mscale > 0 && all_dim > 0 ? scaled(mscale) / scaled(all_dim) : scaled(1);
  rope.attention_factor = keys.number("attention_factor", 0, 100, by_paper);
  c.max_positions = std::max<int>(
      c.max_positions, int(std::min(rope.factor * rope.original_max_positions, double(1 << 26))));
}

// Ding et al. 2024.
void read_longrope(KeyReader& keys, KeyReader& file, RopeConfig& rope, const ModelConfig& c) {
  rope.type = RopeConfig::Type::longrope;
  rope.short_factors = read_factors(keys, "short_factor", c.rotary_dim / 2);
  rope.long_factors = read_factors(keys, "long_factor", c.rotary_dim / 2);
  const double beside = file.number("original_max_position_embeddings", 1, 1e9, c.max_positions);
  rope.original_max_positions = keys.number("original_max_position_embeddings", 1, 1e9, beside);
  if (rope.original_max_positions <= 1)  // where it is max_position_embeddings
    keys.conflict("\"original_max_position_embeddings\" is {}, expected more than 1",
                  rope.original_max_positions);
  rope.factor = keys.number("factor", 0, 1e6, c.max_positions / rope.original_max_positions);
  const double by_paper =
      rope.factor <= 1
          ? 1.0
          : std::sqrt(1 + std::log(rope.factor) / std::log(rope.original_max_positions));
  rope.attention_factor = keys.number("attention_factor", 0, 100, by_paper);
}

int rotary_dim(KeyReader& keys, double factor, const ModelConfig& c) {
  const int dim = static_cast<int>(c.head_dim * factor);
  if (dim < 2 || dim % 2 != 0)
    keys.conflict("{} of head_dim {} is to be rotated, expected an even number of dims", factor,
                  c.head_dim);
  return dim;
}

}  // namespace

RopeConfig read_rope_object(KeyReader& parent, const char* key, double theta, ModelConfig& c) {
  RopeConfig rope;
  rope.theta = theta;
  const Json* json = parent.find(key);
  if (!json) return rope;
  if (!json->is_object()) {
    parent.fail("\"{}\" is {}, expected an object", key, describe(*json));
    return rope;
  }
  KeyReader keys(*json, fmt::format("{}: {}", parent.place(), key));
  rope.theta = keys.number("rope_theta", 1, 1e12, theta);
  const double part = keys.number("partial_rotary_factor", 0, 1, double(c.rotary_dim) / c.head_dim);
  if (int(part * c.head_dim) != c.rotary_dim)
    keys.fail("\"partial_rotary_factor\" is {}, only {} is supported", part,
              double(c.rotary_dim) / c.head_dim);
  const std::optional<std::string> old_type = keys.text("type");
  const std::string type = keys.text("rope_type").value_or(old_type.value_or(""));
  if (type == "llama3") {
    read_llama3(keys, rope);
  } else if (type == "yarn") {
    read_yarn(keys, rope, c);
  } else if (type == "longrope" || type == "su") {
    read_longrope(keys, parent, rope, c);
  } else if (type == "linear") {
    rope.type = RopeConfig::Type::linear;
    rope.factor = keys.number("factor", 1, 1e6, {}, true);
  } else if (type == "dynamic") {
    rope.type = RopeConfig::Type::dynamic;
    rope.factor = keys.number("factor", 1, 1e6, {}, true);
    rope.original_max_positions = c.max_positions;
    c.max_positions = int(std::min(c.max_positions * rope.factor, double(1 << 26)));
  } else if (type != "default") {
    keys.fail(
        "rope type is \"{}\", supported are default, linear, dynamic, llama3, yarn and longrope",
        type.substr(0, 80));
  }
  const std::string unused = keys.unused();
  if (keys.status().ok() && !unused.empty()) keys.fail("keys that are not supported: {}", unused);
  parent.adopt(keys);
  return rope;
}

void read_rope(KeyReader& file, double share, ModelConfig& c) {
  const Json* newer = file.find("rope_parameters");
  const Json* older = file.find("rope_scaling");
  if (newer && older && *newer != *older)
    file.fail("\"rope_parameters\" and \"rope_scaling\" disagree, expected one of them");
  const Json* json = newer ? newer : older;
  const bool has_theta = file.find("rope_theta") != nullptr;
  const double theta = file.number("rope_theta", 1, 1e12, c.rope.theta);
  c.rotary_dim = c.head_dim;
  if (share > 0) {
    double part = share;
    if (json && json->is_object() && json->contains("partial_rotary_factor") &&
        (*json)["partial_rotary_factor"].is_number())
      part = (*json)["partial_rotary_factor"];
    c.rotary_dim = rotary_dim(file, file.number("partial_rotary_factor", 0, 1, part), c);
  } else {
    file.only("partial_rotary_factor", 1.0);
  }
  c.rope.theta = theta;
  if (!json) return;
  const char* key = newer ? "rope_parameters" : "rope_scaling";
  c.rope = read_rope_object(file, key, theta, c);
  if (has_theta && theta != c.rope.theta)
    file.fail("{}: \"rope_theta\" is {}, and {} beside it", key, c.rope.theta, theta);
}

Activation read_activation(KeyReader& keys, const char* key, const char* fallback,
                           std::initializer_list<Activation> supported) {
  constexpr struct {
    const char* name;
    Activation activation;
  } kNames[] = {{"silu", Activation::silu},          {"swish", Activation::silu},
                {"gelu", Activation::gelu},          {"gelu_pytorch_tanh", Activation::gelu_tanh},
                {"gelu_new", Activation::gelu_tanh}, {"gelu_fast", Activation::gelu_tanh},
                {"relu", Activation::relu}};
  const std::string found = keys.text(key).value_or(fallback);
  std::string expected;
  for (const auto& [name, activation] : kNames) {
    if (std::find(supported.begin(), supported.end(), activation) == supported.end()) continue;
    if (found == name) return activation;
    expected += (expected.empty() ? "" : ", ") + std::string(name);
  }
  keys.fail("\"{}\" is \"{}\", supported: {}", key, found.substr(0, 80), expected);
  return *supported.begin();
}

void refuse_other_traits(KeyReader& keys, const ModelConfig& c) {
  // With the values that ask for nothing; null asks for nothing anywhere.
  static const struct {
    const char* key;
    std::vector<Json> neutral;
  } kTraits[] = {
      // Attention
      {"alibi", {false}},
      {"attention_bias", {false}},
      {"attention_chunk_size", {}},
      {"attention_multiplier", {}},
      {"attention_sink_size", {0}},
      {"attn_logit_softcapping", {0}},
      {"attn_output_gate", {false}},
      {"attn_temperature_tuning", {false}},
      {"clip_qkv", {}},
      {"kv_lora_rank", {0}},
      {"layer_types", {}},
      {"q_lora_rank", {0}},
      {"qk_layernorm", {false}},
      {"qk_norm", {false}},
      {"query_pre_attn_scalar", {}},
      {"sliding_window", {}},
      {"sliding_window_pattern", {}},
      {"use_bidirectional_attention", {false}},
      {"use_qk_norm", {false}},
      // Positions
      {"no_rope_layers", {Json::array()}},
      {"partial_rotary_factor", {1}},
      {"rope_interleave", {false}},
      {"rope_interleaved", {false}},
      {"rope_local_base_freq", {}},
      {"rotary_dim", {}},
      {"rotary_pct", {1}},
      // Layers
      {"apply_residual_connection_post_layernorm", {false}},
      {"block_configs", {}},
      {"mlp_bias", {false}},
      {"n_routed_experts", {0}},
      {"num_experts", {0, 1}},
      {"num_key_value_heads_per_layer", {}},
      {"num_local_experts", {0, 1}},
      {"parallel_attn", {false}},
      {"pruned_heads", {Json::object()}},
      {"use_parallel_residual", {false}},
      // Factors and bounds of what flows between them
      {"dim_model_base", {}},
      {"embedding_multiplier", {1}},
      {"final_logit_softcapping", {0}},
      {"lm_head_bias", {false}},
      {"logit_scale", {1}},
      {"logits_scaling", {1}},
      {"residual_multiplier", {1}},
      {"scale_depth", {}},
      {"scale_emb", {1}},
      // Weights in a form that no other key speaks of
      {"quantization", {}},
  };
  for (const auto& [key, neutral] : kTraits) {
    if (keys.has_read(key)) continue;
    const Json* value = keys.find(key);
    if (value && std::find(neutral.begin(), neutral.end(), *value) == neutral.end())
      keys.fail("\"{}\" is {}, which is not supported for {}", key, describe(*value),
                c.architecture);
  }
}

}  // namespace sluice
