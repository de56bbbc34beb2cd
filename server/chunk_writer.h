#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "scheduler/request.h"
#include "server/api_error.h"
#include "server/timing.h"

namespace sluice {

struct Usage {
  int prompt = 0, cached = 0, completion = 0;  // tokens
};

// One token with what the client asked to know about it.
struct TokenOut {
  TokenId id = -1;
  bool has_logprob = true;  // false: the first token of an echoed prompt
  float logprob = 0.0f;
  int text_offset = 0;            // characters from the start of the choice's text
  std::vector<TokenLogprob> top;  // best first
};

// The prompt, for clients that want its ids or log-probabilities.
struct PromptOut {
  std::span<const TokenId> ids;
  std::span<const TokenLogprob> logprobs;  // [ids.size() - 1][width], own token first; or empty
  int width = 0;                           // 1 + alternatives
};

// What one choice gained. Views are valid during the call only.
struct Delta {
  int choice = 0;                            // prompt * StreamOptions::num_choices + number
  std::string_view text;                     // valid UTF-8, maybe empty
  std::span<const TokenOut> tokens;          // empty unless StreamOptions::want_tokens
  FinishReason finish = FinishReason::none;  // none, stop or length
  std::string_view stop_text;                // the stop string that ended it, if one did
  TokenId stop_token = -1;  // the client's own stop token that ended it, if one did
  Usage usage;              // this choice so far
};

// One protocol's way of writing a response: SSE chunks, one JSON body, gRPC messages. Owned by the
// TokenStream, called on the I/O thread that owns it, never after end() or fail().
class ChunkWriter {
 public:
  virtual ~ChunkWriter() = default;
  // Once per prompt, before its first delta; only if StreamOptions::want_prompt.
  virtual void prompt(int index, const PromptOut&) = 0;
  virtual void write(const Delta&) = 0;
  // Every choice has finished. `timing`: null unless StreamOptions::want_timing, and known.
  virtual void end(const Usage&, const Timing* timing) = 0;
  virtual void fail(const ApiError&) = 0;  // instead of end
  // After the last call of one wake-up: put on the wire what has gathered. Must not block.
  // False: the client is gone, cancel the request.
  virtual bool flush() = 0;
};

}  // namespace sluice
