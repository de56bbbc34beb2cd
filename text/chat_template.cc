#include "text/chat_template.h"

#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include "text/jinja/program.h"
#include "text/jinja/value.h"

namespace sluice {
namespace {

using jinja::Value;
using jinja::Variables;

constexpr size_t kMaxConfigBytes = 64 << 20;

absl::StatusOr<std::string> read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return not_found("{}: cannot be read", path.string());
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error || size > kMaxConfigBytes)
    return invalid_argument("{}: larger than {} bytes", path.string(), kMaxConfigBytes);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

const Value* member(const Value& object, std::string_view key) {
  return object.is_dict() ? object.dict().find(key) : nullptr;
}

// A special token is written as its text or as {"content": its text, ...}.
std::string token_text(const Value& config, std::string_view key) {
  const Value* token = member(config, key);
  if (token != nullptr && token->is_dict()) token = member(*token, "content");
  return token != nullptr && token->is_string() ? token->text() : "";
}

// The text of tokenizer_config.json's chat_template: a string, or a list of named ones.
absl::StatusOr<std::string> template_text(const Value& config) {
  const Value* found = member(config, "chat_template");
  if (found == nullptr || found->is_none())
    return not_found(
        "the model has no chat template: neither chat_template.jinja nor "
        "chat_template in tokenizer_config.json");
  if (found->is_string()) return found->text();
  if (!found->is_list())
    return invalid_argument("tokenizer_config.json: chat_template is neither a string nor a list");
  for (const Value& entry : found->list().items) {
    const Value* name = member(entry, "name");
    const Value* text = member(entry, "template");
    if (name != nullptr && name->is_string() && name->text() == "default" && text != nullptr &&
        text->is_string())
      return text->text();
  }
  return invalid_argument("tokenizer_config.json: chat_template has no entry named default");
}

}  // namespace

struct ChatTemplate::Program {
  jinja::Program code;
  // Special tokens by name; those a model lacks are undefined in its template, as in transformers.
  std::vector<std::pair<std::string, std::string>> tokens;
};

absl::StatusOr<ChatTemplate> ChatTemplate::compile(std::string_view source, std::string bos,
                                                   std::string eos) {
  auto code = jinja::Program::compile(source);
  if (!code.ok()) return code.status();
  auto program = std::make_shared<Program>(Program{*std::move(code), {}});
  if (!bos.empty()) program->tokens.emplace_back("bos_token", std::move(bos));
  if (!eos.empty()) program->tokens.emplace_back("eos_token", std::move(eos));
  ChatTemplate result;
  result.program_ = std::move(program);
  return result;
}

absl::StatusOr<ChatTemplate> ChatTemplate::load(const std::filesystem::path& model_dir) {
  Value config;
  const auto config_path = model_dir / "tokenizer_config.json";
  if (std::filesystem::exists(config_path)) {
    const auto text = read_file(config_path);
    if (!text.ok()) return text.status();
    auto parsed = jinja::parse_json(*text, config_path.string());
    if (!parsed.ok()) return parsed.status();
    config = *std::move(parsed);
  }
  const auto jinja_path = model_dir / "chat_template.jinja";
  const auto source =
      std::filesystem::exists(jinja_path) ? read_file(jinja_path) : template_text(config);
  if (!source.ok()) return source.status();
  auto result = compile(*source, token_text(config, "bos_token"), token_text(config, "eos_token"));
  if (!result.ok()) return annotate(result.status(), model_dir.string());
  auto program = std::make_shared<Program>(*result->program_);
  for (const char* name : {"unk_token", "pad_token", "sep_token", "cls_token", "mask_token"})
    if (std::string text = token_text(config, name); !text.empty())
      program->tokens.emplace_back(name, std::move(text));
  result->program_ = std::move(program);
  return result;
}

absl::StatusOr<std::string> ChatTemplate::render(const ChatInput& input) const {
  Variables variables;
  variables.emplace_back("documents", Value());
  for (const auto& [name, text] : program_->tokens)
    variables.emplace_back(name, jinja::make_string(text));
  auto messages = jinja::parse_json(input.messages, "messages");
  if (!messages.ok()) return messages.status();
  if (!messages->is_list()) return invalid_argument("messages: must be an array");
  Value tools;
  if (!input.tools.empty()) {
    auto parsed = jinja::parse_json(input.tools, "tools");
    if (!parsed.ok()) return parsed.status();
    tools = *std::move(parsed);
  }
  if (!input.kwargs.empty()) {
    const auto extra = jinja::parse_json(input.kwargs, "chat_template_kwargs");
    if (!extra.ok()) return extra.status();
    if (!extra->is_dict()) return invalid_argument("chat_template_kwargs: must be an object");
    for (const auto& [key, value] : extra->dict().entries)
      variables.emplace_back(key.text(), value);
  }
  // Last, so that extra variables cannot replace them.
  variables.emplace_back("messages", *std::move(messages));
  variables.emplace_back("tools", std::move(tools));
  variables.emplace_back("add_generation_prompt", Value(input.add_generation_prompt));
  return program_->code.render(variables);
}

}  // namespace sluice
