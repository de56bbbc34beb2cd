#pragma once

#include <bit>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "scheduler/request.h"

namespace sluice {

// Everything that a client can see of a sample, to the bit.
struct Trace {
  std::vector<TokenId> tokens;
  std::vector<uint32_t> logprobs;  // bits
  std::vector<std::pair<TokenId, uint32_t>> top, prompt;
  FinishReason finish = FinishReason::none;

  void take(const TokenEvent& e) {
    if (e.token >= 0) {
      tokens.push_back(e.token);
      logprobs.push_back(std::bit_cast<uint32_t>(e.logprob));
    }
    append(top, e.known().top);
    append(prompt, e.known().prompt_logprobs);
    finish = e.finish;
  }
  bool operator==(const Trace&) const = default;

 private:
  static void append(std::vector<std::pair<TokenId, uint32_t>>& to,
                     const std::vector<TokenLogprob>& from) {
    for (const TokenLogprob& t : from) to.push_back({t.token, std::bit_cast<uint32_t>(t.logprob)});
  }
};
using Traces = std::map<std::pair<RequestId, int>, Trace>;
using Requests = std::vector<std::pair<RequestId, GenerateRequest>>;

// One request of every kind, on prompts of which some share a beginning.
inline Requests mixed_requests(int vocab) {
  Requests all;
  for (int i = 0; i < 14; ++i) {
    GenerateRequest r;
    const int length = 3 + i * 5;
    for (int t = 0; t < length; ++t)
      r.prompt.push_back(TokenId(mix64(t < 32 ? i % 2 : i, t) % uint64_t(vocab)));
    SamplingParams& p = r.sampling;
    p.seed = 100 + i;
    p.max_tokens = 12 + i;
    p.ignore_eos = i % 3 != 0;
    p.min_tokens = i % 3 == 0 ? 4 : 0;
    p.temperature = i % 4 == 0 ? 0.0f : 0.9f;
    if (i % 4 == 2) p.top_k = 20;
    if (i % 4 == 3) p.top_p = 0.8f;
    if (i % 5 == 1) p.frequency_penalty = 0.7f;
    if (i % 5 == 2) p.repetition_penalty = 1.3f;
    if (i % 5 == 3) p.logit_bias = {{5, 2.0f}, {7, -1.0f}};
    if (i % 6 == 4) p.top_logprobs = 1 + i % 3;
    if (i % 7 == 5) p.prompt_logprobs = 2;
    if (i % 7 == 6) p.allowed = {2, 3, 5, 8, 13, 21, 34};
    if (i % 4 == 1) r.num_samples = 3;
    all.push_back({RequestId(i), std::move(r)});
  }
  return all;
}

}  // namespace sluice
