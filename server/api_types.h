#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/types.h"

namespace sluice {

enum class ApiKind : uint8_t { completion, chat };

// One prompt of a completion request: text, or token ids.
struct PromptInput {
  std::string text;
  std::vector<TokenId> ids;
  bool is_ids = false;
};

// A generation request as the client wrote it, whatever the protocol: HTTP JSON and gRPC messages
// are both parsed into this, and Frontend::prepare checks it. An empty optional: the client did not
// say. Field names are those of docs/api.md; error messages name them. Types are right; ranges are
// not checked yet.
struct ApiRequest {
  ApiKind kind = ApiKind::completion;
  std::string model;       // empty: the one that is served
  std::string request_id;  // becomes part of the response id; empty: one is drawn
  std::string user_tag;    // appears in logs
  Instant received{};      // when the request was read: time to first token counts from here
  Instant deadline = kNever;
  int64_t body_bytes = 0;  // of the whole request, for an estimate of its prompt

  // Completions.
  std::vector<PromptInput> prompts;
  bool echo = false;
  std::optional<int64_t> truncate_prompt_tokens;
  bool truncate_right = false;  // which side is cut away

  // Chat: normalised JSON texts (normalise_messages of openai_api.h).
  std::string messages;         // array
  std::string template_kwargs;  // object; empty: none
  std::string chat_template;    // one of the model's by name, or a template; empty: the model's
  bool add_generation_prompt = true;
  bool continue_final_message = false;

  std::optional<bool> add_special_tokens;  // default: completions true, chat false

  // Sampling.
  std::optional<double> temperature, top_p, min_p;
  std::optional<int64_t> top_k;  // -1, 0: off
  std::optional<double> presence_penalty, frequency_penalty, repetition_penalty;
  std::optional<int64_t> seed, max_tokens, min_tokens, n, best_of;
  const char* max_tokens_field = "max_tokens";         // what the client called it
  std::vector<std::pair<int64_t, double>> logit_bias;  // token id, bias
  std::vector<int64_t> allowed_token_ids;
  bool has_allowed_token_ids = false;  // an empty list is an error, not "all"
  bool ignore_eos = false;

  // Stopping.
  std::vector<std::string> stop;
  std::vector<int64_t> stop_token_ids;
  bool include_stop_str_in_output = false;

  // Output.
  std::optional<int64_t> logprobs;         // alternatives with each token, 0: its own only
  std::optional<int64_t> prompt_logprobs;  // likewise, of the prompt
  bool return_token_ids = false;
  bool return_tokens_as_token_ids = false;
  bool skip_special_tokens = true;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool include_timing = false;
  std::string cache_salt;

  // Scheduling.
  std::optional<int64_t> priority;
  std::optional<double> timeout_ms, ttft_ms, tpot_ms;  // from `received`; tpot_ms: between tokens
  std::string session_id;                              // empty: none

  std::vector<std::string> ignored;  // fields of the request that nobody knows
};

}  // namespace sluice
