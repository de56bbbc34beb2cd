#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/types.h"
#include "scheduler/trace.h"

namespace sluice {

// All values are in range when they come here: the front end refused the rest, naming the field.
// What the scheduler looks at for every token comes first.
struct SamplingParams {
  // Before min_tokens tokens the sampler bans end-of-text and stop tokens, and none ends a sample.
  int max_tokens = 256, min_tokens = 0;
  int top_logprobs = 0;      // alternatives wanted with each token
  int prompt_logprobs = -1;  // alternatives wanted with each prompt token; -1: no prompt logprobs
  std::vector<TokenId> stop_tokens;  // stop *strings* belong to text/, not here
  bool ignore_eos = false;
  float temperature = 1.0f, top_p = 1.0f, min_p = 0.0f;
  int top_k = 0;  // 0: off
  float presence_penalty = 0.0f, frequency_penalty = 0.0f, repetition_penalty = 1.0f;
  uint64_t seed = 0;  // sample i uses mix64(seed, i); drawn by the front end if not seed_given
  bool seed_given = false;  // by the client; else a session goes on with its own
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::vector<TokenId> allowed;  // empty: all
};

inline constexpr int kMinPriority = -1000, kMaxPriority = 1000;

// What a front end hands to the engine: token ids in, token ids out.
struct GenerateRequest {
  SamplingParams sampling;
  std::vector<TokenId> prompt;
  int num_samples = 1;        // sequences forked after the prompt, blocks shared copy-on-write
  int priority = 0;           // lower runs first; kMinPriority to kMaxPriority
  uint32_t tenant = 0;        // index into Policy::tenant_weights
  Instant deadline = kNever;  // work past it is dropped and freed
  // When the client wants its first token, and the time between tokens it wants (0: as configured).
  // The first moves it up in the order when time runs out, the second shortens steps beside it.
  Instant first_token_by = kNever;
  Nanos token_interval{0};
  uint64_t session = 0;     // 0: none; else the last, partial block is kept for the next turn
  uint64_t cache_salt = 0;  // requests share prefixes only with requests of the same salt
  std::string tag;          // opaque; appears in logs
};

struct TokenLogprob {
  TokenId token = -1;
  float logprob = 0.0f;
};

// overloaded: the queue was full and nothing was computed; the client may retry.
// error: it could never run; the event's details say why.
enum class FinishReason : uint8_t { none, stop, length, cancelled, deadline, overloaded, error };

// What few events carry.
struct TokenDetails {
  std::vector<TokenLogprob> top;  // empty unless asked for; best first
  // The request's first token, if asked for: for each prompt token but the first, its own logprob
  // followed by the `prompt_logprobs` best alternatives; flat.
  std::vector<TokenLogprob> prompt_logprobs;
  std::shared_ptr<const RequestTrace> trace;  // on the request's very last event
  std::string refusal;                        // finish == error: what the client asked too much of
};

// What the engine hands back: one per sampled token, and exactly one last event with
// finish != none per (request, sample); that one's token may be -1 (ended without a new token).
// A token that ended the sample by being a stop or end-of-text token comes with finish == stop.
// Half a cache line: a thousand of them a step pass from thread to thread.
struct TokenEvent {
  RequestId request = 0;
  TokenId token = -1;
  float logprob = 0.0f;
  int num_cached = 0;  // prompt tokens served from the cache (the request's first token)
  uint16_t sample = 0;
  FinishReason finish = FinishReason::none;
  std::unique_ptr<TokenDetails> details;  // null: none

  const TokenDetails& known() const {
    static const TokenDetails kNone;
    return details ? *details : kNone;
  }
  TokenDetails& add_details() {
    if (!details) details = std::make_unique<TokenDetails>();
    return *details;
  }
};

}  // namespace sluice
