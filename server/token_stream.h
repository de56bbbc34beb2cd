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
  int num_choices = 1;  // of those, shown; fewer: the likeliest, and only once all have ended
  std::vector<std::string> stop;
  bool include_stop = false;  // stop strings and stop tokens appear in the text
  bool skip_special = true;   // special tokens have no text
  bool continues = false;     // the text goes on from the prompt's, and is not one of its own
  int min_tokens = 0;         // no stop string ends a sample before this
  bool want_tokens = false;   // Delta::tokens is filled in
  bool want_prompt = false;   // ChunkWriter::prompt is called
  bool echo = false;          // each choice begins with its prompt
  bool drop_output = false;   // max_tokens 0: the engine samples one token nobody asked for
  int prompt_width = 0;       // 1 + alternatives of a prompt token; 0: no prompt logprobs
  std::vector<TokenId> stop_tokens;  // the client's own, for the stop reason
  bool want_timing = false;  // ChunkWriter::end gets it; it waits for the engine's last event
  Instant received{};        // for the latency metrics
};

// A response on its way back to its client: one or several prompts (each one engine request), each
// with one or several samples. Born, fed and destroyed on one I/O thread, so it needs no lock.
// Detokenising and stop strings happen here, off the engine.
//
// Where fewer choices are wanted than samples are made (best_of), they are those with the highest
// mean log-probability per token, as OpenAI defines it, best first; usage counts all.
//
// A token counts as emitted (usage, logprobs, token ids) up to the one that ended its sample, that
// one included; what the engine computed after a stop string was found does not.
class TokenStream {
 public:
  struct Prompt {
    std::vector<TokenId> ids;  // kept only for echo and want_prompt
    std::string text;          // kept only for echo
    int num_tokens = 0;
  };

  TokenStream(std::shared_ptr<const Tokenizer>, StreamOptions, std::vector<Prompt>,
              std::unique_ptr<ChunkWriter>, Metrics&);
  ~TokenStream();

  // cancel_sample: a stop string ended this sample, the engine need not go on with it.
  // failed: the response is over, every request of it is to be cancelled.
  enum class Next { more, cancel_sample, failed };
  Next push(int prompt, TokenEvent&, Instant now);
  // After the events of one wake-up. False: the client is gone.
  bool flush(Instant now);
  bool done() const { return over_; }
  // Ends the response with an error, if it has not ended. `reason` is for the metrics.
  void fail(const ApiError&, const char* reason);
  void abandon() { over_ = true; }  // nothing began: the caller reports the error itself

 private:
  struct Choice;
  struct PromptState;

  std::string take_text(Choice&, const TokenEvent&, bool hidden);
  std::string through_stops(Choice&, std::string text, bool last, int* stopped);
  void keep_token(Choice&, TokenEvent&, bool hidden);
  void begin(Choice&, const PromptState&);
  void emit(Choice&, bool force);
  void echo_tokens(Choice&, const PromptState&);
  void end(Instant now);
  std::vector<Choice*> best_choices();
  bool ranked() const { return options_.num_choices < options_.num_samples; }
  void record_gap(Choice&, Instant now);

  const std::shared_ptr<const Tokenizer> tokenizer_;
  const StreamOptions options_;
  const std::unique_ptr<ChunkWriter> writer_;
  Metrics& metrics_;
  std::vector<PromptState> prompts_;
  std::vector<Choice> choices_;
  int num_open_ = 0;   // samples that have not finished
  int num_owed_ = 0;   // samples whose last event has not come; one cut short is still owed one
  bool over_ = false;  // end() or fail() was called
  bool any_token_ = false;
};

}  // namespace sluice
