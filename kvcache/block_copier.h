#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/types.h"
#include "kernels/device.h"

namespace sluice {

// Copies blocks between the device and the host on a thread of its own, in the order in which they
// were asked for. In no order with what computes: whoever asks sees to it that nobody touches
// either end of a copy until progress() has reported it.
//
// One owner thread but for what says otherwise. The device and the memory outlive it.
class BlockCopier {
 public:
  struct Copy {
    void* dst = nullptr;
    const void* src = nullptr;
    bool out = false;  // to the host
  };
  // Counted from the start.
  struct Progress {
    uint64_t done = 0;   // the copies of every plan up to this id have finished
    int64_t blocks = 0;  // copied
    Nanos time{};        // spent copying them
    Nanos out{};         // of that, to the host
  };

  // `before_copy`: for tests; called on the copier's thread before each block, and may hold it up.
  BlockCopier(Device&, size_t block_bytes, std::function<void()> before_copy = {});
  ~BlockCopier();  // drops what has not begun
  BlockCopier(const BlockCopier&) = delete;

  // Notes that the plan was launched, and begins its copies, of which there may be none. Ids never
  // fall. The first copies start the thread.
  void launch(uint64_t plan, std::span<const Copy> copies);
  // Never waits for a copy. What it reports as done can be read on this thread, and on all that it
  // hands work to.
  Progress progress();
  void wait();  // until everything launched has finished

  // `f` is called on the copier's thread whenever a plan's copies have finished and progress() says
  // so. It must be short and must not call back. After this returns, the one before is not called.
  void on_done(std::function<void()> f);

 private:
  struct Item {
    Copy copy;
    bool last = false;  // of its plan
  };
  void run();
  void finish(const Progress& plan);

  Device& device_;
  const size_t block_bytes_;
  const std::function<void()> before_copy_;

  // --- owner ---
  std::vector<uint64_t> outstanding_;  // plans with copies, oldest first
  uint64_t launched_ = 0;
  int64_t num_seen_ = 0;  // finished plans that progress() knows of
  Progress seen_;

  // --- both ---
  std::atomic<int64_t> num_finished_{0};  // plans with copies
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;  // guards what follows
  std::condition_variable queued_cv_, finished_cv_;
  std::vector<Item> queued_;
  Progress total_;  // but for `done`
  std::function<void()> on_done_;

  std::thread thread_;
};

}  // namespace sluice
