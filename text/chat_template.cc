#include "text/chat_template.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include "text/jinja/program.h"
#include "text/jinja/utf8.h"
#include "text/jinja/value.h"

namespace sluice {
namespace {

using jinja::DictObject;
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

using Named = std::vector<std::pair<std::string, std::string>>;  // templates by name

// Those of a JSON file's chat_template, a string or a list of named ones; none when it has none.
absl::StatusOr<Named> templates_in(const Value& config, const std::string& file) {
  const Value* found = member(config, "chat_template");
  if (found == nullptr || found->is_none()) return Named();
  if (found->is_string()) return Named{{"default", found->text()}};
  if (!found->is_list())
    return invalid_argument("{}: chat_template is neither a string nor a list", file);
  Named named;
  for (const Value& entry : found->list().items) {
    const Value* name = member(entry, "name");
    const Value* text = member(entry, "template");
    if (name == nullptr || !name->is_string() || text == nullptr || !text->is_string())
      return invalid_argument(
          "{}: chat_template[{}] is not an object with the strings name and template", file,
          named.size());
    named.emplace_back(name->text(), text->text());
  }
  if (named.empty()) return invalid_argument("{}: chat_template is an empty list", file);
  return named;
}

absl::StatusOr<Value> read_json(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Value();
  const auto text = read_file(path);
  if (!text.ok()) return text.status();
  return jinja::parse_json(*text, path.string());
}

// chat_template.jinja is the default one, additional_chat_templates/NAME.jinja are the others.
absl::StatusOr<Named> template_files(const std::filesystem::path& model_dir) {
  std::vector<std::pair<std::string, std::filesystem::path>> files;
  if (const auto path = model_dir / "chat_template.jinja"; std::filesystem::exists(path))
    files.emplace_back("default", path);
  std::error_code none;  // where there is no such directory
  for (const auto& entry :
       std::filesystem::directory_iterator(model_dir / "additional_chat_templates", none))
    if (entry.path().extension() == ".jinja")
      files.emplace_back(entry.path().stem().string(), entry.path());
  std::sort(files.begin(), files.end());
  Named named;
  for (const auto& [name, path] : files) {
    auto text = read_file(path);
    if (!text.ok()) return text.status();
    named.emplace_back(name, *std::move(text));
  }
  return named;
}

// As transformers: files before tokenizer_config.json. The processor's chat_template.json is last.
absl::StatusOr<Named> find_templates(const std::filesystem::path& model_dir, const Value& config) {
  auto named = template_files(model_dir);
  if (!named.ok() || !named->empty()) return named;
  named = templates_in(config, "tokenizer_config.json");
  if (!named.ok() || !named->empty()) return named;
  const auto processor = read_json(model_dir / "chat_template.json");
  if (!processor.ok()) return processor.status();
  named = templates_in(*processor, "chat_template.json");
  if (!named.ok() || !named->empty()) return named;
  return not_found(
      "the model has no chat template: neither chat_template.jinja nor chat_template in "
      "tokenizer_config.json");
}

absl::Status no_template(const std::filesystem::path& model_dir, std::string_view wanted,
                         const Named& named) {
  std::string names;
  for (const auto& [name, text] : named) names += (names.empty() ? "" : ", ") + name;
  return invalid_argument("{}: no chat template named '{}'; it has {}", model_dir.string(), wanted,
                          names);
}

absl::StatusOr<jinja::Program> compile_named(const std::filesystem::path& model_dir,
                                             const std::string& name, const std::string& text) {
  auto code = jinja::Program::compile(text);
  if (code.ok()) return code;
  return annotate(code.status(), name == "default"
                                     ? model_dir.string()
                                     : model_dir.string() + ": template '" + name + "'");
}

// A copy of `message` with one field set.
Value with_field(const Value& message, std::string_view key, Value v) {
  auto copy = std::make_shared<DictObject>(message.dict());
  copy->set(jinja::make_string(std::string(key)), std::move(v));
  return Value(std::move(copy));
}

// Reasoning goes by several names; as transformers, a template sees it under two of them.
Value with_reasoning(const Value& message) {
  if (!message.is_dict()) return message;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const Value* found = member(message, name);
    if (found == nullptr || found->is_none()) continue;
    auto copy = std::make_shared<DictObject>();
    copy->set(jinja::make_string("thinking"), *found);
    for (const auto& [key, value] : message.dict().entries) copy->set(key, value);
    copy->set(jinja::make_string("reasoning_content"), *found);
    return Value(std::move(copy));
  }
  return message;
}

std::string_view stripped(std::string_view text) { return jinja::utf8::strip(text, true, true); }

// Stands at the end of the message to be continued, to be found in the text. The blank shows
// whether the template trims.
constexpr std::string_view kContinueMark = "CONTINUE_FINAL_MESSAGE_TAG ";

absl::StatusOr<std::string> cut_at_mark(std::string text, std::string_view final_text) {
  const size_t at = text.rfind(stripped(kContinueMark));
  if (at == std::string::npos || text.find(stripped(final_text)) == std::string::npos)
    return invalid_argument(
        "continue_final_message needs a last message whose text the chat template writes out");
  const bool kept = std::string_view(text).substr(at).starts_with(kContinueMark);
  text.resize(at);
  if (!kept) text.resize(jinja::utf8::strip(text, false, true).size());
  return text;
}

}  // namespace

struct ChatTemplate::Programs {
  std::vector<std::pair<std::string, jinja::Program>> named;  // the one for all uses first
  // Special tokens by name; those a model lacks are undefined in its template, as in transformers.
  std::vector<std::pair<std::string, std::string>> tokens;

  const jinja::Program* find(std::string_view name) const {
    for (const auto& [other, program] : named)
      if (other == name) return &program;
    return nullptr;
  }
};

absl::StatusOr<ChatTemplate> ChatTemplate::compile(std::string_view source, std::string bos,
                                                   std::string eos) {
  auto code = jinja::Program::compile(source);
  if (!code.ok()) return code.status();
  auto programs = std::make_shared<Programs>();
  programs->named.emplace_back("default", *std::move(code));
  if (!bos.empty()) programs->tokens.emplace_back("bos_token", std::move(bos));
  if (!eos.empty()) programs->tokens.emplace_back("eos_token", std::move(eos));
  ChatTemplate result;
  result.programs_ = std::move(programs);
  return result;
}

absl::StatusOr<ChatTemplate> ChatTemplate::load(const std::filesystem::path& model_dir,
                                                std::string_view chosen) {
  const auto config = read_json(model_dir / "tokenizer_config.json");
  if (!config.ok()) return config.status();
  const auto named = find_templates(model_dir, *config);
  if (!named.ok()) return named.status();
  auto programs = std::make_shared<Programs>();
  for (const auto& [name, text] : *named) {
    if (!chosen.empty() && name != chosen) continue;
    auto code = compile_named(model_dir, name, text);
    if (!code.ok()) return code.status();
    programs->named.emplace_back(name, *std::move(code));
  }
  if (chosen.empty()) chosen = "default";
  if (programs->find(chosen) == nullptr) return no_template(model_dir, chosen, *named);
  for (const char* name :
       {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"})
    if (std::string text = token_text(*config, name); !text.empty())
      programs->tokens.emplace_back(name, std::move(text));
  ChatTemplate result;
  result.programs_ = std::move(programs);
  return result;
}

absl::StatusOr<std::vector<ChatTemplate::Reviewed>> ChatTemplate::review(
    const std::filesystem::path& model_dir) {
  const auto config = read_json(model_dir / "tokenizer_config.json");
  if (!config.ok()) return config.status();
  const auto named = find_templates(model_dir, *config);
  if (!named.ok()) return named.status();
  std::vector<Reviewed> result;
  bool has_default = false;
  for (const auto& [name, text] : *named) {
    result.push_back({name, compile_named(model_dir, name, text).status()});
    has_default |= name == "default";
  }
  if (!has_default) result.push_back({"default", no_template(model_dir, "default", *named)});
  return result;
}

absl::StatusOr<ChatTemplate> ChatTemplate::with_source(std::string_view source) const {
  auto code = jinja::Program::compile(source);
  if (!code.ok()) return code.status();
  auto programs = std::make_shared<Programs>();
  programs->named.emplace_back("default", *std::move(code));
  programs->tokens = programs_->tokens;
  ChatTemplate result;
  result.programs_ = std::move(programs);
  return result;
}

std::vector<std::string> ChatTemplate::names() const {
  std::vector<std::string> names;
  for (const auto& [name, program] : programs_->named) names.push_back(name);
  return names;
}

absl::StatusOr<std::string> ChatTemplate::render(const ChatInput& input) const {
  Variables variables;
  variables.emplace_back("documents", Value());
  for (const auto& [name, text] : programs_->tokens)
    variables.emplace_back(name, jinja::make_string(text));
  auto parsed_messages = jinja::parse_json(input.messages, "messages");
  if (!parsed_messages.ok()) return parsed_messages.status();
  if (!parsed_messages->is_list()) return invalid_argument("messages: must be an array");
  auto messages = std::make_shared<jinja::ListObject>();
  for (const Value& message : parsed_messages->list().items) messages->add(with_reasoning(message));
  std::string final_text;
  if (input.continue_final_message) {
    const Value* content =
        messages->items.empty() ? nullptr : member(messages->items.back(), "content");
    if (content == nullptr || !content->is_string() || stripped(content->text()).empty())
      return invalid_argument("continue_final_message needs a last message with text");
    final_text = content->text();
    Value& last = messages->items.back();
    last = with_field(last, "content", jinja::make_string(final_text + std::string(kContinueMark)));
  }
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
  const jinja::Program* program = nullptr;
  if (!input.name.empty()) {
    program = programs_->find(input.name);
    if (program == nullptr)
      return invalid_argument("the model has no chat template named '{}'", input.name);
  } else {
    if (!tools.is_none()) program = programs_->find("tool_use");
    if (program == nullptr) program = programs_->find("default");
    if (program == nullptr) program = &programs_->named.front().second;
  }
  // Last, so that extra variables cannot replace them.
  variables.emplace_back("messages", Value(std::move(messages)));
  variables.emplace_back("tools", std::move(tools));
  variables.emplace_back("add_generation_prompt", Value(input.add_generation_prompt));
  auto text = program->render(variables);
  if (!text.ok() || !input.continue_final_message) return text;
  return cut_at_mark(*std::move(text), final_text);
}

}  // namespace sluice
