#include "server/shard_thread.h"

namespace sluice {

ShardThread::ShardThread(Frontend& frontend, int shard) : frontend_(frontend), shard_(shard) {
  frontend_.hub().set_wake(shard, [this] { wake(); });
  thread_ = std::thread([this] { run(); });
}

ShardThread::~ShardThread() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
  frontend_.hub().set_wake(shard_, nullptr);
}

void ShardThread::wake() {
  // Notified under the lock: the destructor may run as soon as the thread has seen the flag.
  std::lock_guard lock(mutex_);
  woken_ = true;
  changed_.notify_one();
}

void ShardThread::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return woken_ || stopping_; });
    const bool last = stopping_;
    woken_ = false;
    lock.unlock();
    frontend_.pump(shard_);
    lock.lock();
    if (last) return;
  }
}

}  // namespace sluice
