// Templates and expressions against what Jinja2 made of them: tests/golden/jinja.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "text/chat_template.h"
#include "text/jinja/program.h"
#include "text/jinja/value.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;

const Json& fixtures() {
  static const Json loaded =
      Json::parse(std::ifstream(SLUICE_SOURCE_DIR "/tests/golden/jinja/fixtures.json"));
  return loaded;
}

ChatInput input_of(const Json& conversation) {
  ChatInput input;
  input.messages = conversation["messages"].dump();
  if (conversation.contains("tools")) input.tools = conversation["tools"].dump();
  input.add_generation_prompt = conversation.value("add_generation_prompt", true);
  Json extra = Json::object();
  for (const auto& [key, value] : conversation.items())
    if (key != "messages" && key != "tools" && key != "add_generation_prompt") extra[key] = value;
  if (!extra.empty()) input.kwargs = extra.dump();
  return input;
}

// `expected` null: Jinja2 refuses the template or fails in it, and so must we.
void expect_same(const absl::StatusOr<std::string>& got, const Json& expected,
                 const std::string& what) {
  if (expected.is_null()) {
    EXPECT_FALSE(got.ok()) << what << "\nrendered: " << *got;
    if (!got.ok()) {
      EXPECT_EQ(got.status().code(), absl::StatusCode::kInvalidArgument) << what;
    }
    return;
  }
  ASSERT_TRUE(got.ok()) << what << "\n" << got.status();
  EXPECT_EQ(*got, expected.get<std::string>()) << what;
}

TEST(JinjaGolden, Templates) {
  ASSERT_GE(fixtures()["templates"].size(), 90u);
  for (const Json& entry : fixtures()["templates"]) {
    const std::string name = entry["name"];
    const auto compiled = ChatTemplate::compile(entry["source"].get<std::string>(), "<s>", "</s>");
    ASSERT_TRUE(compiled.ok()) << name << ": " << compiled.status();
    for (const auto& [title, expected] : entry["expected"].items()) {
      const ChatInput input = input_of(fixtures()["conversations"][title]);
      expect_same(compiled->render(input), expected, name + " / " + title);
    }
  }
}

// The fixtures hold the template that the demo model has today.
TEST(JinjaGolden, DemoModel) {
  const Json config =
      Json::parse(std::ifstream(SLUICE_SOURCE_DIR "/deploy/demo-model/tokenizer_config.json"));
  for (const Json& entry : fixtures()["templates"])
    if (entry["name"] == "demo-model") {
      EXPECT_EQ(entry["source"], config["chat_template"]) << "run make_fixtures.py again";
      return;
    }
  FAIL() << "no fixtures for the demo model";
}

TEST(JinjaGolden, Expressions) {
  ASSERT_GE(fixtures()["expressions"].size(), 200u);
  jinja::Variables variables;
  for (const auto& [name, value] : fixtures()["variables"].items()) {
    // The one number that a JSON library would not give back as it came.
    const std::string text = name == "big" ? "123456789012345678901234567890" : value.dump();
    variables.emplace_back(name, *jinja::parse_json(text, name));
  }
  for (const Json& entry : fixtures()["expressions"]) {
    const std::string source = entry[0];
    const auto program = jinja::Program::compile(source);
    expect_same(program.ok() ? program->render(variables) : program.status(), entry[1], source);
  }
}

}  // namespace
}  // namespace sluice
