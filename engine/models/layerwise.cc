#include <cmath>

#include "engine/json_util.h"
#include "engine/models/config_keys.h"
#include "engine/models/registry.h"

// The families whose layers have sizes of their own: Llamas that were searched for by their speed
// (DeciLM, Llama-Nemotron), and OpenELM. Llamas with lists of sizes are llama.cc's.
namespace sluice {
namespace {

using Part = LayerConfig::Part;

// A Llama's layer pruned: no_op has it no more, replace_with_linear has one linear layer for it.
Part read_part(KeyReader& keys) {
  const bool none = keys.boolean("no_op", false);
  const bool linear = keys.boolean("replace_with_linear", false);
  if (none && linear) keys.fail("\"no_op\" and \"replace_with_linear\" are both true");
  keys.only("sparsify", nullptr);
  return none ? Part::none : linear ? Part::linear : Part::whole;
}

void read_block_attention(KeyReader& keys, LayerConfig& layer) {
  layer.attention = read_part(keys);
  const int group = keys.integer("n_heads_in_group", 1, layer.num_heads, 1);
  if (layer.attention == Part::whole && layer.num_heads % group != 0)
    keys.conflict("\"n_heads_in_group\" is {}, which does not divide {} heads", group,
                  layer.num_heads);
  layer.num_kv_heads = layer.num_heads / group;
  keys.only("window_length", nullptr);
  keys.only("num_sink_tokens", nullptr);
  keys.only("unshifted_sink", false);
  keys.only("use_prefill_window_in_sink_attention", false);
  if (layer.attention != Part::whole) layer.num_heads = layer.num_kv_heads = 0;
}

void read_block_ffn(KeyReader& keys, int hidden_size, LayerConfig& layer) {
  layer.mlp = read_part(keys);
  layer.ffn_size = 0;
  if (layer.mlp != Part::whole) {
    keys.find("ffn_mult");
    return;
  }
  const auto wide = int64_t(2 * keys.number("ffn_mult", 0, 1000, {}) * hidden_size / 3);
  layer.ffn_size = int((std::max<int64_t>(wide, 1) + 255) / 256 * 256);
}

// Reads the object `key` of `block` with `read`; false: something stands in for what it says.
template <class Read>
bool read_object(KeyReader& file, KeyReader& block, const char* key, Read read) {
  const Json* json = block.find(key);
  if (!json || !json->is_object()) {
    file.conflict("{}: \"{}\" is {}, expected an object", block.place(), key,
                  json ? describe(*json) : "missing");
    return false;
  }
  KeyReader keys(*json, fmt::format("{}.{}", block.place(), key));
  read(keys);
  if (const std::string unused = keys.unused(); !unused.empty())
    keys.fail("keys that are not supported: {}", unused);
  file.adopt(keys);
  return keys.status().ok();
}

// NVIDIA's Puzzle (Bercovich et al. 2024): for each layer what is left of it, and how much.
void read_blocks(KeyReader& file, const Json& blocks, ModelConfig& c) {
  if (!blocks.is_array() || int(blocks.size()) != c.num_layers)
    return file.conflict(
        "\"block_configs\" is {}, expected a block for each of {} layers",
        blocks.is_array() ? fmt::format("a list of {}", blocks.size()) : describe(blocks),
        c.num_layers);
  for (int i = 0; i < c.num_layers; ++i) {
    LayerConfig& layer = c.layers[i];
    static const Json kNone = Json::object();
    KeyReader block(blocks[i].is_object() ? blocks[i] : kNone,
                    fmt::format("{}: block_configs[{}]", file.place(), i));
    const bool good = read_object(file, block, "attention",
                                  [&](KeyReader& keys) { read_block_attention(keys, layer); }) &&
                      read_object(file, block, "ffn", [&](KeyReader& keys) {
                        read_block_ffn(keys, c.hidden_size, layer);
                      });
    if (!good) return file.guess();  // one is enough to see what is wrong
  }
  const auto attends = [](const LayerConfig& layer) { return layer.attention == Part::whole; };
  if (std::none_of(c.layers.begin(), c.layers.end(), attends))
    file.conflict("\"block_configs\" leaves no layer with attention");
}

void read_decilm(KeyReader& keys, ModelConfig& c) {
  ShapeKeys shape;
  const Json* blocks = keys.find("block_configs");
  if (blocks) shape.default_ffn = 4;  // every block says its own
  read_shape(keys, shape, c);
  keys.only("hidden_act", "silu");
  keys.find("pretraining_tp");  // how training split its sums, which are the same
  c.tied_embeddings = keys.boolean("tie_word_embeddings", false);
  c.qkv_bias = c.o_bias = keys.boolean("attention_bias", false);
  c.mlp_bias = keys.boolean("mlp_bias", false);
  read_rope(keys, 0, c);
  if (blocks) read_blocks(keys, *blocks, c);
}

// The width of an MLP: the nearest multiple of `divisor`, but never less than nine tenths.
int openelm_width(double wide, int divisor) {
  const int64_t near =
      std::max<int64_t>(divisor, int64_t(wide + divisor / 2.0) / divisor * divisor);
  return int(near < 0.9 * wide ? near + divisor : near);
}

void read_openelm(KeyReader& keys, ModelConfig& c) {
  read_shape(keys,
             {.num_layers = "num_transformer_layers",
              .hidden_size = "model_dim",
              .ffn_size = nullptr,
              .num_heads = "num_query_heads",
              .num_kv_heads = "num_kv_heads",
              .max_positions = "max_context_length",
              .default_ffn = 4,
              .default_eps = 1e-6},
             c);
  const int divisor = keys.integer("ffn_dim_divisor", 1, 1 << 16, 256);
  const Json* wide = keys.find("ffn_multipliers");
  for (int i = 0; i < c.num_layers; ++i) {
    const Json* x =
        wide && wide->is_array() && int(wide->size()) == c.num_layers ? &(*wide)[i] : nullptr;
    if (!x || !x->is_number() || !(x->get<double>() > 0 && x->get<double>() <= 1000)) {
      keys.conflict("\"ffn_multipliers\" is {}, expected a positive number for each of {} layers",
                    wide ? describe(*wide) : "missing", c.num_layers);
      break;
    }
    c.layers[i].ffn_size = openelm_width(x->get<double>() * c.hidden_size, divisor);
  }
  keys.only("activation_fn_name", "swish");
  keys.only("ffn_with_glu", true);
  keys.only("normalization_layer_name", "rms_norm");
  keys.only("share_input_output_layers", true);
  c.tied_embeddings = true;
  if (keys.boolean("normalize_qk_projections", false)) c.qk_norm = ModelConfig::QkNorm::head;
  c.rope.theta = keys.number("rope_freq_constant", 1, 1e12, 1e4);
  read_rope(keys, 0, c);
  constexpr std::string_view kInert[] = {"num_gqa_groups", "qkv_multipliers", "rope_max_length"};
  keys.inert(kInert);
  c.names = {.base = "transformer.",
             .embedding = "token_embeddings",
             .before_attention = "attn_norm",
             .before_mlp = "ffn_norm",
             .q = "attn.qkv_proj",
             .k = nullptr,
             .v = nullptr,
             .q_norm = "attn.q_norm",
             .k_norm = "attn.k_norm",
             .o = "attn.out_proj",
             .gate = nullptr,
             .up = "ffn.proj_1",
             .down = "ffn.proj_2"};
}

constexpr Family kFamilies[] = {
    {"DeciLMForCausalLM", read_decilm},
    {"OpenELMForCausalLM", read_openelm},
};

}  // namespace

std::span<const Family> layerwise_families() { return kFamilies; }

}  // namespace sluice
