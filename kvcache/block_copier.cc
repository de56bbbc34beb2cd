#include "kvcache/block_copier.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace sluice {

BlockCopier::BlockCopier(Device& device, size_t block_bytes, std::function<void()> before_copy)
    : device_(device), block_bytes_(block_bytes), before_copy_(std::move(before_copy)) {}

BlockCopier::~BlockCopier() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  queued_cv_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void BlockCopier::launch(uint64_t plan, std::span<const Copy> copies) {
  CHECK(plan >= launched_);
  launched_ = plan;
  if (copies.empty()) return;
  outstanding_.push_back(plan);
  {
    std::lock_guard lock(mutex_);
    for (const Copy& c : copies) queued_.push_back({c, false});
    queued_.back().last = true;
  }
  queued_cv_.notify_one();
  if (thread_.joinable()) return;
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "block copies");
    run();
  });
}

BlockCopier::Progress BlockCopier::progress() {
  // The lock is for when there is news, a plan at most behind: `blocks` and `time` go together.
  if (!outstanding_.empty() && num_finished_.load(std::memory_order_acquire) > num_seen_) {
    std::lock_guard lock(mutex_);
    const int64_t finished = num_finished_.load(std::memory_order_relaxed);
    outstanding_.erase(outstanding_.begin(), outstanding_.begin() + (finished - num_seen_));
    num_seen_ = finished;
    seen_.blocks = total_.blocks;
    seen_.time = total_.time;
    seen_.out = total_.out;
  }
  // Between two plans with copies there may be plans without.
  seen_.done = outstanding_.empty() ? launched_ : std::max(outstanding_.front(), uint64_t{1}) - 1;
  return seen_;
}

void BlockCopier::wait() {
  std::unique_lock lock(mutex_);
  finished_cv_.wait(lock, [&] {
    return num_finished_.load(std::memory_order_relaxed) - num_seen_ ==
           int64_t(outstanding_.size());
  });
}

void BlockCopier::on_done(std::function<void()> f) {
  std::lock_guard lock(mutex_);
  on_done_ = std::move(f);
}

void BlockCopier::run() {
  using Clock = std::chrono::steady_clock;
  std::vector<Item> items;
  for (;;) {
    items.clear();
    {
      std::unique_lock lock(mutex_);
      queued_cv_.wait(lock, [&] { return stopping_ || !queued_.empty(); });
      items.swap(queued_);
    }
    Progress plan;  // of this one alone
    bool begins = true;
    Clock::time_point begin;
    for (size_t i = 0; i < items.size() && !stopping_; ++i) {
      const Copy& copy = items[i].copy;
      if (begins) begin = Clock::now();
      if (before_copy_) before_copy_();
      device_.copy(copy.dst, copy.src, block_bytes_, device_.copy_stream());
      ++plan.blocks;
      // A plan's copies are queued together, so there is a next one.
      begins = items[i].last || items[i + 1].copy.out != copy.out;
      if (!begins) continue;
      device_.sync(device_.record(device_.copy_stream()));
      const Nanos time = Clock::now() - begin;
      plan.time += time;
      if (copy.out) plan.out += time;
      if (items[i].last) finish(std::exchange(plan, {}));
    }
    if (stopping_) break;
  }
  device_.sync(device_.record(device_.copy_stream()));  // what has begun, ends
}

void BlockCopier::finish(const Progress& plan) {
  std::lock_guard lock(mutex_);
  total_.blocks += plan.blocks;
  total_.time += plan.time;
  total_.out += plan.out;
  num_finished_.fetch_add(1, std::memory_order_release);
  finished_cv_.notify_all();
  if (on_done_) on_done_();
}

}  // namespace sluice
