#include "server/grpc_convert.h"

#include <google/protobuf/util/json_util.h>

#include "server/json_text.h"
#include "server/openai_api.h"
#include "server/request_json.h"

namespace sluice {
namespace {

template <class Value, class Field>
void take(bool has, Value value, Field& field) {
  if (has) field = value;
}

void read_sampling(const v1::SamplingParams& p, ApiRequest* out) {
  take(p.has_temperature(), p.temperature(), out->temperature);
  take(p.has_top_p(), p.top_p(), out->top_p);
  take(p.has_top_k(), p.top_k(), out->top_k);
  take(p.has_min_p(), p.min_p(), out->min_p);
  take(p.has_presence_penalty(), p.presence_penalty(), out->presence_penalty);
  take(p.has_frequency_penalty(), p.frequency_penalty(), out->frequency_penalty);
  take(p.has_repetition_penalty(), p.repetition_penalty(), out->repetition_penalty);
  take(p.has_seed(), p.seed(), out->seed);
  take(p.has_n(), p.n(), out->n);
  take(p.has_best_of(), p.best_of(), out->best_of);
  take(p.has_max_tokens(), p.max_tokens(), out->max_tokens);
  take(p.has_min_tokens(), p.min_tokens(), out->min_tokens);
  take(p.has_logprobs(), p.logprobs(), out->logprobs);
  take(p.has_prompt_logprobs(), p.prompt_logprobs(), out->prompt_logprobs);
  take(p.has_include_stop_str_in_output(), p.include_stop_str_in_output(),
       out->include_stop_str_in_output);
  take(p.has_ignore_eos(), p.ignore_eos(), out->ignore_eos);
  take(p.has_skip_special_tokens(), p.skip_special_tokens(), out->skip_special_tokens);
  out->stop.assign(p.stop().begin(), p.stop().end());
  out->stop_token_ids.assign(p.stop_token_ids().begin(), p.stop_token_ids().end());
  out->allowed_token_ids.assign(p.allowed_token_ids().begin(), p.allowed_token_ids().end());
  out->has_allowed_token_ids = p.allowed_token_ids_size() > 0;
  for (const auto& [token, bias] : p.logit_bias()) out->logit_bias.emplace_back(token, bias);
}

// As a client of the HTTP API would have written them.
std::string messages_json(const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) {
  std::string json = "[";
  for (const v1::ChatMessage& message : messages) {
    if (json.size() > 1) json += ',';
    json += R"({"role":)";
    append_json_string(json, message.role());
    const auto add = [&json](bool has, const char* key, const std::string& value) {
      if (!has) return;
      json += fmt::format(R"(,"{}":)", key);
      append_json_string(json, value);
    };
    add(true, "content", message.content());
    add(message.has_name(), "name", message.name());
    add(message.has_tool_call_id(), "tool_call_id", message.tool_call_id());
    add(message.has_reasoning_content(), "reasoning_content", message.reasoning_content());
    json += '}';
  }
  return json + ']';
}

template <class Request>
void read_common(const Request& in, ApiRequest* out) {
  out->model = in.model();
  out->request_id = in.request_id();
  out->cache_salt = in.cache_salt();
  out->session_id = in.session_id();
  out->include_timing = in.include_timing();
  take(in.has_priority(), in.priority(), out->priority);
  take(in.has_timeout_ms(), in.timeout_ms(), out->timeout_ms);
  take(in.has_ttft_ms(), in.ttft_ms(), out->ttft_ms);
  take(in.has_tpot_ms(), in.tpot_ms(), out->tpot_ms);
  out->stream = !in.has_stream() || in.stream();
  out->return_token_ids = true;
  read_sampling(in.sampling(), out);
}

void set_logprob(const TokenLogprob& in, const Tokenizer& tokenizer, v1::TopLogprob* out) {
  out->set_token_id(in.token);
  out->set_token(std::string(tokenizer.piece(in.token)));
  out->set_logprob(in.logprob);
}

void set_logprob(TokenId id, float logprob, std::span<const TokenLogprob> top,
                 const Tokenizer& tokenizer, v1::TokenLogprob* out) {
  out->set_token_id(id);
  out->set_token(std::string(tokenizer.piece(id)));
  out->set_logprob(logprob);
  for (const TokenLogprob& other : top) set_logprob(other, tokenizer, out->add_top());
}

}  // namespace

MaybeError from_proto(const v1::GenerateRequest& in, ApiRequest* out) {
  out->kind = ApiKind::completion;
  read_common(in, out);
  out->echo = in.echo();
  if (in.has_add_special_tokens()) out->add_special_tokens = in.add_special_tokens();
  PromptInput prompt;
  switch (in.input_case()) {
    case v1::GenerateRequest::kPrompt:
      prompt.text = in.prompt();
      break;
    case v1::GenerateRequest::kPromptIds:
      prompt.is_ids = true;
      prompt.ids.assign(in.prompt_ids().ids().begin(), in.prompt_ids().ids().end());
      break;
    default:
      return api_error(ErrorKind::invalid, "prompt", "one of prompt and prompt_ids is required");
  }
  out->prompts.push_back(std::move(prompt));
  return std::nullopt;
}

MaybeError from_proto(const v1::ChatRequest& in, ApiRequest* out) {
  out->kind = ApiKind::chat;
  read_common(in, out);
  if (in.has_add_generation_prompt()) out->add_generation_prompt = in.add_generation_prompt();
  if (in.has_continue_final_message()) {
    out->continue_final_message = in.continue_final_message();
    if (!in.has_add_generation_prompt()) out->add_generation_prompt = !in.continue_final_message();
  }
  if (in.has_chat_template_kwargs()) {
    const auto status = google::protobuf::util::MessageToJsonString(in.chat_template_kwargs(),
                                                                    &out->template_kwargs);
    if (!status.ok())
      return api_error(ErrorKind::invalid, "chat_template_kwargs", "is not a JSON object");
    out->template_kwargs = sorted_json(out->template_kwargs);
  }
  out->chat_template = in.chat_template();
  return normalise_messages(messages_json(in.messages()), out);
}

MaybeError from_proto(const v1::TokenizeRequest& in, ApiRequest* out) {
  out->model = in.model();
  if (in.has_add_special_tokens()) out->add_special_tokens = in.add_special_tokens();
  if (in.has_prompt() == (in.messages_size() > 0))
    return api_error(ErrorKind::invalid, "prompt", "give either prompt or messages");
  if (in.has_prompt()) {
    out->kind = ApiKind::completion;
    out->prompts.emplace_back().text = in.prompt();
    return std::nullopt;
  }
  out->kind = ApiKind::chat;
  if (in.has_add_generation_prompt()) out->add_generation_prompt = in.add_generation_prompt();
  return normalise_messages(messages_json(in.messages()), out);
}

void append_piece(const Delta& delta, const Tokenizer& tokenizer, bool want_logprobs,
                  v1::Piece* piece) {
  piece->set_index(delta.choice);
  piece->mutable_text()->append(delta.text);
  for (const TokenOut& token : delta.tokens) {
    piece->add_token_ids(token.id);
    if (want_logprobs && token.has_logprob)
      set_logprob(token.id, token.logprob, token.top, tokenizer, piece->add_logprobs());
  }
  if (delta.finish == FinishReason::none) return;
  piece->set_finish_reason(delta.finish == FinishReason::length ? v1::FINISH_REASON_LENGTH
                                                                : v1::FINISH_REASON_STOP);
  if (!delta.stop_text.empty()) piece->set_stop_text(std::string(delta.stop_text));
  if (delta.stop_token >= 0) piece->set_stop_token_id(delta.stop_token);
}

void set_prompt_logprobs(const PromptOut& prompt, const Tokenizer& tokenizer, v1::Piece* piece) {
  for (size_t i = 0; prompt.width > 0 && i * prompt.width < prompt.logprobs.size(); ++i) {
    const auto row = prompt.logprobs.subspan(i * prompt.width, prompt.width);
    set_logprob(row[0].token, row[0].logprob, row.subspan(1), tokenizer,
                piece->add_prompt_logprobs());
  }
}

void set_usage(const Usage& usage, v1::Usage* out) {
  out->set_prompt_tokens(usage.prompt);
  out->set_completion_tokens(usage.completion);
  out->set_total_tokens(usage.prompt + usage.completion);
  out->set_cached_tokens(usage.cached);
}

void set_timing(const Timing& timing, v1::Timing* out) {
  out->set_queue_ms(timing.queue_ms);
  out->set_ttft_ms(timing.ttft_ms);
  out->set_total_ms(timing.total_ms);
  out->set_level(timing.level);
  out->set_chunks(timing.chunks);
  out->set_swaps(timing.swaps);
  out->set_recomputes(timing.recomputes);
  out->set_swapped_blocks(timing.swapped_blocks);
  out->set_swap_ms(timing.swap_ms);
  out->set_cached_tokens(timing.cached_tokens);
  out->set_host_cached_tokens(timing.host_cached_tokens);
}

void set_request(const RequestView& view, v1::RequestInfo* out) {
  using State = RequestInfo::State;
  const auto state_of = [](State state) {
    switch (state) {
      case State::waiting:
        return v1::REQUEST_STATE_WAITING;
      case State::running:
        return v1::REQUEST_STATE_RUNNING;
      case State::swapped:
        return v1::REQUEST_STATE_SWAPPED;
      case State::arriving:
        return v1::REQUEST_STATE_ARRIVING;
    }
    return v1::REQUEST_STATE_UNSPECIFIED;
  };
  const RequestTrace& trace = view.info.trace;
  out->set_id(view.id);
  out->set_index(view.prompt);
  out->set_state(view.ended ? v1::REQUEST_STATE_ENDED : state_of(view.info.state));
  out->set_priority(view.info.priority);
  out->set_samples(view.info.num_samples);
  out->set_age_ms(to_millis(view.info.age));
  out->set_level(trace.level);
  out->set_prompt_tokens(trace.prompt_tokens);
  out->set_output_tokens(trace.output_tokens);
  out->set_cached_tokens(trace.cached_tokens);
  out->set_host_cached_tokens(trace.host_cached_tokens);
  out->set_swaps(trace.swaps);
  out->set_recomputes(trace.recomputes);
}

void set_trace(const RequestView& view, v1::RequestTrace* out) {
  const RequestTrace& trace = view.info.trace;
  const auto since = [&trace](Instant at) { return to_millis(at - trace.arrived); };
  set_request(view, out->mutable_info());
  if (trace.admitted != kNever) out->set_queue_ms(since(trace.admitted));
  if (trace.first_token != kNever) out->set_ttft_ms(since(trace.first_token));
  if (trace.ended != kNever) out->set_total_ms(since(trace.ended));
  out->set_chunks(trace.chunks);
  out->set_demotions(trace.demotions);
  out->set_promotions(trace.promotions);
  out->set_recomputed_tokens(trace.recomputed_tokens);
  out->set_swapped_blocks(trace.swapped_blocks);
  out->set_swap_ms(to_millis(trace.swapped_time));
  out->set_copy_ms(to_millis(trace.copy_time));
  for (const RequestTrace::Event& event : trace.events) {
    v1::RequestTrace::Event* to = out->add_events();
    to->set_at_ms(since(event.when));
    to->set_kind(name_of(event.kind));
    to->set_value(event.value);
  }
  out->set_dropped_events(trace.dropped_events);
}

grpc::Status to_status(const ApiError& error) {
  // absl's codes are gRPC's.
  const std::string message =
      error.param.empty() ? error.message : fmt::format("{}: {}", error.param, error.message);
  return {static_cast<grpc::StatusCode>(error.status_code()), message};
}

}  // namespace sluice
