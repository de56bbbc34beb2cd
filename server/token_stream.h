#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "server/chunk_writer.h"
#include "text/detokenizer.h"
#include "text/stop_matcher.h"
#include "text/tokenizer.h"

namespace sluice {

// What the client wants to see of the tokens.
struct StreamOptions {
  int num_samples = 1;  // per prompt
  std::vector<std::string> stop;
  bool include_stop = false;  // stop strings and stop tokens appear in the text
  bool skip_special = true;   // special tokens have no text
  int min_tokens = 0;         // no stop string ends a sample before this
  bool want_tokens = false;   // Delta::tokens is filled in
  bool want_prompt = false;   // ChunkWriter::prompt is called
  bool echo = false;          // each choice begins with its prompt
  bool drop_output = false;   // max_tokens 0: the engine sampled one token that nobody asked for
  int prompt_width = 0;       // 1 + alternatives of each prompt token; 0: no prompt logprobs
  std::vector<TokenId> stop_tokens;  // the client's own, for the stop reason
  Instant received{};                // for the latency metrics
  Instant deadline = kNever;
};

// A response on its way back to its client: one or several prompts (each one engine request), each
// with one or several samples. Born, fed and destroyed on one I/O thread, so it needs no lock.
// Detokenising and stop strings happen here, off the engine.
class TokenStream {
 public:
  struct Prompt {
    std::vector<TokenId> ids;  // kept only for echo and want_prompt
    std::string text;          // kept only for echo
    int num_tokens = 0;
  };

  TokenStream(const Tokenizer&, StreamOptions, std::vector<Prompt>, std::unique_ptr<ChunkWriter>,
              Metrics&);
  ~TokenStream();

  // cancel_sample: a stop string ended this sample, the engine need not go on with it.
  // failed: the response is over, every request of it is to be cancelled.
  enum class Next { more, cancel_sample, failed };
  Next push(int prompt, TokenEvent&, Instant now);
  // After the events of one wake-up. False: the client is gone.
  bool flush();
  bool done() const { return num_open_ == 0; }  // and end() has been written by flush()
  // Ends the response with an error, if it has not ended.
  void fail(const ApiError&);

 private:
  struct Choice;
  struct PromptState;

  void open_prompt(int prompt, TokenEvent&);
  void add_token(Choice&, const PromptState&, TokenEvent&, bool hidden);
  void begin_echo(Choice&, const PromptState&);
  std::string through_stops(Choice&, std::string text, bool last, int* stopped);
  void record(Choice&, Instant now);
  Usage usage_of(const Choice&) const;

  const Tokenizer& tokenizer_;
  const StreamOptions options_;
  std::unique_ptr<ChunkWriter> writer_;
  Metrics& metrics_;
  std::vector<PromptState> prompts_;
  std::vector<Choice> choices_;
  int num_open_ = 0;   // choices that have not finished
  bool over_ = false;  // end() or fail() was called
  bool first_seen_ = false;
};

}  // namespace sluice
