#include "server/openai_api.h"

#include <utility>

#include "server/openai_fields.h"

namespace sluice {
namespace {

// Ids of one prompt. Ids that no vocabulary can have are refused here, the others by the front end.
MaybeError read_ids(const Json& list, const std::string& where, std::vector<TokenId>* out) {
  out->reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const std::optional<int64_t> id = to_integer(list[i]);
    if (!id)
      return api_error(ErrorKind::invalid, where, "{}[{}] must be a token id, not {}", where, i,
                       quote_value(list[i]));
    if (*id < 0 || *id > INT32_MAX)
      return api_error(ErrorKind::invalid, where, "{}[{}]: token id {} is out of range", where, i,
                       *id);
    out->push_back(static_cast<TokenId>(*id));
  }
  return std::nullopt;
}

MaybeError read_prompts(const Json& prompt, ApiRequest* out) {
  if (prompt.is_string()) {
    out->prompts.push_back({prompt.get<std::string>()});
    return std::nullopt;
  }
  if (!prompt.is_array() || prompt.empty())
    return api_error(ErrorKind::invalid, "prompt",
                     "prompt must be a string, a list of strings, a list of token ids or a list of "
                     "such lists, and not empty");
  if (prompt.front().is_number()) {
    out->prompts.push_back({"", {}, true});
    return read_ids(prompt, "prompt", &out->prompts.back().ids);
  }
  for (size_t i = 0; i < prompt.size(); ++i) {
    const Json& item = prompt[i];
    if (item.is_string()) {
      out->prompts.push_back({item.get<std::string>()});
    } else if (item.is_array()) {
      out->prompts.push_back({"", {}, true});
      if (MaybeError error =
              read_ids(item, fmt::format("prompt[{}]", i), &out->prompts.back().ids)) {
        error->param = "prompt";
        return error;
      }
    } else {
      return api_error(ErrorKind::invalid, "prompt",
                       "prompt[{}] must be a string or a list of token ids, not {}", i,
                       quote_value(item));
    }
  }
  return std::nullopt;
}

void read_messages(Fields& fields, ApiRequest* out) {
  const Json* messages = fields.find("messages");
  if (messages == nullptr) {
    fields.fail(ErrorKind::invalid, "messages", "messages is required");
    return;
  }
  if (MaybeError error = normalise_messages(messages->dump(), out))
    fields.fail(error->kind, error->param, error->message);
}

// Tools need constrained output, which this server does not have; asking for none is fine.
void refuse_tools(Fields& fields) {
  fields.refuse("tools");
  fields.refuse("functions");
  for (const char* name : {"tool_choice", "function_call"}) {
    const Json* value = fields.find(name);
    if (value != nullptr && *value != "none" && *value != "auto")
      fields.fail(ErrorKind::unsupported, name,
                  std::string(name) + " is not supported by this server");
  }
  bool parallel = true;
  fields.read("parallel_tool_calls", &parallel);
}

void read_template_fields(Fields& fields, ApiRequest* out) {
  fields.read("add_generation_prompt", &out->add_generation_prompt);
  fields.read("continue_final_message", &out->continue_final_message);
  if (out->continue_final_message && fields.find("add_generation_prompt") == nullptr)
    out->add_generation_prompt = false;
  if (out->continue_final_message && out->add_generation_prompt)
    fields.fail(ErrorKind::invalid, "continue_final_message",
                "continue_final_message and add_generation_prompt cannot both be true");
  fields.read("chat_template", &out->chat_template);

  Json kwargs = Json::object();
  if (const Json* value = fields.find("chat_template_kwargs")) {
    if (!value->is_object())
      fields.fail(ErrorKind::invalid, "chat_template_kwargs",
                  "chat_template_kwargs must be an object, not " + quote_value(*value));
    else
      kwargs = *value;
  }
  for (const char* taken : {"messages", "tools", "add_generation_prompt"})
    if (kwargs.contains(taken))
      fields.fail(ErrorKind::invalid, "chat_template_kwargs",
                  std::string("chat_template_kwargs must not contain ") + taken);
  if (const Json* value = fields.find("documents")) {
    if (!value->is_array())
      fields.fail(ErrorKind::invalid, "documents",
                  "documents must be an array, not " + quote_value(*value));
    kwargs["documents"] = *value;
  }
  std::string effort;
  if (fields.read("reasoning_effort", &effort)) kwargs["reasoning_effort"] = effort;
  if (!kwargs.empty()) out->template_kwargs = kwargs.dump();
}

void read_chat_logprobs(Fields& fields, ApiRequest* out) {
  bool logprobs = false;
  fields.read("logprobs", &logprobs);
  std::optional<int64_t> top;
  fields.read("top_logprobs", &top);
  if (top && !logprobs && *top != 0)
    fields.fail(ErrorKind::invalid, "top_logprobs", "top_logprobs needs logprobs to be true");
  if (logprobs) out->logprobs = top.value_or(0);
}

}  // namespace

MaybeError parse_completion(std::string_view body, ApiRequest* out) {
  Json document;
  if (MaybeError error = parse_json_object(body, &document)) return error;
  out->kind = ApiKind::completion;
  Fields fields(document, "");
  fields.refuse("prompt_embeds");
  if (const Json* prompt = fields.find("prompt")) {
    if (MaybeError error = read_prompts(*prompt, out)) return error;
  } else {
    fields.fail(ErrorKind::invalid, "prompt", "prompt is required");
  }
  read_common_fields(fields, out);
  fields.read("logprobs", &out->logprobs);
  fields.read("echo", &out->echo);
  fields.refuse("suffix");
  fields.collect_unknown(&out->ignored);
  return fields.error();
}

MaybeError parse_chat(std::string_view body, ApiRequest* out) {
  Json document;
  if (MaybeError error = parse_json_object(body, &document)) return error;
  out->kind = ApiKind::chat;
  Fields fields(document, "");
  read_messages(fields, out);
  read_common_fields(fields, out);
  if (fields.read("max_completion_tokens", &out->max_tokens))
    out->max_tokens_field = "max_completion_tokens";
  read_chat_logprobs(fields, out);
  read_template_fields(fields, out);
  refuse_tools(fields);
  fields.refuse("echo");
  fields.refuse("audio");
  fields.refuse("prediction");
  fields.refuse("web_search_options");
  fields.refuse("modalities", Json::array({"text"}));
  fields.collect_unknown(&out->ignored);
  return fields.error();
}

MaybeError parse_tokenize(std::string_view body, ApiRequest* out, bool* want_strings) {
  Json document;
  if (MaybeError error = parse_json_object(body, &document)) return error;
  Fields fields(document, "");
  fields.read("model", &out->model);
  fields.read("add_special_tokens", &out->add_special_tokens);
  fields.read("return_token_strs", want_strings);
  if (fields.find("messages") != nullptr) {
    out->kind = ApiKind::chat;
    read_messages(fields, out);
    read_template_fields(fields, out);
    refuse_tools(fields);
  } else {
    out->kind = ApiKind::completion;
    out->prompts.emplace_back();
    if (!fields.read("prompt", &out->prompts.back().text))
      fields.fail(ErrorKind::invalid, "prompt", "prompt (or messages) is required");
  }
  fields.collect_unknown(&out->ignored);
  return fields.error();
}

MaybeError parse_detokenize(std::string_view body, std::string* model, std::vector<TokenId>* ids) {
  Json document;
  if (MaybeError error = parse_json_object(body, &document)) return error;
  Fields fields(document, "");
  fields.read("model", model);
  const Json* tokens = fields.find("tokens");
  if (fields.failed()) return fields.error();
  if (tokens == nullptr || !tokens->is_array())
    return api_error(ErrorKind::invalid, "tokens", "tokens must be an array of token ids");
  return read_ids(*tokens, "tokens", ids);
}

}  // namespace sluice
