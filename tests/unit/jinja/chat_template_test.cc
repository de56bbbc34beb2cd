#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace sluice {
namespace {

using testing::HasSubstr;

class ChatTemplateLoad : public testing::Test {
 protected:
  ChatTemplateLoad() {
    dir_ = std::filesystem::temp_directory_path() /
           ("chat_template_test." + std::to_string(getpid()) + "." +
            testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(dir_);
  }
  ~ChatTemplateLoad() override { std::filesystem::remove_all(dir_); }

  void write(const char* name, const std::string& text) { std::ofstream(dir_ / name) << text; }

  std::string rendered() {
    const auto loaded = ChatTemplate::load(dir_);
    if (!loaded.ok()) return "load: " + std::string(message_of(loaded.status()));
    const auto text = loaded->render({.messages = R"([{"role":"user","content":"Hi"}])"});
    return text.ok() ? *text : "render: " + std::string(message_of(text.status()));
  }

  std::filesystem::path dir_;
};

TEST_F(ChatTemplateLoad, StringWithTokensAsText) {
  write("tokenizer_config.json",
        R"({"bos_token": "<s>", "eos_token": "</s>",
            "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"})");
  EXPECT_EQ(rendered(), "<s>Hi</s>");
}

TEST_F(ChatTemplateLoad, ListTakesDefaultAndTokensAsObjects) {
  write("tokenizer_config.json",
        R"({"bos_token": {"content": "<b>", "lstrip": false}, "eos_token": null,
            "pad_token": {"content": "<pad>"},
            "chat_template": [{"name": "tool_use", "template": "no"},
              {"name": "default", "template":
               "{{ bos_token }}|{{ eos_token is defined }}|{{ pad_token }}|{{ messages[0].role }}"}]})");
  EXPECT_EQ(rendered(), "<b>|False|<pad>|user");
}

TEST_F(ChatTemplateLoad, ByName) {
  write("tokenizer_config.json",
        R"({"bos_token": "<s>", "chat_template": [
              {"name": "rag", "template": "rag{{ bos_token }}"},
              {"name": "tool_use", "template": "tools{{ tools | length }}"},
              {"name": "default", "template": "plain"}]})");
  const auto loaded = ChatTemplate::load(dir_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->names(), (std::vector<std::string>{"rag", "tool_use", "default"}));
  EXPECT_EQ(*loaded->render({.messages = "[]"}), "plain");
  EXPECT_EQ(*loaded->render({.messages = "[]", .tools = "[1, 2]"}), "tools2");
  EXPECT_EQ(*loaded->render({.messages = "[]", .tools = "[1]", .name = "default"}), "plain");
  EXPECT_EQ(*loaded->render({.messages = "[]", .name = "rag"}), "rag<s>");
  EXPECT_THAT(std::string(message_of(loaded->render({.messages = "[]", .name = "x"}).status())),
              HasSubstr("no chat template named 'x'"));
  EXPECT_EQ(*loaded->with_source("own{{ bos_token }}")->render({.messages = "[]", .tools = "[]"}),
            "own<s>");
  const auto rag = ChatTemplate::load(dir_, "rag");
  ASSERT_TRUE(rag.ok()) << rag.status();
  EXPECT_EQ(*rag->render({.messages = "[]", .tools = "[1]"}), "rag<s>");
  EXPECT_THAT(std::string(message_of(ChatTemplate::load(dir_, "nope").status())),
              HasSubstr("no chat template named 'nope'; it has rag, tool_use, default"));
  write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "x"}]})");
  EXPECT_THAT(rendered(), HasSubstr("no chat template named 'default'; it has rag"));
}

TEST_F(ChatTemplateLoad, AdditionalFilesAndProcessors) {
  write("chat_template.json", R"({"chat_template": "processor"})");
  EXPECT_EQ(rendered(), "processor");
  write("tokenizer_config.json", R"({"chat_template": "tokenizer"})");
  EXPECT_EQ(rendered(), "tokenizer");
  write("chat_template.jinja", "file");
  std::filesystem::create_directories(dir_ / "additional_chat_templates");
  write("additional_chat_templates/tool_use.jinja", "tools");
  write("additional_chat_templates/notes.txt", "{% not a template");
  EXPECT_EQ(rendered(), "file");
  EXPECT_EQ(*ChatTemplate::load(dir_)->render({.messages = "[]", .tools = "[]"}), "tools");
  write("additional_chat_templates/rag.jinja", "a\n{% if %}");
  EXPECT_THAT(rendered(), HasSubstr("template 'rag': chat template, line 2"));
}

TEST_F(ChatTemplateLoad, FileWins) {
  write("tokenizer_config.json", R"({"bos_token": "<s>", "chat_template": "no"})");
  write("chat_template.jinja", "{{ bos_token }}file\n");
  EXPECT_EQ(rendered(), "<s>file");
}

TEST_F(ChatTemplateLoad, FileAlone) {
  write("chat_template.jinja", "alone");
  EXPECT_EQ(rendered(), "alone");
}

TEST_F(ChatTemplateLoad, Missing) {
  EXPECT_EQ(ChatTemplate::load(dir_).status().code(), absl::StatusCode::kNotFound);
  write("tokenizer_config.json", R"({"bos_token": "<s>"})");
  EXPECT_EQ(ChatTemplate::load(dir_).status().code(), absl::StatusCode::kNotFound);
  write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_EQ(ChatTemplate::load(dir_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ChatTemplateLoad, Broken) {
  for (const char* config :
       {"{", "", "[]]", R"({"chat_template": 5})", R"({"chat_template": []})",
        R"({"chat_template": [{"name": "default"}]})", R"({"chat_template": [1, "x"]})",
        R"({"chat_template": "{{"})", R"({"chat_template": "{% if %}"})"}) {
    write("tokenizer_config.json", config);
    const auto loaded = ChatTemplate::load(dir_);
    ASSERT_FALSE(loaded.ok()) << config;
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kInvalidArgument) << config;
  }
  write("tokenizer_config.json", R"({"chat_template": "a\n{% nosuch %}"})");
  EXPECT_THAT(std::string(message_of(ChatTemplate::load(dir_).status())),
              HasSubstr("line 2: unknown tag 'nosuch'"));
}

std::string render(const char* source, const ChatInput& input) {
  const auto compiled = ChatTemplate::compile(source, "", "");
  if (!compiled.ok()) return std::string(message_of(compiled.status()));
  const auto text = compiled->render(input);
  return text.ok() ? *text : std::string(message_of(text.status()));
}

TEST(ChatTemplate, Variables) {
  EXPECT_EQ(render("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}"
                   "{{ bos_token is defined }}",
                   {.messages = "[]"}),
            "TrueTrueTrueFalse");
  EXPECT_EQ(
      render("{{ tools[0].b }}{{ add_generation_prompt }}",
             {.messages = "[]", .tools = R"([{"z": 1, "b": 2}])", .add_generation_prompt = false}),
      "2False");
  EXPECT_EQ(render("{{ tools | tojson }}",
                   {.messages = "[]", .tools = R"([{"z":1.50,"b":18446744073709551616,"a":-0}])"}),
            R"([{"z": 1.5, "b": 18446744073709551616, "a": 0}])");
  // Extra variables reach the template, and do not replace what the request is made of.
  EXPECT_EQ(render("{{ enable_thinking }}{{ documents }}{{ messages | length }}",
                   {.messages = "[]",
                    .kwargs = R"({"enable_thinking": false, "documents": [1], "messages": [1]})"}),
            "False[1]0");
}

// Reasoning is seen as reasoning_content and as thinking, whatever the client calls it.
TEST(ChatTemplate, NamesOfReasoning) {
  for (const char* name : {"reasoning_content", "thinking", "reasoning"})
    EXPECT_EQ(
        render("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}",
               {.messages = R"([{"role": "assistant", ")" + std::string(name) + R"(": "r"}])"}),
        "rr");
  EXPECT_EQ(render("{{ messages }}", {.messages = R"([{"reasoning": null}, 1])"}),
            "[{'reasoning': None}, 1]");
  EXPECT_EQ(
      render("{{ messages[0] }}", {.messages = R"([{"thinking": "t", "reasoning_content": "r"}])"}),
      "{'thinking': 't', 'reasoning_content': 'r'}");
}

TEST(ChatTemplate, ContinuesTheFinalMessage) {
  const auto continued = [](const char* source, const char* content) {
    return render(source, {.messages = R"([{"role": "assistant", "content": ")" +
                                       std::string(content) + "\"}]",
                           .add_generation_prompt = false,
                           .continue_final_message = true});
  };
  // Not the last place where the text happens to stand: "a" is also in what closes the turn.
  EXPECT_EQ(continued("<{{ messages[0].content }}>assistant", "a"), "<a");
  EXPECT_EQ(continued("<{{ messages[0].content }}>", "a \\n"), "<a \n");
  EXPECT_EQ(continued("<{{ messages[0].content | trim }}>", "a \\n"), "<a");
  for (const char* bad :
       {"nothing", "{{ messages[0].content | length }}", "a{{ messages | length }}"})
    EXPECT_THAT(continued(bad, "a"), HasSubstr("whose text the chat template writes out"));
  EXPECT_THAT(continued("{{ messages[0].content }}", ""), HasSubstr("last message with text"));
  EXPECT_THAT(render("x", {.messages = "[]", .continue_final_message = true}),
              HasSubstr("last message with text"));
}

TEST(ChatTemplate, RefusesBadInput) {
  EXPECT_THAT(render("x", {.messages = "{}"}), HasSubstr("messages"));
  EXPECT_THAT(render("x", {.messages = "["}), HasSubstr("messages"));
  EXPECT_THAT(render("x", {.messages = "[]", .tools = "{"}), HasSubstr("tools"));
  EXPECT_THAT(render("x", {.messages = "[]", .kwargs = "[]"}), HasSubstr("chat_template_kwargs"));
  EXPECT_THAT(render("{{ raise_exception('Only users') }}", {.messages = "[]"}),
              HasSubstr("line 1: Only users"));
}

TEST(ChatTemplate, OneTemplateOnManyThreads) {
  const auto compiled = ChatTemplate::compile(
      "{% set ns = namespace(s='') %}{% macro f(x) %}<{{ x }}>{% endmacro %}"
      "{% for m in messages %}{% set ns.s = ns.s ~ f(m) %}{% endfor %}{{ ns.s }}",
      "", "");
  ASSERT_TRUE(compiled.ok());
  std::vector<std::thread> threads;
  std::vector<int> good(4, 0);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      const std::string n = std::to_string(t);
      for (int i = 0; i < 200; ++i)
        good[static_cast<size_t>(t)] +=
            compiled->render({.messages = "[" + n + "," + n + "]"}).value() ==
            "<" + n + "><" + n + ">";
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, std::vector<int>(4, 200));
}

}  // namespace
}  // namespace sluice
