#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "server/openai_api.h"
#include "server/openai_fields.h"

namespace sluice {
namespace {

constexpr std::array<std::string_view, 6> kRoles = {"system",    "developer", "user",
                                                    "assistant", "tool",      "function"};

template <class... Args>
ApiError wrong(std::string_view where, fmt::format_string<Args...> format, Args&&... args) {
  return api_error(ErrorKind::invalid, where, "{} {}", where,
                   fmt::format(format, std::forward<Args>(args)...));
}

// A list of text parts becomes one text, the parts on lines of their own.
MaybeError join_parts(const Json& parts, const std::string& where, std::string* out) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const Json& part = parts[i];
    const std::string here = fmt::format("{}[{}]", where, i);
    if (part.is_string()) {
      *out += (i > 0 ? "\n" : "") + part.get<std::string>();
      continue;
    }
    const auto type = part.is_object() ? part.find("type") : part.end();
    if (!part.is_object() || type == part.end() || !type->is_string())
      return wrong(here, "must be an object with a string field \"type\"");
    if (*type != "text")
      return api_error(ErrorKind::unsupported, here + ".type",
                       "{}: content of type {} is not supported by this model; only \"text\" is",
                       here, quote_value(*type));
    const auto text = part.find("text");
    if (text == part.end() || !text->is_string()) return wrong(here + ".text", "must be a string");
    *out += (i > 0 ? "\n" : "") + text->get<std::string>();
  }
  return std::nullopt;
}

MaybeError normalise_content(Json& message, const std::string& where, bool assistant) {
  const auto content = message.find("content");
  const bool absent = content == message.end() || content->is_null();
  if (absent && !assistant) return wrong(where + ".content", "is required");
  if (absent) {
    message["content"] = "";
    return std::nullopt;
  }
  if (content->is_string()) return std::nullopt;
  if (!content->is_array())
    return wrong(where + ".content", "must be a string or an array of parts, not {}",
                 quote_value(*content));
  std::string text;
  if (MaybeError error = join_parts(*content, where + ".content", &text)) return error;
  message["content"] = std::move(text);
  return std::nullopt;
}

// Templates want a call's arguments as an object; clients send them as JSON text.
MaybeError normalise_calls(Json& message, const std::string& where) {
  const auto calls = message.find("tool_calls");
  if (calls == message.end()) return std::nullopt;
  if (calls->is_null()) {
    message.erase("tool_calls");
    return std::nullopt;
  }
  if (!calls->is_array()) return wrong(where + ".tool_calls", "must be an array");
  for (Json& call : *calls) {
    const auto function = call.is_object() ? call.find("function") : call.end();
    if (!call.is_object() || function == call.end() || !function->is_object() ||
        !function->contains("name") || !(*function)["name"].is_string())
      return wrong(where + ".tool_calls", "must hold objects with function.name");
    const auto arguments = function->find("arguments");
    if (arguments == function->end() || !arguments->is_string()) continue;
    const std::string& text = arguments->get_ref<const std::string&>();
    Json parsed;
    if (!parse_json_object(text, &parsed)) *arguments = std::move(parsed);
  }
  return std::nullopt;
}

MaybeError normalise_message(Json& message, const std::string& where) {
  if (!message.is_object()) return wrong(where, "must be an object, not {}", quote_value(message));
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string())
    return wrong(where + ".role", "must be a string");
  const std::string name = role->get<std::string>();
  if (std::find(kRoles.begin(), kRoles.end(), name) == kRoles.end())
    return wrong(where + ".role", "must be system, developer, user, assistant, tool or function");
  if (name == "developer") *role = "system";
  if (message.contains("name") && !message["name"].is_null() && !message["name"].is_string())
    return wrong(where + ".name", "must be a string");
  if (MaybeError error = normalise_content(message, where, name == "assistant")) return error;
  return normalise_calls(message, where);
}

}  // namespace

MaybeError normalise_messages(std::string_view json, ApiRequest* out) {
  Json document;
  // Wrapped, so that the one parser with limits serves here too.
  if (parse_json_object(fmt::format("{{\"messages\":{}}}", json), &document))
    return api_error(ErrorKind::invalid, "messages", "messages is not valid JSON in UTF-8");
  Json& messages = document["messages"];
  if (!messages.is_array())
    return api_error(ErrorKind::invalid, "messages", "messages must be an array, not {}",
                     quote_value(messages));
  if (messages.empty())
    return api_error(ErrorKind::invalid, "messages", "messages must not be empty");
  for (size_t i = 0; i < messages.size(); ++i) {
    if (MaybeError error = normalise_message(messages[i], fmt::format("messages[{}]", i)))
      return error;
  }
  out->messages = messages.dump();
  return std::nullopt;
}

std::string sorted_json(std::string_view json) { return nlohmann::json::parse(json).dump(); }

}  // namespace sluice
