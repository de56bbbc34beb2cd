#pragma once

#include "server/api_error.h"
#include "server/api_types.h"
#include "server/frontend.h"

// The limits of every field, in one place for both protocols.
namespace sluice {

inline constexpr int kMaxStopStrings = 64;
inline constexpr int kMaxStopBytes = 1024;
inline constexpr int kMaxTokenList = 4096;  // stop_token_ids, logit_bias
inline constexpr int kMaxPrompts = 1024;    // in one completion request
inline constexpr int kMaxTopLogprobs = 20;
inline constexpr int kMaxCompletionLogprobs = 5;
inline constexpr double kMaxMillis = 24 * 3600 * 1000;  // timeout_ms, ttft_ms, tpot_ms
inline constexpr int kMaxSessionBytes = 256;

// Everything that does not depend on the prompt. max_tokens stays as the client gave it; without
// one it is -1.
MaybeError check_sampling(const ApiRequest&, const ModelInfo&, int max_n, SamplingParams* sampling,
                          int* num_samples);
// How the request wants to be scheduled: priority, deadline, targets. Its session stays a name.
MaybeError check_scheduling(const ApiRequest&, int num_samples, GenerateRequest* out);
// What of it the stream needs to know.
StreamOptions stream_options(const ApiRequest&, const SamplingParams&, int num_samples);

}  // namespace sluice
