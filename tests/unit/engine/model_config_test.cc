#include "engine/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/engine/model_config_fixture.h"

namespace sluice {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(ModelConfigTest, ReadsLlama) {
  const auto c = read(llama());
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->architecture, "LlamaForCausalLM");
  EXPECT_EQ(c->hidden_size, 256);
  EXPECT_EQ(c->layers[1].ffn_size, 512);
  EXPECT_EQ(c->num_layers, 2);
  EXPECT_EQ(c->layers[1].num_heads, 4);
  EXPECT_EQ(c->layers[1].num_kv_heads, 2);
  EXPECT_EQ(c->head_dim, 64);
  EXPECT_EQ(c->vocab_size, 1000);
  EXPECT_EQ(c->max_positions, 2048);
  EXPECT_FLOAT_EQ(c->norm_eps, 1e-5f);
  EXPECT_TRUE(c->tied_embeddings);
  EXPECT_EQ(c->qk_norm, ModelConfig::QkNorm::none);
  EXPECT_FALSE(c->qkv_bias || c->o_bias || c->mlp_bias);
  EXPECT_EQ(c->rope.type, RopeConfig::Type::standard);
  EXPECT_EQ(c->rope.theta, 500000.0);
  EXPECT_EQ(c->dtype, DType::bf16);
  EXPECT_THAT(c->eos_ids, ElementsAre(2, 3));
  EXPECT_EQ(c->bos_id, 1);
  EXPECT_FALSE(c->generation.temperature || c->generation.do_sample);
  EXPECT_THAT(c->warnings, IsEmpty());
}

TEST_F(ModelConfigTest, AbsentKeysMeanWhatTheirFamilySays) {
  Json json = llama();
  for (const char* key : {"num_key_value_heads", "rope_theta", "tie_word_embeddings", "hidden_act",
                          "torch_dtype", "bos_token_id", "eos_token_id"})
    json.erase(key);
  auto c = read(json);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->layers[0].num_kv_heads, 4);
  EXPECT_EQ(c->rope.theta, 10000.0);
  EXPECT_FALSE(c->tied_embeddings);
  EXPECT_FALSE(c->dtype.has_value());
  EXPECT_THAT(c->warnings, ElementsAre(HasSubstr("no eos_token_id")));
  json["architectures"] = {"Qwen3ForCausalLM"};
  c = read(json);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->head_dim, 128);
  EXPECT_EQ(c->qk_norm, ModelConfig::QkNorm::head);
  json["architectures"] = {"Qwen2ForCausalLM"};
  c = read(json);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->head_dim, 64);
  EXPECT_TRUE(c->qkv_bias);
  EXPECT_FALSE(c->o_bias || c->mlp_bias);
}

TEST_F(ModelConfigTest, RopeInBothLayouts) {
  Json json = llama();
  const Json scaling = {{"rope_type", "llama3"},
                        {"factor", 32.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  json["rope_scaling"] = scaling;
  const auto older = read(json);
  ASSERT_TRUE(older.ok()) << older.status();
  json.erase("rope_scaling");
  json.erase("rope_theta");
  json["rope_parameters"] = scaling;
  json["rope_parameters"]["rope_theta"] = 500000;
  const auto newer = read(json);
  ASSERT_TRUE(newer.ok()) << newer.status();
  for (const auto* c : {&*older, &*newer}) {
    EXPECT_EQ(c->rope.type, RopeConfig::Type::llama3);
    EXPECT_EQ(c->rope.theta, 500000.0);
    EXPECT_EQ(c->rope.factor, 32.0);
    EXPECT_EQ(c->rope.low_freq_factor, 1.0);
    EXPECT_EQ(c->rope.high_freq_factor, 4.0);
    EXPECT_EQ(c->rope.original_max_positions, 8192.0);
  }
  json = llama();
  json["rope_scaling"] = {{"type", "default"}};
  EXPECT_EQ(error_of(json), "(read)");
}

TEST_F(ModelConfigTest, WhatCannotBeServedIsRefusedByName) {
  const struct {
    const char* patch;  // merged into the Llama config; null removes
    const char* message;
  } cases[] = {
      {R"({"architectures":["T5ForConditionalGeneration"]})",
       "\"architectures\" is \"T5ForConditionalGeneration\", supported are LlamaForCausalLM, "},
      {R"({"architectures":[]})", "must be a list of one name"},
      {R"({"architectures":["LlamaForCausalLM","Qwen3ForCausalLM"]})", "list of one name"},
      {R"({"architectures":null})", "must be a list of one name"},
      {R"({"hidden_act":"gelu"})", "\"hidden_act\" is \"gelu\", only \"silu\" is supported"},
      {R"({"quantization_config":{"quant_method":"gptq","bits":4}})",
       "config.json: quantization_config: \"quant_method\" is \"gptq\", supported: "
       "\"compressed-tensors\" (of fp8), \"fp8\""},
      {R"({"quantization_config":{"bits":4}})", "\"quant_method\" is null"},
      {R"({"quantization_config":"fp8"})", "quantization_config: is \"fp8\", expected an object"},
      {R"({"rope_scaling":{"rope_type":"ntk","factor":4.0}})",
       "rope_scaling: rope type is \"ntk\", supported are default, linear, dynamic, llama3, yarn"},
      {R"({"rope_scaling":{"type":"linear"}})", "\"factor\" is missing"},
      {R"({"rope_scaling":{"type":"dynamic","factor":0.5}})", "\"factor\" is 0.5"},
      {R"({"rope_scaling":{"type":"yarn","factor":4.0,"beta_quick":1}})", "beta_quick"},
      {R"({"rope_scaling":{"type":"longrope","short_factor":[1,2],"long_factor":[1,2]}})",
       "\"short_factor\" is a list of 2, expected a list of 32 numbers"},
      {R"({"rope_scaling":{"rope_type":"default","partial_rotary_factor":0.5}})",
       "\"partial_rotary_factor\" is 0.5, only 1 is supported"},
      {R"({"rope_scaling":{"factor":4.0}})", "rope type is \"\""},
      {R"({"rope_scaling":[]})", "expected an object"},
      {R"({"rope_scaling":{"rope_type":"llama3","factor":8.0}})", "\"low_freq_factor\" is missing"},
      {R"({"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":4.0,)"
       R"("high_freq_factor":4.0,"original_max_position_embeddings":64}})",
       "must be above"},
      {R"({"rope_scaling":{"rope_type":"llama3","factor":0.5,"low_freq_factor":1.0,)"
       R"("high_freq_factor":4.0,"original_max_position_embeddings":64}})",
       "\"factor\" is 0.5"},
      {R"({"rope_scaling":{"rope_type":"default","mrope_section":[1]}})", "mrope_section"},
      {R"({"rope_scaling":{"rope_type":"default"},"rope_parameters":{"rope_type":"llama3"}})",
       "disagree"},
      {R"({"rope_parameters":{"rope_type":"default","rope_theta":10000.0}})",
       "\"rope_theta\" is 10000, and 500000 beside it"},
      {R"({"rope_theta":0})", "\"rope_theta\" is 0"},
      {R"({"partial_rotary_factor":0.5})", "\"partial_rotary_factor\" is 0.5"},
      {R"({"sliding_window":4096})", "\"sliding_window\" is 4096, only full attention"},
      {R"({"layer_types":["full_attention","sliding_attention"]})",
       "\"layer_types\" has \"sliding_attention\" for layer 1, expected full_attention"},
      {R"({"layer_types":["full_attention"]})", "expected a list with a type for each of 2 layers"},
      {R"({"layer_types":["full_attention","chunked_attention"]})",
       "\"layer_types\" has \"chunked_attention\", supported are full_attention and"},
      {R"({"torch_dtype":"float8_e4m3fn"})", "\"dtype\" is \"float8_e4m3fn\""},
      {R"({"hidden_size":0})", "\"hidden_size\" is 0, expected an integer from 1"},
      {R"({"hidden_size":-256})", "\"hidden_size\" is -256"},
      {R"({"hidden_size":18446744073709551615})", "\"hidden_size\" is 18446744073709551615"},
      {R"({"hidden_size":"256"})", "\"hidden_size\" is \"256\""},
      {R"({"hidden_size":256.5})", "\"hidden_size\" is 256.5"},
      {R"({"hidden_size":null})", "\"hidden_size\" is missing"},
      {R"({"hidden_size":250})", "not a multiple of \"num_attention_heads\""},
      {R"({"head_dim":63})", "even size"},
      {R"({"head_dim":4096})", "\"head_dim\" is 4096"},
      {R"({"num_key_value_heads":3})", "not a multiple of \"num_key_value_heads\" 3"},
      {R"({"num_hidden_layers":100000})", "\"num_hidden_layers\""},
      {R"({"vocab_size":null})", "\"vocab_size\" is missing"},
      {R"({"rms_norm_eps":"tiny"})", "\"rms_norm_eps\" is \"tiny\""},
      {R"({"rms_norm_eps":-1})", "\"rms_norm_eps\" is -1"},
      {R"({"tie_word_embeddings":"yes"})", "expected true or false"},
      {R"({"eos_token_id":1000})", "\"eos_token_id\" has 1000, expected token ids from 0 to 999"},
      {R"({"eos_token_id":[2,-1]})", "\"eos_token_id\" has -1"},
      {R"({"lm_head_bias":true})", "\"lm_head_bias\" is true"},
      {R"({"architectures":["MistralForCausalLM"],"sliding_window":0})", "\"sliding_window\" is 0"},
      {R"({"architectures":["Phi3ForCausalLM"],"attention_bias":true})", "\"attention_bias\""},
      {R"({"architectures":["Phi3ForCausalLM"],"partial_rotary_factor":0.01})",
       "0.01 of head_dim 64 is to be rotated"},
      {R"({"architectures":["GemmaForCausalLM"],"hidden_act":"relu"})", "\"hidden_act\" is"},
      {R"({"architectures":["Gemma2ForCausalLM"],"hidden_act":"silu"})",
       "\"hidden_act\" is \"silu\", supported: gelu_pytorch_tanh, "},
      {R"({"architectures":["Gemma3ForCausalLM"],"hidden_act":"gelu_pytorch_tanh",)"
       R"("use_bidirectional_attention":true})",
       "\"use_bidirectional_attention\""},
      {R"({"architectures":["Gemma3ForCausalLM"],"hidden_act":"gelu_pytorch_tanh",)"
       R"("rope_parameters":{"full_attention":{"rope_type":"default"},"odd_attention":{}}})",
       "rope_parameters: keys that are not supported: odd_attention"},
  };
  for (const auto& c : cases) {
    Json json = llama();
    json.merge_patch(Json::parse(c.patch));
    const std::string message = error_of(json);
    EXPECT_THAT(message, AllOf(HasSubstr("config.json: "), HasSubstr(c.message))) << c.patch;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  const struct {
    const char* config;
    const char* message;
  } others[] = {
      {R"({"architectures":["GPT2LMHeadModel"],"n_layer":2,"n_embd":64,"n_positions":128})",
       "\"n_head\" is missing"},
      {R"({"architectures":["GPT2LMHeadModel"],"n_layer":2,"n_embd":64,"n_head":4,"vocab_size":99,)"
       R"("n_positions":128,"scale_attn_by_inverse_layer_idx":true})",
       "\"scale_attn_by_inverse_layer_idx\" is true, only false is supported"},
      {R"({"architectures":["OPTForCausalLM"],"num_hidden_layers":2,"hidden_size":64,)"
       R"("num_attention_heads":4,"ffn_dim":64,"vocab_size":99,"max_position_embeddings":128,)"
       R"("word_embed_proj_dim":32})",
       "\"word_embed_proj_dim\" is 32, only 64 is supported"},
      {R"({"architectures":["OPTForCausalLM"],"num_hidden_layers":2,"hidden_size":64,)"
       R"("num_attention_heads":4,"ffn_dim":64,"vocab_size":99,"max_position_embeddings":128,)"
       R"("activation_function":"mish"})",
       "\"activation_function\" is \"mish\", supported: silu, swish, gelu, "},
      {R"({"architectures":["MixtralForCausalLM"],"num_hidden_layers":2,"hidden_size":64,)"
       R"("num_attention_heads":4,"intermediate_size":64,"vocab_size":99,"rms_norm_eps":1e-5,)"
       R"("max_position_embeddings":128,"num_local_experts":4,"num_experts_per_tok":5})",
       "\"num_experts_per_tok\" 5 is above \"num_local_experts\" 4"},
      {R"({"architectures":["Qwen3MoeForCausalLM"],"num_hidden_layers":2,"hidden_size":64,)"
       R"("num_attention_heads":4,"intermediate_size":64,"vocab_size":99,"rms_norm_eps":1e-5,)"
       R"("max_position_embeddings":128,"num_experts":4,"num_experts_per_tok":2,)"
       R"("moe_intermediate_size":24})",
       "\"moe_intermediate_size\" is 24, expected a multiple of 16"},
      {R"({"architectures":["PhiForCausalLM"],"num_hidden_layers":2,"hidden_size":64,)"
       R"("num_attention_heads":4,"intermediate_size":64,"vocab_size":99,"alibi":true,)"
       R"("max_position_embeddings":128})",
       "\"alibi\" is true, which is not supported for PhiForCausalLM"},
  };
  for (const auto& c : others) {
    EXPECT_THAT(error_of(Json::parse(c.config)),
                AllOf(HasSubstr("config.json: "), HasSubstr(c.message)));
  }
  Json qwen = llama();
  qwen["architectures"] = {"Qwen3ForCausalLM"};
  qwen["use_sliding_window"] = false;
  qwen["sliding_window"] = 64;
  EXPECT_EQ(error_of(qwen), "(read)") << "a window that is not in use";
  Json mistral = llama();
  mistral["architectures"] = {"MistralForCausalLM"};
  mistral["sliding_window"] = nullptr;
  EXPECT_EQ(error_of(mistral), "(read)");
}

std::vector<int> windows_of(const absl::StatusOr<ModelConfig>& c) {
  std::vector<int> windows;
  if (!c.ok()) return {-1};
  for (const LayerConfig& layer : c->layers) windows.push_back(layer.window);
  return windows;
}

TEST_F(ModelConfigTest, WindowsOfEachFamily) {
  Json json = llama();
  json["num_hidden_layers"] = 4;
  EXPECT_THAT(windows_of(read(json)), ElementsAre(0, 0, 0, 0));
  json["architectures"] = {"MistralForCausalLM"};
  EXPECT_THAT(windows_of(read(json)), ElementsAre(4096, 4096, 4096, 4096)) << "when left out";
  json["sliding_window"] = 64;
  EXPECT_THAT(windows_of(read(json)), ElementsAre(64, 64, 64, 64));
  json["architectures"] = {"Qwen2ForCausalLM"};
  EXPECT_THAT(windows_of(read(json)), ElementsAre(0, 0, 0, 0)) << "unless turned on";
  json["use_sliding_window"] = true;
  json["max_window_layers"] = 3;
  EXPECT_THAT(windows_of(read(json)), ElementsAre(0, 0, 0, 64));
  json["layer_types"] = {"full_attention", "sliding_attention", "full_attention",
                         "sliding_attention"};
  EXPECT_THAT(windows_of(read(json)), ElementsAre(0, 64, 0, 64));
  json.erase("layer_types");
  json["hidden_act"] = "gelu_pytorch_tanh";
  json["architectures"] = {"Gemma2ForCausalLM"};
  EXPECT_THAT(windows_of(read(json)), ElementsAre(64, 0, 64, 0));
  json["architectures"] = {"Gemma3ForCausalLM"};
  json["sliding_window_pattern"] = 3;
  const auto gemma3 = read(json);
  EXPECT_THAT(windows_of(gemma3), ElementsAre(64, 64, 0, 64));
  ASSERT_TRUE(gemma3.ok());
  EXPECT_TRUE(gemma3->layers[0].local_rope && !gemma3->layers[2].local_rope);
}

TEST_F(ModelConfigTest, ExtendedContexts) {
  Json json = llama();
  json["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}};
  EXPECT_EQ(read(json)->max_positions, 4 * 2048);
  json["rope_scaling"]["type"] = "dynamic";
  EXPECT_EQ(read(json)->max_positions, 4 * 2048);
  json["rope_scaling"]["type"] = "linear";
  EXPECT_EQ(read(json)->max_positions, 2048) << "says the whole already";
}

TEST_F(ModelConfigTest, KeysWithoutEffectAreNamed) {
  Json json = llama();
  json["num_nextn_predict_layers"] = 1;
  json["new\nkey"] = 1;
  const auto c = read(json);
  ASSERT_TRUE(c.ok());
  EXPECT_THAT(
      c->warnings,
      ElementsAre("config.json: keys that have no effect here: new?key, num_nextn_predict_layers"));
}

TEST_F(ModelConfigTest, TheTextPartOfALargerModel) {
  Json text = llama();
  text["model_type"] = "mistral";
  for (const char* key : {"architectures", "eos_token_id", "tie_word_embeddings", "torch_dtype"})
    text.erase(key);
  Json json = {{"architectures", {"Mistral3ForConditionalGeneration"}},
               {"eos_token_id", 7},
               {"tie_word_embeddings", true},
               {"torch_dtype", "float16"},
               {"vision_config", Json::object()}};
  EXPECT_EQ(error_of(json), "config.json: \"text_config\" is missing, expected an object");
  json["text_config"] = text;
  const auto c = read(json);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->architecture, "Mistral3ForConditionalGeneration");
  EXPECT_THAT(c->eos_ids, ElementsAre(7));
  EXPECT_TRUE(c->tied_embeddings);
  EXPECT_EQ(c->dtype, DType::f16);
  EXPECT_TRUE(c->names.text_part);
  EXPECT_EQ(c->layers[0].window, 4096) << "as for the family";
  json["text_config"]["model_type"] = "ministral3";
  EXPECT_EQ(
      error_of(json),
      "config.json: text_config: \"model_type\" is \"ministral3\", only \"mistral\" is supported");
  json["text_config"]["model_type"] = "mistral";
  json["text_config"]["rope_scaling"] = {{"rope_type", "ntk"}};
  EXPECT_THAT(error_of(json), HasSubstr("config.json: text_config: rope_scaling: rope type is"));
}

// A key by which another family's models differ is no detail that may be left out.
TEST_F(ModelConfigTest, TraitsOfOtherFamiliesAreRefused) {
  Json json = llama();
  json.update({{"clip_qkv", nullptr},
               {"use_qk_norm", false},
               {"logits_scaling", 1.0},
               {"num_experts", 1},
               {"pruned_heads", Json::object()}});
  const auto neutral = read(json);
  ASSERT_TRUE(neutral.ok()) << neutral.status();
  EXPECT_THAT(neutral->warnings, IsEmpty());
  for (const auto& [key, value] : std::vector<std::pair<const char*, Json>>{
           {"clip_qkv", 8.0}, {"use_qk_norm", true}, {"logits_scaling", 8}, {"num_experts", 64}}) {
    Json other = llama();
    other[key] = value;
    EXPECT_EQ(error_of(other),
              fmt::format("config.json: \"{}\" is {}, which is not supported for LlamaForCausalLM",
                          key, value.dump()));
  }
}

TEST_F(ModelConfigTest, GenerationConfigComesFirst) {
  generation(R"({"bos_token_id": 5, "eos_token_id": 7, "do_sample": true, "temperature": 0.6,
                 "top_p": 0.9, "top_k": 20, "min_p": 0, "repetition_penalty": 1.05,
                 "max_new_tokens": 100, "num_beams": 4})");
  const auto c = read(llama());
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_THAT(c->eos_ids, ElementsAre(7));
  EXPECT_EQ(c->bos_id, 5);
  const GenerationDefaults& g = c->generation;
  EXPECT_EQ(g.do_sample, true);
  EXPECT_EQ(g.temperature, 0.6f);
  EXPECT_EQ(g.top_p, 0.9f);
  EXPECT_EQ(g.top_k, 20);
  EXPECT_EQ(g.min_p, 0.0f);
  EXPECT_EQ(g.repetition_penalty, 1.05f);
  EXPECT_EQ(g.max_new_tokens, 100);
  EXPECT_THAT(c->warnings, ElementsAre(HasSubstr("num_beams")));
  generation(R"({"_from_model_config": true})");
  EXPECT_THAT(read(llama())->eos_ids, ElementsAre(2, 3)) << "falls back to config.json";
  for (const auto& [text, message] : std::vector<std::pair<const char*, const char*>>{
           {R"({"top_p": 1.5})", "\"top_p\" is 1.5"},
           {R"({"top_p": 0})", "\"top_p\" is 0"},
           {R"({"temperature": -1})", "\"temperature\" is -1"},
           {R"({"top_k": 0.5})", "\"top_k\" is 0.5"},
           {R"({"eos_token_id": "x"})", "\"eos_token_id\" has \"x\""},
           {R"({"do_sample": 1})", "\"do_sample\" is 1"},
           {R"({)", "not JSON"}}) {
    generation(text);
    EXPECT_THAT(error_of(llama()),
                AllOf(HasSubstr("generation_config.json: "), HasSubstr(message)));
  }
}

TEST_F(ModelConfigTest, FilesThatAreNoConfig) {
  EXPECT_THAT(std::string(message_of(read_model_config(dir_.path()).status())),
              HasSubstr("config.json: no such file"));
  for (const auto& [text, message] : std::vector<std::pair<std::string, const char*>>{
           {"", "not JSON"},
           {"[]", "expected an object, found a list"},
           {"{\"a\":1,\"a\":2}", "key \"a\" occurs twice"},
           {std::string(100, '['), "nested deeper"},
           {"{\"a\":\"" + std::string(2 << 20, 'x') + "\"}", "at most 1048576 are read"}}) {
    write_file(dir_.path() / "config.json", text);
    EXPECT_THAT(std::string(message_of(read_model_config(dir_.path()).status())),
                AllOf(HasSubstr("config.json: "), HasSubstr(message)));
  }
}

}  // namespace
}  // namespace sluice
