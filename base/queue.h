#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

namespace sluice {

// Bounded multi-producer, single-consumer queue. The consumer takes everything at once, so a busy
// consumer pays one lock a round however many items came. Producers never wait.
template <class T>
class Queue {
 public:
  explicit Queue(size_t capacity) : capacity_(capacity) { items_.reserve(64); }

  // False when full: the item is untouched.
  bool try_push(T&& item) {
    {
      std::lock_guard lock(mutex_);
      if (num_counted_ >= capacity_) return false;
      ++num_counted_;
      items_.push_back(std::move(item));
    }
    wake_.notify_one();
    return true;
  }

  // For what must not be lost (a cancel, a stop): takes no room from what try_push() brings.
  void push(T&& item) {
    {
      std::lock_guard lock(mutex_);
      items_.push_back(std::move(item));
    }
    wake_.notify_one();
  }

  // What is in it stays, also when that is more.
  void set_capacity(size_t capacity) {
    std::lock_guard lock(mutex_);
    capacity_ = capacity;
  }

  // Wakes the consumer, now or when it next waits, with nothing to take: there is news elsewhere.
  void poke() {
    {
      std::lock_guard lock(mutex_);
      poked_ = true;
    }
    wake_.notify_one();
  }

  // Swaps all items into `out` (which must be empty; its capacity is recycled). Does not wait.
  void take(std::vector<T>& out) {
    std::lock_guard lock(mutex_);
    items_.swap(out);
    num_counted_ = 0;
    poked_ = false;
  }

  // Waits until there is something to take, or a poke since the last take(), or until `deadline`.
  template <class Clock, class Duration>
  void wait_until(std::chrono::time_point<Clock, Duration> deadline) {
    std::unique_lock lock(mutex_);
    wake_.wait_until(lock, deadline, [&] { return poked_ || !items_.empty(); });
  }
  void wait() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return poked_ || !items_.empty(); });
  }

 private:
  size_t capacity_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<T> items_;
  size_t num_counted_ = 0;  // of items_, against the capacity
  bool poked_ = false;
};

}  // namespace sluice
