#include <charconv>
#include <utility>

#include "server/openai_fields.h"

namespace sluice {
namespace {

template <class T>
struct Named {
  const char* name;
  T ApiRequest::*member;
};

constexpr Named<std::optional<double>> kNumbers[] = {
    {"temperature", &ApiRequest::temperature},
    {"top_p", &ApiRequest::top_p},
    {"min_p", &ApiRequest::min_p},
    {"presence_penalty", &ApiRequest::presence_penalty},
    {"frequency_penalty", &ApiRequest::frequency_penalty},
    {"repetition_penalty", &ApiRequest::repetition_penalty},
    {"timeout_ms", &ApiRequest::timeout_ms},
    {"ttft_ms", &ApiRequest::ttft_ms},
    {"tpot_ms", &ApiRequest::tpot_ms},
};

constexpr Named<std::optional<int64_t>> kIntegers[] = {
    {"top_k", &ApiRequest::top_k},
    {"seed", &ApiRequest::seed},
    {"max_tokens", &ApiRequest::max_tokens},
    {"min_tokens", &ApiRequest::min_tokens},
    {"n", &ApiRequest::n},
    {"best_of", &ApiRequest::best_of},
    {"truncate_prompt_tokens", &ApiRequest::truncate_prompt_tokens},
    {"prompt_logprobs", &ApiRequest::prompt_logprobs},
    {"priority", &ApiRequest::priority},
};

constexpr Named<bool> kFlags[] = {
    {"ignore_eos", &ApiRequest::ignore_eos},
    {"include_timing", &ApiRequest::include_timing},
    {"include_stop_str_in_output", &ApiRequest::include_stop_str_in_output},
    {"return_token_ids", &ApiRequest::return_token_ids},
    {"return_tokens_as_token_ids", &ApiRequest::return_tokens_as_token_ids},
    {"skip_special_tokens", &ApiRequest::skip_special_tokens},
    {"stream", &ApiRequest::stream},
};

// Level A of docs/api.md: accepted, and without effect by their nature.
constexpr const char* kWithoutEffect[] = {
    "metadata",          "store",
    "service_tier",      "prompt_cache_key",
    "safety_identifier", "prompt_cache_retention",
    "verbosity",         "prompt_cache_options",
    "moderation",        "spaces_between_special_tokens",
    "include_reasoning",
};

// Known, not offered: an error unless they ask for nothing.
constexpr const char* kRefused[] = {
    "use_beam_search",      "bad_words",
    "logprob_token_ids",    "structured_outputs",
    "guided_json",          "guided_regex",
    "guided_choice",        "guided_grammar",
    "guided_json_object",   "guided_whitespace_pattern",
    "kv_transfer_params",   "vllm_xargs",
    "repetition_detection", "thinking_token_budget",
    "return_prompt_text",   "mm_processor_kwargs",
    "media_io_kwargs",
};

void read_logit_bias(Fields& fields, ApiRequest* out) {
  const Json* value = fields.find("logit_bias");
  if (value == nullptr) return;
  if (!value->is_object()) {
    fields.fail(ErrorKind::invalid, "logit_bias",
                "logit_bias must be an object of token id to number, not " + quote_value(*value));
    return;
  }
  for (const auto& item : value->items()) {
    const std::string& key = item.key();
    int64_t id = 0;
    const auto [end, ec] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (ec != std::errc() || end != key.data() + key.size() || !item.value().is_number()) {
      fields.fail(ErrorKind::invalid, "logit_bias",
                  "logit_bias must map token ids (integers written as strings) to numbers");
      return;
    }
    out->logit_bias.emplace_back(id, item.value().get<double>());
  }
}

void read_response_format(Fields& fields) {
  const Json* value = fields.find("response_format");
  if (value == nullptr) return;
  const auto type = value->is_object() ? value->find("type") : value->end();
  if (!value->is_object() || type == value->end() || !type->is_string()) {
    fields.fail(ErrorKind::invalid, "response_format",
                "response_format must be an object with a string field \"type\"");
  } else if (*type != "text") {
    fields.fail(ErrorKind::unsupported, "response_format",
                "response_format.type " + type->dump() +
                    " is not supported by this server; only \"text\" is");
  }
}

void read_stream_options(Fields& fields, ApiRequest* out) {
  const Json* value = fields.find("stream_options");
  if (value == nullptr) return;
  if (!value->is_object()) {
    fields.fail(ErrorKind::invalid, "stream_options",
                "stream_options must be an object, not " + quote_value(*value));
    return;
  }
  Fields options(*value, "stream_options.");
  options.read("include_usage", &out->include_usage);
  options.read("continuous_usage_stats", &out->continuous_usage);
  options.ignore("include_obfuscation");
  options.collect_unknown(&out->ignored);
  if (options.error())
    fields.fail(options.error()->kind, options.error()->param, options.error()->message);
}

void read_truncation_side(Fields& fields, ApiRequest* out) {
  std::string side = "left";
  fields.read("truncation_side", &side);
  if (side != "left" && side != "right")
    fields.fail(ErrorKind::invalid, "truncation_side",
                "truncation_side must be \"left\" or \"right\"");
  out->truncate_right = side == "right";
}

}  // namespace

void read_common_fields(Fields& fields, ApiRequest* out) {
  fields.read("model", &out->model);
  for (const auto& f : kNumbers) fields.read(f.name, &(out->*f.member));
  for (const auto& f : kIntegers) fields.read(f.name, &(out->*f.member));
  for (const auto& f : kFlags) fields.read(f.name, &(out->*f.member));
  fields.read("stop", &out->stop);
  fields.read("stop_token_ids", &out->stop_token_ids);
  out->has_allowed_token_ids = fields.read("allowed_token_ids", &out->allowed_token_ids);
  fields.read("add_special_tokens", &out->add_special_tokens);
  fields.read("cache_salt", &out->cache_salt);
  fields.read("session_id", &out->session_id);
  fields.read("request_id", &out->request_id);
  fields.read("user", &out->user_tag);
  read_truncation_side(fields, out);
  read_logit_bias(fields, out);
  read_response_format(fields);
  read_stream_options(fields, out);

  for (const char* name : kRefused) fields.refuse(name);
  fields.refuse("length_penalty", 1.0);
  fields.refuse("stream_interval", 1);
  for (const char* name : kWithoutEffect) fields.ignore(name);
}

}  // namespace sluice
