#include "server/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "engine/make_model.h"
#include "tests/unit/engine/model_files.h"

namespace sluice {
namespace {

using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class InspectTest : public testing::Test {
 protected:
  void make(const std::string& preset, const std::string& dtype = "bf16") {
    ASSERT_TRUE(make_model(preset, 1, dtype, dir_.path()).ok());
  }
  void edit(const char* file, const std::function<void(Json&)>& change) {
    Json json = Json::parse(read_file(dir_.path() / file));
    change(json);
    write_file(dir_.path() / file, json.dump());
  }
  // The header of model.safetensors, over the same bytes.
  void edit_header(const std::function<void(Json&)>& change) {
    const std::string whole = read_file(dir_.path() / "model.safetensors");
    uint64_t size = 0;
    std::memcpy(&size, whole.data(), 8);
    Json header = Json::parse(whole.substr(8, size));
    change(header);
    write_file(dir_.path() / "model.safetensors",
               safetensors_bytes(header.dump(), whole.substr(8 + size)));
  }
  Inspection inspect() {
    auto found = inspect_model(dir_.path());
    EXPECT_TRUE(found.ok()) << found.status();
    json_ = Json::parse(found->json);
    EXPECT_THAT(found->problems, Each(Not(HasSubstr("\n"))));
    EXPECT_EQ(json_["problems"].get<std::vector<std::string>>(), found->problems);
    EXPECT_EQ(json_["can_be_served"], found->problems.empty());
    return *std::move(found);
  }

  TempDir dir_;
  Json json_;
};

TEST_F(InspectTest, SaysWhatIsThere) {
  make("tiny-gemma2");
  const Inspection found = inspect();
  EXPECT_THAT(found.problems, IsEmpty()) << found.text;
  EXPECT_THAT(found.text,
              AllOf(HasSubstr("Gemma2ForCausalLM"), HasSubstr("grouped-query: 4 heads of"),
                    HasSubstr("soft-cap"), HasSubstr("tokens in 1 of 2 layers"),
                    HasSubstr("rotary, default, theta 10000"), HasSubstr("embeddings"),
                    HasSubstr("BPE of bytes"), HasSubstr("passed"), HasSubstr("can be served")));
  make("tiny-qwen2-moe");
  EXPECT_THAT(inspect().text, AllOf(HasSubstr("for each token"), HasSubstr("a shared one")));
  EXPECT_LT(json_["weights"]["active_parameters"], json_["weights"]["parameters"]);
  make("nano", "fp8");
  EXPECT_THAT(inspect().problems, IsEmpty());
  EXPECT_TRUE(json_["weights"]["dtypes"].contains("F8_E4M3"));
}

// Every tensor of every family is of some kind.
TEST_F(InspectTest, KindsComeToAllThatIsStored) {
  for (const std::string& preset : model_preset_names()) {
    if (!preset.starts_with("tiny")) continue;
    make(preset);
    EXPECT_THAT(inspect().problems, IsEmpty()) << preset;
    const Json& weights = json_["weights"];
    int64_t bytes = 0, parameters = 0;
    for (const Json& kind : weights["kinds"]) {
      bytes += kind["bytes"].get<int64_t>();
      parameters += kind["parameters"].get<int64_t>();
    }
    EXPECT_EQ(weights["bytes"], bytes) << preset;
    EXPECT_EQ(weights["parameters"], parameters) << preset;
    EXPECT_EQ(2 * parameters, bytes) << preset << " is bf16";
    EXPECT_THAT(weights["unused_tensors"], IsEmpty()) << preset;
  }
}

TEST_F(InspectTest, SaysEveryReason) {
  make("nano");
  edit("config.json", [](Json& c) {
    c["hidden_act"] = "relu";
    c["partial_rotary_factor"] = 0.5;
    c["clip_qkv"] = 8;
    c["rope_scaling"] = {{"rope_type", "ntk"}, {"factor", 2}};
  });
  edit("generation_config.json", [](Json& c) { c["top_p"] = 2; });
  edit_header([&](Json& header) {
    Json& norm = header["model.layers.0.input_layernorm.weight"];
    norm["shape"] = {norm["shape"][0], 1};
    header["model.layers.0.self_attn.q_proj.odd"] =
        header["model.layers.0.self_attn.q_proj.weight"];
    header.erase("model.layers.0.self_attn.q_proj.weight");
  });
  edit("tokenizer.json", [](Json& t) { t["model"]["type"] = "WordPiece"; });
  write_file(dir_.path() / "chat_template.jinja", "{% if %}");
  const Inspection found = inspect();
  EXPECT_THAT(
      found.problems,
      ElementsAre(
          HasSubstr("config.json: \"hidden_act\" is \"relu\", only \"silu\" is supported"),
          HasSubstr("config.json: \"partial_rotary_factor\" is 0.5"),
          HasSubstr("config.json: rope_scaling: rope type is \"ntk\""),
          HasSubstr("config.json: \"clip_qkv\" is 8, which is not supported for LlamaForCausalLM"),
          HasSubstr("generation_config.json: \"top_p\" is 2"),
          AllOf(HasSubstr("model.safetensors: tensor model.layers.0.self_attn.q_proj.weight ["),
                HasSubstr("is missing")),
          HasSubstr("layers.0.input_layernorm.weight: shape [64, 1], expected [64]"),
          HasSubstr("tokenizer.json: model.type"), HasSubstr("line 1")));
  EXPECT_THAT(found.text, AllOf(HasSubstr("cannot be served, for 9 reasons"), HasSubstr("clip_qkv"),
                                HasSubstr("1 tensors: model.layers.0.self_attn.q_proj.odd"),
                                HasSubstr("default (refused)")));
}

TEST_F(InspectTest, ManyTensorsDoNotHideTheRest) {
  make("tiny-qwen2-moe");
  edit("config.json", [](Json& c) { c["hidden_size"] = 256; });
  write_file(dir_.path() / "chat_template.jinja", "{% if %}");
  const Inspection found = inspect();
  ASSERT_GT(found.problems.size(), 20u);
  EXPECT_THAT(found.text,
              AllOf(HasSubstr(fmt::format("and {} more tensors", found.problems.size() - 9)),
                    HasSubstr(found.problems.back())));
}

TEST_F(InspectTest, WhatFollowsFromAFaultIsNotAnother) {
  make("nano");
  edit("config.json", [](Json& c) { c["hidden_size"] = "wide"; });
  EXPECT_THAT(inspect().problems, ElementsAre(HasSubstr("\"hidden_size\" is \"wide\"")));
  EXPECT_TRUE(json_["model"].is_null());
  EXPECT_GT(json_["weights"]["bytes"], 0);
  make("nano");
  edit_header([](Json& header) {
    header["spare"] = header["model.norm.weight"];
    header.erase("model.norm.weight");
  });
  std::filesystem::rename(dir_.path() / "model.safetensors", dir_.path() / "a.safetensors");
  write_file(dir_.path() / "model.safetensors.index.json",
             R"({"weight_map":{"model.norm.weight":"x.safetensors","spare":"a.safetensors",)"
             R"("more":"y.safetensors"}})");
  EXPECT_THAT(inspect().problems,
              ElementsAre("model.safetensors.index.json: shard x.safetensors is missing",
                          "model.safetensors.index.json: shard y.safetensors is missing"));
}

TEST_F(InspectTest, WhatIsNoModel) {
  EXPECT_THAT(inspect().problems,
              ElementsAre(HasSubstr("config.json: no such file"), HasSubstr("neither model.safe"),
                          HasSubstr("tokenizer.json: no such file")));
  EXPECT_FALSE(inspect_model(dir_.path() / "none").ok());
  write_file(dir_.path() / "config.json", R"({"architectures":["T5ForConditionalGeneration"],)"
                                          R"("quantization_config":{"quant_method":"gptq"}})");
  EXPECT_THAT(inspect().problems,
              ElementsAre(HasSubstr("\"T5ForConditionalGeneration\", supported are"),
                          HasSubstr("\"gptq\""), HasSubstr("neither"), HasSubstr("tokenizer")));
}

}  // namespace
}  // namespace sluice
