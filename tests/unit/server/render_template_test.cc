#include "server/render_template.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace sluice {
namespace {

// What `sluice render-template` prints.
TEST(RenderTemplate, IsThePromptOfARequest) {
  const auto dir =
      std::filesystem::temp_directory_path() / ("render_template_test." + std::to_string(getpid()));
  std::filesystem::create_directories(dir);
  std::ofstream(dir / "tokenizer_config.json") << R"({"bos_token":"<s>","chat_template":[
      {"name":"default","template":"{{ bos_token }}{{ messages[0].content }}{{ tools is none }}"},
      {"name":"tool_use","template":"{{ tools | tojson }}{{ add_generation_prompt }}"}]})";
  std::ofstream(dir / "own.jinja") << "{{ bos_token }}{{ x }}";
  const auto rendered = [&](const std::string& body, const std::string& name, bool as_is) {
    std::ofstream(dir / "request.json") << body;
    const auto text = render_template(
        {.model_dir = dir, .chat_template = name, .request = dir / "request.json", .as_is = as_is});
    return text.ok() ? *text : "error: " + std::string(message_of(text.status()));
  };
  const std::string parts =
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}])";
  EXPECT_EQ(rendered(parts + "}", "", false), "<s>aTrue");
  EXPECT_EQ(rendered(parts + "}", "", true), "<s>[{'type': 'text', 'text': 'a'}]True");
  EXPECT_EQ(
      rendered(parts + R"(,"tools":[{"z":1,"a":2}],"add_generation_prompt":false})", "", false),
      R"([{"z": 1, "a": 2}]False)");
  EXPECT_EQ(rendered(parts + R"(,"tools":[],"chat_template":"default"})", "", false), "<s>aFalse");
  EXPECT_EQ(rendered(parts + R"(,"chat_template_kwargs":{"x":1}})", dir / "own.jinja", false),
            "<s>1");
  EXPECT_TRUE(rendered(parts + "}", "rag", false).starts_with("error: ")) << "no such template";
  EXPECT_TRUE(rendered("{", "", false).starts_with("error: ")) << "no JSON";
  EXPECT_TRUE(rendered("{}", "", true).starts_with("error: messages")) << "no messages";
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace sluice
