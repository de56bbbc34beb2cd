#include "server/request_check.h"

#include <algorithm>
#include <random>

namespace sluice {
namespace {

// NaN fails every comparison, hence the negations.
MaybeError check_range(const char* field, double value, double low, double high) {
  if (value >= low && value <= high) return std::nullopt;
  return api_error(ErrorKind::invalid, field, "{} must be between {} and {}, not {}", field, low,
                   high, value);
}

MaybeError check_above_zero(const char* field, double value, double high) {
  if (value > 0 && value <= high) return std::nullopt;
  return api_error(ErrorKind::invalid, field, "{} must be above 0 and at most {}, not {}", field,
                   high, value);
}

MaybeError check_int(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return std::nullopt;
  return api_error(ErrorKind::invalid, field, "{} must be between {} and {}, not {}", field, low,
                   high, value);
}

MaybeError check_millis(const char* field, const std::optional<double>& value) {
  return value ? check_above_zero(field, *value, kMaxMillis) : std::nullopt;
}

Nanos from_millis(double value) {
  return std::chrono::duration_cast<Nanos>(std::chrono::duration<double, std::milli>(value));
}

MaybeError check_token(const char* field, int64_t id, int vocab_size) {
  if (id >= 0 && id < vocab_size) return std::nullopt;
  return api_error(ErrorKind::invalid, field,
                   "{}: token id {} is not in the vocabulary of {} tokens", field, id, vocab_size);
}

MaybeError check_count(const char* field, size_t count, size_t limit) {
  if (count <= limit) return std::nullopt;
  return api_error(ErrorKind::invalid, field, "{} may have at most {} entries, not {}", field,
                   limit, count);
}

// The request's value, the model's, or `otherwise`.
template <class T>
T choose(const std::optional<T>& asked, const std::optional<T>& model, T otherwise) {
  return asked ? *asked : model ? *model : otherwise;
}

uint64_t draw_seed() {
  thread_local std::mt19937_64 generator{(static_cast<uint64_t>(std::random_device{}()) << 32) ^
                                         std::random_device{}()};
  return generator();
}

MaybeError check_distribution(const ApiRequest& r, const ModelInfo& model, SamplingParams* out) {
  const double temperature = choose(r.temperature, model.temperature, 1.0);
  const double top_p = choose(r.top_p, model.top_p, 1.0);
  const double min_p = choose(r.min_p, model.min_p, 0.0);
  const double repetition = choose(r.repetition_penalty, model.repetition_penalty, 1.0);
  const double presence = r.presence_penalty.value_or(0),
               frequency = r.frequency_penalty.value_or(0);
  const int64_t top_k = choose<int64_t>(r.top_k, model.top_k, 0);
  if (auto e = check_range("temperature", temperature, 0, 2)) return e;
  if (auto e = check_above_zero("top_p", top_p, 1)) return e;
  if (auto e = check_range("min_p", min_p, 0, 1)) return e;
  if (auto e = check_above_zero("repetition_penalty", repetition, 10)) return e;
  if (auto e = check_range("presence_penalty", presence, -2, 2)) return e;
  if (auto e = check_range("frequency_penalty", frequency, -2, 2)) return e;
  if (auto e = check_int("top_k", top_k, -1, INT32_MAX)) return e;
  out->temperature = static_cast<float>(temperature);
  out->top_p = static_cast<float>(top_p);
  out->min_p = static_cast<float>(min_p);
  out->repetition_penalty = static_cast<float>(repetition);
  out->presence_penalty = static_cast<float>(presence);
  out->frequency_penalty = static_cast<float>(frequency);
  out->top_k = static_cast<int>(std::max<int64_t>(top_k, 0));
  out->seed = r.seed ? static_cast<uint64_t>(*r.seed) : draw_seed();
  out->seed_given = r.seed.has_value();
  return std::nullopt;
}

MaybeError check_tokens(const ApiRequest& r, const ModelInfo& model, SamplingParams* out) {
  const int vocab = model.vocab_size;
  if (auto e = check_count("logit_bias", r.logit_bias.size(), kMaxTokenList)) return e;
  if (auto e = check_count("stop_token_ids", r.stop_token_ids.size(), kMaxTokenList)) return e;
  if (r.has_allowed_token_ids && r.allowed_token_ids.empty())
    return api_error(ErrorKind::invalid, "allowed_token_ids",
                     "allowed_token_ids must not be empty");
  for (const auto& [id, bias] : r.logit_bias) {
    if (auto e = check_token("logit_bias", id, vocab)) return e;
    if (auto e = check_range("logit_bias", bias, -100, 100)) return e;
    out->logit_bias.emplace_back(static_cast<TokenId>(id), static_cast<float>(bias));
  }
  for (const int64_t id : r.stop_token_ids) {
    if (auto e = check_token("stop_token_ids", id, vocab)) return e;
    out->stop_tokens.push_back(static_cast<TokenId>(id));
  }
  for (const int64_t id : r.allowed_token_ids) {
    if (auto e = check_token("allowed_token_ids", id, vocab)) return e;
    out->allowed.push_back(static_cast<TokenId>(id));
  }
  return std::nullopt;
}

MaybeError check_stop(const ApiRequest& r) {
  if (auto e = check_count("stop", r.stop.size(), kMaxStopStrings)) return e;
  for (const std::string& stop : r.stop) {
    if (stop.empty())
      return api_error(ErrorKind::invalid, "stop", "stop must not contain an empty string");
    if (stop.size() > kMaxStopBytes)
      return api_error(ErrorKind::invalid, "stop",
                       "a stop string may be at most {} bytes long, not {}", kMaxStopBytes,
                       stop.size());
  }
  return std::nullopt;
}

MaybeError check_logprobs(const ApiRequest& r, SamplingParams* out) {
  const bool chat = r.kind == ApiKind::chat;
  if (r.logprobs) {
    if (auto e = check_int(chat ? "top_logprobs" : "logprobs", *r.logprobs, 0,
                           chat ? kMaxTopLogprobs : kMaxCompletionLogprobs))
      return e;
    out->top_logprobs = static_cast<int>(*r.logprobs);
  }
  const bool of_echo = r.echo && r.logprobs;
  if (r.prompt_logprobs) {
    if (auto e = check_int("prompt_logprobs", *r.prompt_logprobs, 0, kMaxTopLogprobs)) return e;
    if (r.stream)
      return api_error(ErrorKind::unsupported, "prompt_logprobs",
                       "prompt_logprobs is not supported together with stream");
    if (of_echo)
      return api_error(ErrorKind::unsupported, "prompt_logprobs",
                       "prompt_logprobs is not supported together with echo and logprobs");
    out->prompt_logprobs = static_cast<int>(*r.prompt_logprobs);
  }
  if (of_echo) out->prompt_logprobs = out->top_logprobs;
  return std::nullopt;
}

bool is_sane_id(const std::string& id) {
  return id.size() <= 128 && std::all_of(id.begin(), id.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == ':';
         });
}

}  // namespace

MaybeError check_sampling(const ApiRequest& r, const ModelInfo& model, int max_n,
                          SamplingParams* out, int* num_samples) {
  if (!is_sane_id(r.request_id))
    return api_error(ErrorKind::invalid, "request_id",
                     "request_id may have at most 128 letters, digits and -_.:");
  if (auto e = check_distribution(r, model, out)) return e;
  if (auto e = check_tokens(r, model, out)) return e;
  if (auto e = check_stop(r)) return e;
  if (auto e = check_logprobs(r, out)) return e;
  const int64_t n = r.n.value_or(1);
  if (auto e = check_int("n", n, 1, max_n)) return e;
  const int64_t best_of = r.best_of.value_or(n);
  if (auto e = check_int("best_of", best_of, n, max_n)) return e;
  if (r.stream && best_of != n)
    return api_error(ErrorKind::invalid, "best_of",
                     "best_of must be n ({}) in a stream, not {}: the best are known at the end", n,
                     best_of);
  *num_samples = static_cast<int>(best_of);

  const int64_t least = r.kind == ApiKind::chat ? 1 : 0;
  if (r.max_tokens && *r.max_tokens < least)
    return api_error(ErrorKind::invalid, r.max_tokens_field, "{} must be at least {}, not {}",
                     r.max_tokens_field, least, *r.max_tokens);
  // Above the context it is an error anyway, once the prompt is known.
  out->max_tokens = static_cast<int>(std::min<int64_t>(r.max_tokens.value_or(-1), INT32_MAX));
  const int64_t min_tokens = r.min_tokens.value_or(0);
  const int64_t most = r.max_tokens.value_or(model.max_model_len);
  if (auto e = check_int("min_tokens", min_tokens, 0, most)) return e;
  out->min_tokens = static_cast<int>(min_tokens);
  out->ignore_eos = r.ignore_eos;
  return std::nullopt;
}

MaybeError check_scheduling(const ApiRequest& r, int num_samples, GenerateRequest* out) {
  const int64_t priority = r.priority.value_or(0);
  if (auto e = check_int("priority", priority, kMinPriority, kMaxPriority)) return e;
  out->priority = static_cast<int>(priority);
  if (auto e = check_millis("timeout_ms", r.timeout_ms)) return e;
  if (auto e = check_millis("ttft_ms", r.ttft_ms)) return e;
  if (auto e = check_millis("tpot_ms", r.tpot_ms)) return e;
  out->deadline = r.deadline;
  if (r.timeout_ms)
    out->deadline = std::min(out->deadline, r.received + from_millis(*r.timeout_ms));
  if (r.ttft_ms) out->first_token_by = r.received + from_millis(*r.ttft_ms);
  if (r.tpot_ms) out->token_interval = from_millis(*r.tpot_ms);

  if (r.session_id.empty()) return std::nullopt;
  if (r.session_id.size() > kMaxSessionBytes)
    return api_error(ErrorKind::invalid, "session_id",
                     "session_id may be at most {} bytes long, not {}", kMaxSessionBytes,
                     r.session_id.size());
  // A conversation goes on from one answer.
  const size_t prompts = r.kind == ApiKind::chat ? 1 : r.prompts.size();
  if (prompts * num_samples != 1)
    return api_error(ErrorKind::invalid, "session_id",
                     "session_id goes with one prompt and one sample, not {} prompts with {}",
                     prompts, num_samples);
  return std::nullopt;
}

StreamOptions stream_options(const ApiRequest& r, const SamplingParams& sampling, int num_samples) {
  StreamOptions out;
  out.num_samples = num_samples;
  out.num_choices = static_cast<int>(r.n.value_or(1));
  out.stop = r.stop;
  out.include_stop = r.include_stop_str_in_output;
  // A chat's answer is a message of its own, unless it ends one that the client began.
  out.continues = r.kind != ApiKind::chat || r.continue_final_message;
  out.skip_special = r.skip_special_tokens;
  out.min_tokens = sampling.min_tokens;
  out.want_tokens = r.logprobs.has_value() || r.return_token_ids;
  out.want_prompt = r.prompt_logprobs.has_value() || r.return_token_ids;
  out.echo = r.echo;
  out.drop_output = sampling.max_tokens == 0;
  out.prompt_width = sampling.prompt_logprobs + 1;
  out.stop_tokens = sampling.stop_tokens;
  out.want_timing = r.include_timing;
  out.received = r.received;
  return out;
}

}  // namespace sluice
