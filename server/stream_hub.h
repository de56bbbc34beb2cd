#pragma once

#include <functional>
#include <memory>
#include <span>

#include "engine/engine.h"
#include "server/token_stream.h"

namespace sluice {

// Routes a step's events to the I/O threads that own the streams: the shard is
// request_id % io_threads, one queue push and one posted wake-up per shard per
// step, however many sequences are in the batch.
class StreamHub final : public OutputSink {
 public:
  explicit StreamHub(int shards);
  ~StreamHub() override;
  void deliver(std::span<TokenEvent>) override;  // engine thread

  // Below: only from the I/O thread that owns `shard`.
  RequestId open(int shard, const std::function<std::unique_ptr<TokenStream>(RequestId)>& make);
  void pump(int shard, Engine&);  // drain the queue, feed streams, cancel as asked

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
