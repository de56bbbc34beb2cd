#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace sluice::cpu {

// Processors this process may use: its affinity mask, bounded by the cgroup's quota (v1 or v2).
int available_cpus();

// A team for the engine thread's loops. The thread that calls parallel_for works as worker 0 and
// returns when every index is done; the others sleep on a futex while there is nothing to do, after
// spinning some tens of microseconds (the gap between two ops of a step).
//
// Indices are claimed one by one, so a worker whose processor was taken away delays the loop by
// the piece it holds and no more; one that has not woken in time is not waited for.
//
// One caller at a time; loops do not nest. The body must not throw.
class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return int(threads_.size()) + 1; }

  // body(index, worker) for every index in [0, count), worker in [0, size()).
  template <class Body>
  void parallel_for(int64_t count, Body&& body) {
    using B = std::remove_reference_t<Body>;
    run(
        count, [](void* b, int64_t i, int w) { (*static_cast<B*>(b))(i, w); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using Call = void (*)(void* body, int64_t index, int worker);

  void run(int64_t count, Call call, void* body);
  void work(int worker);
  void worker_loop(int worker);

  // The loop under way. Written by the caller while it is closed and nobody is inside.
  Call call_ = nullptr;
  void* body_ = nullptr;
  int64_t count_ = 0;

  alignas(64) std::atomic<int64_t> next_{0};
  // Rises by one for each loop and by one when it closes: odd while open. Workers sleep on it.
  alignas(64) std::atomic<uint32_t> epoch_{0};
  // Workers that may be looking at the loop. The caller sleeps on it.
  alignas(64) std::atomic<int32_t> inside_{0};
  alignas(64) std::atomic<int32_t> asleep_{0};
  std::atomic<bool> caller_asleep_{false};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

}  // namespace sluice::cpu
