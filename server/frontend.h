#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "engine/engine.h"
#include "server/api_error.h"
#include "server/api_types.h"
#include "server/limits.h"
#include "server/request_registry.h"
#include "server/stream_hub.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace sluice {

// What the front end knows about the model it serves. Immutable.
struct ModelInfo {
  std::string name;
  int64_t created = 0;  // unix seconds
  int max_model_len = 0;
  bool random_weights = false;  // nobody trained them
  int vocab_size = 0;           // rows of the embedding: ids below it may be sent
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  // generation_config.json's values, used where a request does not say.
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
};

// A request that passed every check: what the engine will run, and what the client wants to see.
struct Job {
  std::string id;                            // of the response
  std::vector<GenerateRequest> requests;     // one per prompt
  std::vector<TokenStream::Prompt> prompts;  // likewise
  StreamOptions stream;
  Usage usage() const;  // prompt tokens of all prompts
};

// An error, or what was asked for.
using RequestAnswer = std::function<void(const MaybeError&, std::vector<RequestView>)>;
// The engine answers between two steps; who asks gives up after this long.
inline constexpr Nanos kInspectLimit = std::chrono::seconds(10);
ApiError no_answer_error();

struct Readiness {
  bool ready = false;
  const char* reason = "";  // failed, starting, draining, stalled; empty when ready
};

// The one way in, whatever the protocol: validate -> template -> tokenise -> open a stream ->
// submit. Has no per-request state; every method is safe on any thread unless it names a shard.
class Frontend {
 public:
  // `config`: its preset has been applied.
  Frontend(ModelInfo, const Config& config, Engine&, StreamHub&, Metrics&);

  const ModelInfo& model() const { return model_; }

  // Checks every field against its limits, renders, tokenises. The error names the field.
  MaybeError prepare(const ApiRequest&, Job* job) const;

  // Opens the way back on `shard` (on that shard's thread) and submits. On success `*stream` names
  // the response for cancel(); on an error the writer was destroyed unused.
  MaybeError start(int shard, Job, std::unique_ptr<ChunkWriter>, RequestId* stream);
  // The client is gone: frees everything of the response. That shard's thread only; unknown ids are
  // ignored. From another thread: hub().post(shard, ...).
  void cancel(int shard, RequestId stream);
  // The body of a shard's wake-up: delivers tokens. That shard's thread only.
  void pump(int shard);

  // Live requests in order of arrival; and one by its id, live or ended not long ago. `done` runs
  // on the shard's thread, or at once; never, should the engine hang.
  void list_requests(int shard, RequestAnswer done) const;
  void request_trace(int shard, const std::string& id, RequestAnswer done) const;
  // Ends every response of that id with an error. Any thread.
  MaybeError cancel_request(const std::string& id);

  // `model` as a request names it: empty, or the served name.
  MaybeError check_model(std::string_view model) const;
  // Text of a chat request, and tokens of either kind, as prepare() makes them.
  MaybeError render_chat(const ApiRequest&, std::string* text) const;
  MaybeError tokenize(const ApiRequest&, std::vector<TokenId>* ids) const;
  MaybeError detokenize(const std::vector<TokenId>& ids, std::string* text) const;

  // Whether start() would take a request now; cheap, so it can be asked before parsing one.
  MaybeError accepting() const;
  // Refuses a request whose first token is predicted later than scheduler.max_ttft_seconds: once
  // its size is known, before it is parsed.
  MaybeError admit(int64_t body_bytes) const;
  // For sluice_requests_rejected_total: call once with whatever error refused a request.
  void count_rejected(const ApiError&) const;

  void set_ready();       // after warm-up
  void announce_drain();  // from now on not ready, for balancers to notice; work is still taken
  void begin_drain();     // from now on start() refuses too
  void set_failed();      // the same, and for good: the device has failed
  bool draining() const { return announced_; }
  Readiness readiness() const;
  // Work, but no step for server.stall_seconds: nothing but a new process will help.
  bool stalled() const;
  const Limits& limits() const { return limits_; }
  void set_limits(const Config&);  // any thread
  Scheduler::Stats stats() const { return engine_.stats(); }
  StreamHub& hub() { return hub_; }
  Metrics& metrics() const { return metrics_; }
  std::string expose_metrics() const;

 private:
  MaybeError tokenize_prompt(const ApiRequest&, const PromptInput&,
                             std::vector<TokenId>* ids) const;
  MaybeError fit_prompt(const ApiRequest&, std::vector<TokenId>* ids, SamplingParams*) const;
  MaybeError add_prompt(const ApiRequest&, const PromptInput&, GenerateRequest, Job*) const;
  MaybeError check_wait(int64_t body_bytes, double limit_seconds, const char* limit_name) const;
  void set_names(const ApiRequest&, GenerateRequest*) const;

  const ModelInfo model_;
  Limits limits_;
  const bool trust_request_template_;
  const int step_tokens_, block_size_;
  Engine& engine_;
  StreamHub& hub_;
  Metrics& metrics_;
  const std::shared_ptr<RequestRegistry> registry_ = std::make_shared<RequestRegistry>();
  const uint64_t hash_key_;  // of names that clients choose: salts and sessions
  int longest_piece_ = 1;    // bytes; bounds how much text can fit the context
  std::atomic<bool> ready_{false}, announced_{false}, draining_{false}, failed_{false};
};

}  // namespace sluice
