// A chat template that somebody downloaded: whatever it is, it compiles and renders or is refused
// in words, within its limits.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "text/chat_template.h"
#include "text/jinja/program.h"
#include "text/jinja/utf8.h"
#include "text/jinja/value.h"

namespace sluice {
namespace {

constexpr std::string_view kMessages = R"([
  {"role": "system", "content": "Be kind.\n"},
  {"role": "user", "content": [{"type": "text", "text": "H\u00e9llo"}, {"type": "image"}]},
  {"role": "assistant", "content": null, "reasoning_content": "<think>x</think>", "tool_calls": [
    {"id": "c1", "function": {"name": "f", "arguments": {"a": [1, 2.5, null, true]}}}]},
  {"role": "tool", "name": "f", "tool_call_id": "c1", "content": "12345678901234567890123"}])";
constexpr std::string_view kTools =
    R"([{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {}}}}}])";

const jinja::Variables& variables() {
  static const jinja::Variables made = {
      {"messages", *jinja::parse_json(kMessages, "messages")},
      {"tools", *jinja::parse_json(kTools, "tools")},
      {"documents", *jinja::parse_json(R"([{"title": "t", "text": "x"}])", "documents")},
      {"bos_token", jinja::make_string("<s>")},
      {"add_generation_prompt", jinja::Value(true)},
  };
  return made;
}

}  // namespace

void fuzz_one(std::string_view source) {
  jinja::Limits limits;  // those of the daemon, but for what makes a run slow
  limits.steps = 200'000;
  limits.total_bytes = 16 << 20;
  limits.output_bytes = limits.value_bytes = 1 << 20;
  const auto program = jinja::Program::compile(source, limits);
  const auto text = program.ok() ? program->render(variables()) : program.status();
  if (text.ok()) {
    CHECK(text->size() <= limits.output_bytes && jinja::utf8::valid(*text));
  } else {
    CHECK(text.status().code() == absl::StatusCode::kInvalidArgument);
    CHECK(message_of(text.status()).size() < (1 << 21));
  }
}

}  // namespace sluice
