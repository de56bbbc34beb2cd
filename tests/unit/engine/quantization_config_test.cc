// What config.json says of quantised weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/model_config.h"
#include "tests/unit/engine/model_config_fixture.h"

namespace sluice {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// As llm-compressor writes it.
Json compressed() {
  return Json::parse(R"({
    "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
    "kv_cache_scheme": null, "quantization_status": "compressed", "global_compression_ratio": 1.5,
    "version": "0.12.2", "sparsity_config": {}, "transform_config": {},
    "config_groups": {"group_0": {
      "format": "float-quantized", "output_activations": null, "targets": ["Linear"],
      "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": true,
                  "dynamic": false, "actorder": null, "block_structure": null, "group_size": null,
                  "observer": "minmax", "observer_kwargs": {}},
      "input_activations": {"num_bits": 8, "type": "float", "strategy": "token",
                            "symmetric": true, "dynamic": true, "actorder": null,
                            "block_structure": null, "group_size": null, "observer": null,
                            "observer_kwargs": {}}}}})");
}

TEST_F(ModelConfigTest, ReadsFp8Quantisation) {
  const auto with = [&](const char* patch) {
    Json json = llama();
    json["quantization_config"] = compressed();
    json["quantization_config"].merge_patch(Json::parse(patch));
    return read(json);
  };
  for (
      const char* patch :
      {"{}", R"({"config_groups":{"group_0":{"weights":{"strategy":"tensor"}}}})",
       R"({"config_groups":{"group_0":{"input_activations":{"dynamic":false,"strategy":"tensor"}}}})",
       R"({"sparsity_config":{"format":"dense","targets":[]},"quantization_status":"frozen"})",
       R"({"ignore":["re:.*gate","lm_head"],"version":null})"}) {
    const auto c = with(patch);
    ASSERT_TRUE(c.ok()) << patch << c.status();
    EXPECT_THAT(c->warnings, IsEmpty()) << patch;
  }
  EXPECT_FALSE(with("{}")->fp8_cache);
  const auto cache = with(R"({"kv_cache_scheme":{"num_bits":8,"type":"float","strategy":"tensor",
                              "dynamic":false,"symmetric":true,"observer":"minmax"}})");
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_TRUE(cache->fp8_cache);
  const auto weights_only = with(R"({"config_groups":{"group_0":{"input_activations":null}}})");
  ASSERT_TRUE(weights_only.ok());
  EXPECT_THAT(weights_only->warnings, ElementsAre(HasSubstr("quantises them too")));
  Json json = llama();
  json["compression_config"] = compressed();  // the older name
  EXPECT_EQ(error_of(json), "(read)");
  for (
      const char* fp8 :
      {R"({"quant_method":"fp8","activation_scheme":"static"})",
       R"({"quant_method":"fp8","activation_scheme":"dynamic","fmt":"e4m3","ignored_layers":["lm_head"],
            "modules_to_not_convert":null,"weight_block_size":null,"kv_cache_scheme":null})"}) {
    json = llama();
    json["quantization_config"] = Json::parse(fp8);
    EXPECT_EQ(error_of(json), "(read)");
  }
}

TEST_F(ModelConfigTest, OtherQuantisationIsRefusedByName) {
  const struct {
    const char* patch;  // of compressed()
    const char* message;
  } cases[] = {
      {R"({"format":"pack-quantized"})", ": \"format\" is \"pack-quantized\", supported: \"float-"},
      {R"({"format":null})", ": \"format\" is null"},
      {R"({"quantization_status":"calibration"})", "\"quantization_status\" is \"calibration\""},
      {R"({"kv_cache_scheme":"fp8"})", ".kv_cache_scheme: is \"fp8\", expected an object"},
      {R"({"kv_cache_scheme":{"num_bits":8,"type":"int","strategy":"tensor"}})",
       ".kv_cache_scheme: \"type\" is \"int\", supported: \"float\""},
      {R"({"kv_cache_scheme":{"num_bits":8,"type":"float","strategy":"attn_head"}})",
       ".kv_cache_scheme: \"strategy\" is \"attn_head\", supported: \"tensor\""},
      {R"({"kv_cache_scheme":{"num_bits":8,"type":"float","strategy":"tensor","dynamic":true}})",
       ".kv_cache_scheme: \"dynamic\" is true"},
      {R"({"sparsity_config":{"format":"sparse-24-bitmask"}})",
       "\"sparsity_config\" is of format \"sparse-24-bitmask\", only one of format \"dense\""},
      {R"({"sparsity_config":"2:4"})", "\"sparsity_config\" is \"2:4\""},
      {R"({"transform_config":{"config_groups":{"u":{}}}})", "\"transform_config\" is an object"},
      {R"({"ignore":"lm_head"})", "\"ignore\" is \"lm_head\", expected a list of names"},
      {R"({"ignore":["lm_head",3]})", "\"ignore\" is a list, expected a list of names"},
      {R"({"surprise":1})", "quantization_config: key \"surprise\" is not supported"},
      {R"({"config_groups":null})", "\"config_groups\" is null, expected an object of groups"},
      {R"({"config_groups":{"group_0":null}})", "\"config_groups\" is empty"},
      {R"({"config_groups":{"group_1":7}})", "config_groups.group_1: is 7, expected an object"},
      {R"({"config_groups":{"group_1":{"weights":{"num_bits":4,"type":"int","strategy":"group"}}}})",
       "config_groups.group_1.weights: \"num_bits\" is 4, supported: 8"},
      {R"({"config_groups":{"group_0":{"weights":null}}})", "group_0.weights: is null"},
      {R"({"config_groups":{"group_0":{"weights":{"type":"int"}}}})", "\"type\" is \"int\""},
      {R"({"config_groups":{"group_0":{"weights":{"strategy":"block"}}}})",
       ".weights: \"strategy\" is \"block\", supported: \"tensor\", \"channel\""},
      {R"({"config_groups":{"group_0":{"weights":{"symmetric":false}}}})",
       "\"symmetric\" is false"},
      {R"({"config_groups":{"group_0":{"weights":{"dynamic":true}}}})", "\"dynamic\" is true"},
      {R"({"config_groups":{"group_0":{"weights":{"group_size":128}}}})", "\"group_size\" is 128"},
      {R"({"config_groups":{"group_0":{"weights":{"block_structure":[128,128]}}}})",
       "\"block_structure\" is a list"},
      {R"({"config_groups":{"group_0":{"weights":{"actorder":"group"}}}})", "\"actorder\""},
      {R"({"config_groups":{"group_0":{"weights":{"blocks":1}}}})", "key \"blocks\""},
      {R"({"config_groups":{"group_0":{"targets":3}}})", "\"targets\" is 3"},
      {R"({"config_groups":{"group_0":{"format":"int-quantized"}}})",
       "group_0: \"format\" is \"int-quantized\""},
      {R"({"config_groups":{"group_0":{"output_activations":{}}}})", "\"output_activations\""},
      {R"({"config_groups":{"group_0":{"input_activations":{"num_bits":4}}}})",
       ".input_activations: \"num_bits\" is 4"},
      {R"({"config_groups":{"group_0":{"input_activations":{"strategy":"group"}}}})",
       ".input_activations: \"strategy\" is \"group\", supported: \"token\", \"tensor\""},
      {R"({"config_groups":{"group_0":{"input_activations":{"dynamic":"local"}}}})",
       "\"dynamic\" is \"local\""},
  };
  Json json = llama();
  for (const auto& c : cases) {
    json["quantization_config"] = compressed();
    json["quantization_config"].merge_patch(Json::parse(c.patch));
    EXPECT_THAT(error_of(json),
                AllOf(HasSubstr("config.json: quantization_config"), HasSubstr(c.message)));
  }
  const std::pair<const char*, const char*> simple[] = {
      {R"({"weight_block_size":[128,128]})", "\"weight_block_size\" is a list, supported: null"},
      {R"({"activation_scheme":null})", "\"activation_scheme\" is null"},
      {R"({"fmt":"e5m2"})", "\"fmt\" is \"e5m2\""},
      {R"({"kv_cache_scheme":"fp8"})", "\"kv_cache_scheme\" is \"fp8\""},
      {R"({"ignored_layers":{}})", "\"ignored_layers\" is an object, expected a list of names"},
      {R"({"modules_to_not_convert":[1]})", "\"modules_to_not_convert\" is a list"},
      {R"({"bits":8})", "key \"bits\" is not supported"},
  };
  for (const auto& [patch, message] : simple) {
    json["quantization_config"] = {{"quant_method", "fp8"}, {"activation_scheme", "dynamic"}};
    json["quantization_config"].merge_patch(Json::parse(patch));
    EXPECT_THAT(error_of(json), HasSubstr(message));
  }
}

}  // namespace
}  // namespace sluice
