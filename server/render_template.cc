#include "server/render_template.h"

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>

#include "server/openai_api.h"
#include "server/openai_fields.h"
#include "text/chat_template.h"

namespace sluice {
namespace {

absl::StatusOr<std::string> read_all(const std::string& path) {
  if (path == "-") return std::string(std::istreambuf_iterator<char>(std::cin), {});
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) return not_found("cannot read {}", path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

absl::Status to_status(const ApiError& error) { return invalid_argument("{}", error.message); }

absl::StatusOr<ChatTemplate> load(const RenderTemplateOptions& options) {
  const std::string& wanted = options.chat_template;
  if (wanted.empty() || !std::filesystem::exists(wanted))
    return ChatTemplate::load(options.model_dir, wanted);
  const absl::StatusOr<std::string> text = read_all(wanted);
  if (!text.ok()) return text.status();
  const absl::StatusOr<ChatTemplate> own = ChatTemplate::load(options.model_dir);
  absl::StatusOr<ChatTemplate> given =
      own.ok() ? own->with_source(*text) : ChatTemplate::compile(*text, "", "");
  if (!given.ok()) return annotate(given.status(), wanted);
  return given;
}

}  // namespace

absl::StatusOr<std::string> render_template(const RenderTemplateOptions& options) {
  const absl::StatusOr<ChatTemplate> chat_template = load(options);
  if (!chat_template.ok()) return chat_template.status();
  const absl::StatusOr<std::string> body = read_all(options.request);
  if (!body.ok()) return body.status();
  Json document;
  if (const MaybeError error = parse_json_object(*body, &document)) return to_status(*error);
  ChatInput input;
  if (const auto tools = document.find("tools"); tools != document.end()) {
    if (!tools->is_null()) input.tools = tools->dump();
    document.erase("tools");
  }
  if (options.as_is && document.contains("messages")) {
    input.messages = document["messages"].dump();
    document["messages"] = Json::parse(R"([{"role":"user","content":""}])");
  }
  ApiRequest request;
  if (const MaybeError error = parse_chat(document.dump(), &request)) return to_status(*error);
  if (!options.as_is) input.messages = request.messages;
  input.kwargs = request.template_kwargs;
  input.name = request.chat_template;
  input.add_generation_prompt = request.add_generation_prompt;
  input.continue_final_message = request.continue_final_message;
  return chat_template->render(input);
}

}  // namespace sluice
