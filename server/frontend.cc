#include "server/frontend.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "base/hash.h"
#include "server/request_check.h"
#include "server/wait_estimate.h"
#include "text/detokenizer.h"

namespace sluice {
namespace {

constexpr int kDefaultCompletionTokens = 16;
constexpr double kMaxRetrySeconds = 24 * 3600;

uint64_t draw_number() {
  thread_local std::mt19937_64 generator{(static_cast<uint64_t>(std::random_device{}()) << 32) ^
                                         std::random_device{}()};
  return generator();
}

std::string draw_id() { return fmt::format("{:016x}{:08x}", draw_number(), draw_number() >> 32); }

}  // namespace

Usage Job::usage() const {
  Usage usage;
  for (const auto& prompt : prompts) usage.prompt += prompt.num_tokens;
  return usage;
}

Frontend::Frontend(ModelInfo model, const Config& config, Engine& engine, StreamHub& hub,
                   Metrics& metrics)
    : model_(std::move(model)),
      limits_(config),
      trust_request_template_(config.model.trust_request_chat_template),
      step_tokens_(config.scheduler.max_step_tokens),
      block_size_(config.cache.block_size),
      engine_(engine),
      hub_(hub),
      metrics_(metrics),
      hash_key_(draw_number()) {
  hub_.set_on_end(
      [registry = registry_](RequestId id, const auto& trace) { registry->end(id, trace); });
  for (TokenId id = 0; id < model_.tokenizer->vocab_size(); ++id)
    longest_piece_ = std::max(longest_piece_, static_cast<int>(model_.tokenizer->piece(id).size()));
}

MaybeError Frontend::check_model(std::string_view model) const {
  if (model.empty() || model == model_.name) return std::nullopt;
  return api_error(ErrorKind::model_not_found, "model",
                   "the model '{}' does not exist; this server has '{}'", model, model_.name);
}

MaybeError Frontend::render_chat(const ApiRequest& request, std::string* text) const {
  if (!model_.chat_template)
    return api_error(ErrorKind::invalid, "messages",
                     "the model '{}' has no chat template; use /v1/completions", model_.name);
  const ChatTemplate* chosen = &*model_.chat_template;
  absl::StatusOr<ChatTemplate> sent;
  ChatInput input;
  if (const std::string& wanted = request.chat_template; !wanted.empty()) {
    const std::vector<std::string> names = chosen->names();
    if (std::find(names.begin(), names.end(), wanted) != names.end()) {
      input.name = wanted;
    } else if (!trust_request_template_) {
      return api_error(ErrorKind::unsupported, "chat_template",
                       "chat_template: this server runs the model's own templates only ({}); "
                       "model.trust_request_chat_template would change that",
                       fmt::join(names, ", "));
    } else {
      sent = chosen->with_source(wanted);
      if (!sent.ok()) return api_error_from(sent.status(), "chat_template");
      chosen = &*sent;
    }
  }
  input.messages = request.messages;
  input.kwargs = request.template_kwargs;
  input.add_generation_prompt = request.add_generation_prompt;
  input.continue_final_message = request.continue_final_message;
  absl::StatusOr<std::string> rendered = chosen->render(input);
  if (!rendered.ok()) return api_error_from(annotate(rendered.status(), "messages"), "messages");
  *text = *std::move(rendered);
  return std::nullopt;
}

MaybeError Frontend::tokenize_prompt(const ApiRequest& request, const PromptInput& prompt,
                                     std::vector<TokenId>* ids) const {
  const bool chat = request.kind == ApiKind::chat;
  const char* field = chat ? "messages" : "prompt";
  if (prompt.is_ids) {
    for (const TokenId id : prompt.ids) {
      if (id < 0 || id >= model_.vocab_size)
        return api_error(ErrorKind::invalid, field,
                         "{}: token id {} is not in the vocabulary of {} tokens", field, id,
                         model_.vocab_size);
    }
    *ids = prompt.ids;
    return std::nullopt;
  }
  // Text that cannot fit is refused without the work of tokenising it; normalisation may shrink
  // text, but not fourfold. Other vocabularies may drop or fuse any amount of it.
  const size_t fewest = model_.tokenizer->decoder().byte_level()
                            ? prompt.text.size() / (4 * static_cast<size_t>(longest_piece_))
                            : 0;
  if (fewest > static_cast<size_t>(model_.max_model_len) && !request.truncate_prompt_tokens)
    return api_error(ErrorKind::context_length, field,
                     "{} has more than {} tokens, but this model's context is {} tokens", field,
                     fewest, model_.max_model_len);
  *ids = model_.tokenizer->encode(prompt.text, request.add_special_tokens.value_or(!chat));
  return std::nullopt;
}

MaybeError Frontend::tokenize(const ApiRequest& request, std::vector<TokenId>* ids) const {
  if (auto error = check_model(request.model)) return error;
  PromptInput prompt;
  if (request.kind == ApiKind::completion)
    return tokenize_prompt(request, request.prompts.at(0), ids);
  if (auto error = render_chat(request, &prompt.text)) return error;
  return tokenize_prompt(request, prompt, ids);
}

MaybeError Frontend::detokenize(const std::vector<TokenId>& ids, std::string* text) const {
  for (const TokenId id : ids) {
    if (id < 0 || id >= model_.vocab_size)
      return api_error(ErrorKind::invalid, "tokens",
                       "tokens: token id {} is not in the vocabulary of {} tokens", id,
                       model_.vocab_size);
  }
  *text = decode(*model_.tokenizer, ids, false);
  return std::nullopt;
}

// Cuts the prompt if asked to, and checks that it and what is to come fit the context.
MaybeError Frontend::fit_prompt(const ApiRequest& request, std::vector<TokenId>* ids,
                                SamplingParams* sampling) const {
  const char* field = request.kind == ApiKind::chat ? "messages" : "prompt";
  if (const auto keep = request.truncate_prompt_tokens;
      keep && static_cast<int64_t>(ids->size()) > *keep) {
    const auto extra = static_cast<std::ptrdiff_t>(ids->size()) - *keep;
    if (request.truncate_right) {
      ids->resize(*keep);
    } else {
      ids->erase(ids->begin(), ids->begin() + extra);
    }
  }
  if (ids->empty())
    return api_error(ErrorKind::invalid, field, "{} must have at least one token", field);
  const int64_t room = model_.max_model_len - static_cast<int64_t>(ids->size());
  const int64_t asked = sampling->max_tokens;
  if (room < std::max<int64_t>(asked, 1)) {
    if (asked <= 0)
      return api_error(ErrorKind::context_length, field,
                       "{} has {} tokens and leaves no room for output: this model's context is {} "
                       "tokens",
                       field, ids->size(), model_.max_model_len);
    return api_error(ErrorKind::context_length, request.max_tokens_field,
                     "{} has {} tokens and {} is {}: together {}, but this model's context is {} "
                     "tokens",
                     field, ids->size(), request.max_tokens_field, asked, ids->size() + asked,
                     model_.max_model_len);
  }
  if (asked < 0)
    sampling->max_tokens = static_cast<int>(
        request.kind == ApiKind::chat ? room : std::min<int64_t>(room, kDefaultCompletionTokens));
  sampling->max_tokens = std::max(sampling->max_tokens, 1);
  if (sampling->min_tokens > sampling->max_tokens && asked != 0)
    return api_error(ErrorKind::invalid, "min_tokens",
                     "min_tokens must be at most max_tokens ({}), not {}", sampling->max_tokens,
                     sampling->min_tokens);
  return std::nullopt;
}

MaybeError Frontend::add_prompt(const ApiRequest& request, const PromptInput& prompt,
                                GenerateRequest generate, Job* job) const {
  if (auto error = tokenize_prompt(request, prompt, &generate.prompt)) return error;
  const size_t whole = generate.prompt.size();
  if (auto error = fit_prompt(request, &generate.prompt, &generate.sampling)) return error;
  generate.tag = request.user_tag.empty() ? job->id : job->id + "/" + request.user_tag;

  TokenStream::Prompt shown;
  shown.num_tokens = static_cast<int>(generate.prompt.size());
  if (request.echo || job->stream.want_prompt) shown.ids = generate.prompt;
  if (request.echo) {
    const bool verbatim = !prompt.is_ids && whole == generate.prompt.size();
    shown.text = verbatim ? prompt.text
                          : decode(*model_.tokenizer, generate.prompt, request.skip_special_tokens);
  }
  job->requests.push_back(std::move(generate));
  job->prompts.push_back(std::move(shown));
  return std::nullopt;
}

// Names that clients chose become numbers. Sessions of other salts or tenants are others, also when
// they are called the same.
void Frontend::set_names(const ApiRequest& request, GenerateRequest* out) const {
  if (!request.cache_salt.empty()) out->cache_salt = hash_text(hash_key_, request.cache_salt);
  if (request.session_id.empty()) return;
  const uint64_t owner = mix64(out->cache_salt, out->tenant);
  out->session = hash_text(mix64(hash_key_, owner), request.session_id);
}

MaybeError Frontend::prepare(const ApiRequest& request, Job* job) const {
  if (auto error = check_model(request.model)) return error;
  GenerateRequest generate;  // but for the prompt
  if (auto error =
          check_sampling(request, model_, limits_.max_n, &generate.sampling, &generate.num_samples))
    return error;
  if (auto error = check_scheduling(request, generate.num_samples, &generate)) return error;
  if (request.ttft_ms) {
    if (auto error = check_wait(request.body_bytes, *request.ttft_ms / 1000, "ttft_ms"))
      return error;
  }
  set_names(request, &generate);
  if (request.truncate_prompt_tokens && (*request.truncate_prompt_tokens < 1 ||
                                         *request.truncate_prompt_tokens > model_.max_model_len))
    return api_error(ErrorKind::invalid, "truncate_prompt_tokens",
                     "truncate_prompt_tokens must be between 1 and {}, not {}",
                     model_.max_model_len, *request.truncate_prompt_tokens);
  job->id = (request.kind == ApiKind::chat ? kChatPrefix : kCompletionPrefix) +
            (request.request_id.empty() ? draw_id() : request.request_id);
  job->stream = stream_options(request, generate.sampling, generate.num_samples);
  if (request.kind == ApiKind::chat) {
    PromptInput prompt;
    if (auto error = render_chat(request, &prompt.text)) return error;
    return add_prompt(request, prompt, std::move(generate), job);
  }
  if (request.prompts.empty()) return api_error(ErrorKind::invalid, "prompt", "prompt is required");
  if (request.prompts.size() > kMaxPrompts)
    return api_error(ErrorKind::invalid, "prompt", "prompt may have at most {} entries, not {}",
                     kMaxPrompts, request.prompts.size());
  for (const PromptInput& prompt : request.prompts)
    if (auto error = add_prompt(request, prompt, generate, job)) return error;
  return std::nullopt;
}

MaybeError Frontend::start(int shard, Job job, std::unique_ptr<ChunkWriter> writer,
                           RequestId* stream) {
  if (auto error = accepting()) return error;
  const int num_prompts = static_cast<int>(job.requests.size());
  const int num_samples = job.stream.num_samples;
  auto opened = std::make_unique<TokenStream>(model_.tokenizer, std::move(job.stream),
                                              std::move(job.prompts), std::move(writer), metrics_);
  TokenStream& handle = *opened;
  const std::vector<RequestId> ids = hub_.open(shard, std::move(opened), num_prompts, num_samples);
  registry_->add(job.id, shard, ids, job.requests);
  for (int i = 0; i < num_prompts; ++i) {
    const absl::Status status = engine_.submit(ids[i], std::move(job.requests[i]));
    if (status.ok()) continue;
    ApiError error = api_error_from(status);
    handle.abandon();
    registry_->forget(ids);
    hub_.close(shard, ids.front(), engine_, i);
    return error;
  }
  *stream = ids.front();
  return std::nullopt;
}

void Frontend::cancel(int shard, RequestId stream) { hub_.close(shard, stream, engine_); }

void Frontend::pump(int shard) { hub_.pump(shard, engine_); }

void Frontend::count_rejected(const ApiError& error) const {
  switch (error.kind) {
    case ErrorKind::overloaded:
      metrics_.rejected("queue_full").Increment();
      break;
    case ErrorKind::predicted_late:
      metrics_.rejected("predicted_ttft").Increment();
      break;
    case ErrorKind::draining:
    case ErrorKind::loading:
      metrics_.rejected("draining").Increment();
      break;
    case ErrorKind::context_length:
      metrics_.rejected("too_long").Increment();
      break;
    case ErrorKind::invalid:
    case ErrorKind::unsupported:
    case ErrorKind::model_not_found:
      metrics_.rejected("invalid").Increment();
      break;
    default:
      break;
  }
}

MaybeError Frontend::accepting() const {
  if (draining_) return api_error(ErrorKind::draining, "", "the server is shutting down");
  if (!ready_) return api_error(ErrorKind::loading, "", "the model is not ready yet");
  return std::nullopt;
}

MaybeError Frontend::check_wait(int64_t body_bytes, double limit, const char* limit_name) const {
  const EngineLoad load{engine_.stats(), engine_.step_cost(), step_tokens_, block_size_};
  const int64_t tokens = std::min<int64_t>(estimate_tokens(body_bytes), model_.max_model_len);
  const double predicted = predict_ttft(load, tokens);
  if (predicted <= limit) return std::nullopt;
  ApiError error =
      api_error(ErrorKind::predicted_late, "",
                "the first token is predicted in {:.4g} s, later than {} allows ({:.4g} "
                "s); try again later",
                predicted, limit_name, limit);
  // What is ahead shrinks by a second a second.
  const double wait = std::clamp(std::ceil(predicted - limit), 1.0, kMaxRetrySeconds);
  error.retry_ms = static_cast<int>(1000 * wait);
  return error;
}

MaybeError Frontend::admit(int64_t body_bytes) const {
  const double limit = limits_.max_ttft_seconds;
  if (limit <= 0) return std::nullopt;
  return check_wait(body_bytes, limit, "scheduler.max_ttft_seconds");
}

void Frontend::set_ready() { ready_ = true; }
void Frontend::announce_drain() { announced_ = true; }
void Frontend::begin_drain() { announced_ = draining_ = true; }
void Frontend::set_failed() { failed_ = announced_ = draining_ = true; }

void Frontend::set_limits(const Config& config) {
  limits_.set(config);
  engine_.set_queue_limits(config.scheduler.max_queue, config.scheduler.max_queued_tokens);
}

std::string Frontend::expose_metrics() const {
  metrics_.since_step_seconds.Set(to_seconds(engine_.since_progress()));
  return metrics_.expose();
}

Readiness Frontend::readiness() const {
  if (failed_) return {false, "failed"};
  if (announced_) return {false, "draining"};
  if (!ready_) return {false, "starting"};
  if (stalled()) return {false, "stalled"};
  return {true, ""};
}

bool Frontend::stalled() const {
  return engine_.since_progress() > std::chrono::seconds(limits_.stall_seconds);
}

}  // namespace sluice
