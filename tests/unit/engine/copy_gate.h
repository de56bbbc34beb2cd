#pragma once

#include <condition_variable>
#include <mutex>

namespace sluice {

// Holds a BlockCopier up: pass() is its before_copy, and lets through as many blocks as allow()
// said.
class CopyGate {
 public:
  static constexpr int kAll = 1 << 30;

  void pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return allowed_ > 0; });
    --allowed_;
  }
  void allow(int blocks) {
    std::lock_guard lock(mutex_);
    allowed_ += blocks;
    changed_.notify_all();
  }
  // Until the copier is at its n-th block: it has copied all before it, and reported full plans.
  void wait_arrived(int n) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= n; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0, allowed_ = 0;
};

}  // namespace sluice
