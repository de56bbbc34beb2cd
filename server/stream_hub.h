#pragma once

#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "server/token_stream.h"

namespace sluice {

// Routes a step's events to the threads that own the streams. A shard is such a thread: the HTTP
// server's I/O threads are the first shards, gRPC's delivery threads come after them. A request's
// shard is id % num_shards; a step costs one queue push and at most one wake-up per shard, however
// many sequences are in the batch.
//
// The hub outlives the engine it is the sink of. Every request that was opened and submitted gets
// one final event per sample; its route lives until then, also when the client has left.
class StreamHub final : public OutputSink {
 public:
  explicit StreamHub(int num_shards);
  ~StreamHub() override;

  int num_shards() const;
  // Before the engine starts. `wake` makes the shard's thread call pump(shard) soon; it is called
  // on any thread, must not block, and is not called again until that pump has begun.
  void set_wake(int shard, std::function<void()> wake);
  // Before the engine starts. Called with every request's last event, also when its client has
  // left, on the thread of its shard.
  using OnEnd = std::function<void(RequestId, const std::shared_ptr<const RequestTrace>&)>;
  void set_on_end(OnEnd on_end) { on_end_ = std::move(on_end); }
  void deliver(std::span<TokenEvent>) override;  // engine thread
  // Any thread: runs `task` on the shard's thread, at its next pump, behind the events that were
  // delivered before.
  void post(int shard, std::function<void()> task);

  // --- below: only on the thread that owns `shard` ---

  // Registers a response and draws the ids of its engine requests, one per prompt; the first is the
  // stream's own id. The caller then submits them.
  std::vector<RequestId> open(int shard, std::unique_ptr<TokenStream>, int num_prompts,
                              int num_samples);
  // The client has left (or a submit failed): cancels the engine requests that are still alive and
  // destroys the stream with its writer. Unknown ids are ignored: the race with the end is normal.
  // `num_submitted`: requests of the stream that the engine knows; no event comes for the others.
  void close(int shard, RequestId stream, Engine&, int num_submitted = 1 << 30);
  // Ends the response with an error, and cancels likewise. `reason`: for the metrics.
  void fail(int shard, RequestId stream, const ApiError&, const char* reason, Engine&);
  // Feeds what has arrived to the streams, and cancels as they ask.
  void pump(int shard, Engine&);

  int num_open() const;  // streams over all shards; any thread

 private:
  struct Shard;
  std::vector<std::unique_ptr<Shard>> shards_;
  OnEnd on_end_;
};

}  // namespace sluice
