#include "kernels/cpu/parallel.h"

#include <gtest/gtest.h>

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <numeric>

namespace sluice::cpu {
namespace {

TEST(ThreadPool, RunsEveryIndexOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> hits(count);
      std::atomic<bool> bad_worker{false};
      pool.parallel_for(count, [&](int64_t i, int worker) {
        ++hits[i];
        if (worker < 0 || worker >= threads) bad_worker = true;
      });
      EXPECT_TRUE(std::all_of(hits.begin(), hits.end(), [](const auto& h) { return h == 1; }));
      EXPECT_FALSE(bad_worker);
    }
  }
}

// Loops back to back, with gaps shorter and longer than the spin: what a loop wrote is seen by the
// next, and no worker enters a loop that is over (its body is dead by then).
TEST(ThreadPool, ManyLoopsWithGaps) {
  ThreadPool pool(4);
  std::vector<int64_t> values(257, 0);
  for (int round = 0; round < 4000; ++round) {
    const int64_t count = 1 + round % 257;
    {
      std::vector<int64_t> add(count, round);  // dies with the loop
      pool.parallel_for(count, [&](int64_t i, int) { values[i] += add[i]; });
    }
    if (round % 400 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (round % 7 == 0) std::this_thread::yield();
  }
  std::vector<int64_t> want(257, 0);
  for (int round = 0; round < 4000; ++round) {
    for (int64_t i = 0; i < 1 + round % 257; ++i) want[i] += round;
  }
  EXPECT_EQ(values, want);
}

// A worker's buffers are its own: no two pieces run under one worker's number at a time.
TEST(ThreadPool, WorkersDoNotShareNumbers) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<bool> shared{false};
  for (int round = 0; round < 200; ++round) {
    pool.parallel_for(64, [&](int64_t, int worker) {
      if (inside[worker].fetch_add(1) != 0) shared = true;
      for (volatile int spin = 0; spin < 200;) spin = spin + 1;
      inside[worker].fetch_sub(1);
    });
  }
  EXPECT_FALSE(shared);
}

TEST(ThreadPool, StartsAndStopsIdle) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(3);
}

// CPU time, not wall time: an idle pool that polled would burn most of it.
TEST(ThreadPool, SleepsWhenIdle) {
  ThreadPool pool(3);
  pool.parallel_for(10, [](int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto cpu_ms = [] {
    rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000.0 +
           (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000.0;
  };
  const double before = cpu_ms();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(cpu_ms() - before, 30);
}

TEST(AvailableCpus, IsWithinTheMachine) {
  EXPECT_GE(available_cpus(), 1);
  EXPECT_LE(available_cpus(), int(std::max(1u, std::thread::hardware_concurrency())));
}

}  // namespace
}  // namespace sluice::cpu
