// Layers with sizes of their own, and slopes for each head: what config.json makes of them.
#include <cmath>

#include "tests/unit/engine/model_config_fixture.h"

namespace sluice {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Json bloom(int heads) {
  return {{"architectures", {"BloomForCausalLM"}},
          {"n_embed", 32 * heads},
          {"n_layer", 2},
          {"num_attention_heads", heads},
          {"offset_alibi", 100},
          {"vocab_size", 1000},
          {"eos_token_id", 2}};
}

// By hand: 2^-2, .. for four heads, and between them those of eight for two more.
TEST_F(ModelConfigTest, SlopesOfLinearBiases) {
  const auto two_to = [](std::vector<double> powers) {
    std::vector<float> slopes;
    for (const double p : powers) slopes.push_back(float(std::pow(2, p)));
    return slopes;
  };
  auto c = read(bloom(6));
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->alibi, two_to({-2, -4, -6, -8, -1, -3}));
  EXPECT_THAT(c->warnings, IsEmpty());
  EXPECT_EQ(c->max_positions, 2048);
  EXPECT_EQ(read(bloom(1))->alibi, two_to({-8}));
  EXPECT_EQ(read(bloom(3))->alibi, two_to({-4, -8, -2}));
  EXPECT_EQ(read(bloom(16))->alibi, two_to({-.5, -1, -1.5, -2, -2.5, -3, -3.5, -4, -4.5, -5, -5.5,
                                            -6, -6.5, -7, -7.5, -8}));
  Json mpt = {{"architectures", {"MPTForCausalLM"}},
              {"d_model", 64},
              {"n_layers", 1},
              {"n_heads", 2},
              {"max_seq_len", 65536},
              {"vocab_size", 1000},
              {"no_bias", true},
              {"attn_config", {{"alibi", true}, {"alibi_bias_max", 16}, {"attn_impl", "torch"}}}};
  c = read(mpt);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->alibi, two_to({-8, -16}));
  mpt["attn_config"]["clip_qkv"] = 6;
  EXPECT_EQ(error_of(mpt), "config.json: attn_config: \"clip_qkv\" is 6, only null is supported");
  mpt["attn_config"] = {{"alibi", false}};
  EXPECT_EQ(error_of(mpt), "config.json: attn_config: \"alibi\" is false, only true is supported");
}

std::vector<std::vector<int>> sizes_of(const absl::StatusOr<ModelConfig>& c) {
  std::vector<std::vector<int>> sizes;
  if (!c.ok()) ADD_FAILURE() << c.status();
  for (const LayerConfig& layer : c.ok() ? c->layers : std::vector<LayerConfig>())
    sizes.push_back({layer.num_heads, layer.num_kv_heads, layer.ffn_size});
  return sizes;
}

TEST_F(ModelConfigTest, SizesByLayer) {
  Json json = llama();
  json["intermediate_size"] = {512, 96};
  json["num_key_value_heads_per_layer"] = {1, 4};
  EXPECT_THAT(sizes_of(read(json)), ElementsAre(ElementsAre(4, 1, 512), ElementsAre(4, 4, 96)));
  json["num_attention_heads"] = {2, 4};
  EXPECT_EQ(error_of(json),
            "config.json: \"head_dim\" is missing, which a model needs where "
            "\"num_attention_heads\" differs by layer");
  json["head_dim"] = 64;
  EXPECT_THAT(sizes_of(read(json)), ElementsAre(ElementsAre(2, 1, 512), ElementsAre(4, 4, 96)));
  Json multi_head = json;
  multi_head.erase("num_key_value_heads");
  multi_head.erase("num_key_value_heads_per_layer");
  EXPECT_THAT(sizes_of(read(multi_head)),
              ElementsAre(ElementsAre(2, 2, 512), ElementsAre(4, 4, 96)));
  json["num_attention_heads"] = {4, 6};
  EXPECT_EQ(
      error_of(json),
      "config.json: \"num_attention_heads\" 6 is not a multiple of \"num_key_value_heads\" 4");
  json["num_attention_heads"] = {4, 4, 4};
  EXPECT_EQ(error_of(json),
            "config.json: \"num_attention_heads\" is a list of 3, expected a size for each of 2 "
            "layers");
  json["num_attention_heads"] = {4, 0};
  EXPECT_EQ(error_of(json),
            "config.json: \"num_attention_heads\" has 0, expected integers from 1 to 4096");
}

TEST_F(ModelConfigTest, BlocksOfPuzzle) {
  Json json = llama();
  json["architectures"] = {"DeciLMForCausalLM"};
  json["intermediate_size"] = json["num_key_value_heads"] = nullptr;
  const Json whole = {{"attention", {{"n_heads_in_group", 2}}}, {"ffn", {{"ffn_mult", 2.9}}}};
  json["block_configs"] = {whole,
                           {{"attention", {{"no_op", true}, {"n_heads_in_group", nullptr}}},
                            {"ffn", {{"replace_with_linear", true}}}}};
  const auto c = read(json);
  // int(2 * 2.9 * 256 / 3) is 494.
  EXPECT_THAT(sizes_of(c), ElementsAre(ElementsAre(4, 2, 512), ElementsAre(0, 0, 0)));
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->layers[1].attention, LayerConfig::Part::none);
  EXPECT_EQ(c->layers[1].mlp, LayerConfig::Part::linear);
  const auto refused = [&](const char* part, const char* key, const Json& value) {
    Json other = json;
    other["block_configs"][0][part][key] = value;
    return error_of(other);
  };
  EXPECT_EQ(refused("attention", "n_heads_in_group", 3),
            "config.json: block_configs[0].attention: \"n_heads_in_group\" is 3, which does not "
            "divide 4 heads");
  EXPECT_EQ(refused("attention", "window_length", 128),
            "config.json: block_configs[0].attention: \"window_length\" is 128, only null is "
            "supported");
  EXPECT_EQ(refused("ffn", "moe", Json::object()),
            "config.json: block_configs[0].ffn: keys that are not supported: moe");
  EXPECT_EQ(refused("ffn", "ffn_mult", nullptr),
            "config.json: block_configs[0].ffn: \"ffn_mult\" is missing");
  EXPECT_EQ(refused("attention", "no_op", true),
            "config.json: \"block_configs\" leaves no layer with attention");
  json["block_configs"] = {whole};
  EXPECT_EQ(error_of(json),
            "config.json: \"block_configs\" is a list of 1, expected a block for each of 2 layers");
}

// The nearest multiple of 256: of 0.18 * 2048 that would be a third too little.
TEST_F(ModelConfigTest, SizesOfOpenElm) {
  Json json = {{"architectures", {"OpenELMForCausalLM"}},
               {"model_dim", 2048},
               {"num_transformer_layers", 2},
               {"head_dim", 64},
               {"num_query_heads", {16, 28}},
               {"num_kv_heads", {4, 7}},
               {"ffn_multipliers", {0.18, 2.06}},
               {"ffn_dim_divisor", 256},
               {"max_context_length", 2048},
               {"vocab_size", 32000},
               {"eos_token_id", 2}};
  EXPECT_THAT(sizes_of(read(json)), ElementsAre(ElementsAre(16, 4, 512), ElementsAre(28, 7, 4096)));
  json["ffn_multipliers"] = {0.5};
  EXPECT_THAT(error_of(json), HasSubstr("expected a positive number for each of 2 layers"));
}

}  // namespace
}  // namespace sluice
