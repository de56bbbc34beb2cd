#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "server/frontend.h"

namespace sluice {

// A thread that owns one shard of the hub and does nothing but deliver: for protocols whose library
// brings its own I/O threads (gRPC). HTTP's I/O threads own theirs inside their event loops.
// Constructed before the engine starts, destroyed after it has gone idle.
class ShardThread {
 public:
  ShardThread(Frontend&, int shard);
  ~ShardThread();  // runs what was posted, then joins
  ShardThread(const ShardThread&) = delete;
  ShardThread& operator=(const ShardThread&) = delete;

 private:
  void run();
  void wake();

  Frontend& frontend_;
  const int shard_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false, stopping_ = false;
  std::thread thread_;
};

}  // namespace sluice
