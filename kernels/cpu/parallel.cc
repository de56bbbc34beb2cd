#include "kernels/cpu/parallel.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>

#include "base/check.h"

namespace sluice::cpu {
namespace {

constexpr auto kWorkerSpin = std::chrono::microseconds(60);
constexpr auto kCallerSpin = std::chrono::microseconds(30);

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Until done() or for about `limit`; whether done.
template <class Done>
bool spin(std::chrono::nanoseconds limit, Done done) {
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

// The tightest of `directory` and its parents up to `root`, in processors; infinity if none.
template <class Read>
double tightest(const std::string& root, std::string path, Read read) {
  double best = INFINITY;
  while (true) {
    best = std::min(best, read(root + path));
    if (path.empty() || path == "/") return best;
    path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
}

double quota_v2(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return INFINITY;
  return std::strtod(quota.c_str(), nullptr) / period;
}

double quota_v1(const std::string& directory) {
  std::ifstream quota_file(directory + "/cpu.cfs_quota_us");
  std::ifstream period_file(directory + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(quota_file >> quota) || !(period_file >> period) || quota <= 0 || period <= 0) {
    return INFINITY;
  }
  return quota / period;
}

double cgroup_quota() {
  std::ifstream groups("/proc/self/cgroup");
  double best = INFINITY;
  for (std::string line; std::getline(groups, line);) {  // hierarchy:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string path = line.substr(second + 1);
    std::stringstream controllers(line.substr(first + 1, second - first - 1));
    if (controllers.str().empty()) {
      best = std::min(best, tightest("/sys/fs/cgroup", path, quota_v2));
    }
    for (std::string name; std::getline(controllers, name, ',');) {
      if (name == "cpu") best = std::min(best, tightest("/sys/fs/cgroup/cpu", path, quota_v1));
    }
  }
  return best;
}

}  // namespace

int available_cpus() {
  int count = int(std::max(1u, std::thread::hardware_concurrency()));
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
  // Rounded down: a team larger than its quota is stopped in the middle of its loops.
  const double quota = cgroup_quota();
  if (quota < count) count = int(quota);
  return std::max(count, 1);
}

ThreadPool::ThreadPool(int num_threads) {
  CHECK(num_threads >= 1);
  for (int w = 1; w < num_threads; ++w) threads_.emplace_back([this, w] { worker_loop(w); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  epoch_.fetch_add(2);
  epoch_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void ThreadPool::run(int64_t count, Call call, void* body) {
  if (count <= 1 || threads_.empty()) {
    for (int64_t i = 0; i < count; ++i) call(body, i, 0);
    return;
  }
  call_ = call;
  body_ = body;
  count_ = count;
  next_.store(0, std::memory_order_relaxed);
  epoch_.fetch_add(1);
  if (asleep_.load() > 0) epoch_.notify_all();
  work(0);
  epoch_.fetch_add(1);
  const auto alone = [this] { return inside_.load() == 0; };
  if (spin(kCallerSpin, alone)) return;
  // Sleeping leaves this processor to a worker that has lost its own.
  caller_asleep_.store(true);
  for (int32_t n = inside_.load(); n != 0; n = inside_.load()) inside_.wait(n);
  caller_asleep_.store(false);
}

void ThreadPool::work(int worker) {
  const int64_t count = count_;
  for (int64_t i = next_.fetch_add(1, std::memory_order_relaxed); i < count;
       i = next_.fetch_add(1, std::memory_order_relaxed)) {
    call_(body_, i, worker);
  }
}

void ThreadPool::worker_loop(int worker) {
  uint32_t done = 0;
  while (true) {
    const auto open = [this, done] {
      const uint32_t e = epoch_.load();
      return (e != done && (e & 1)) || stopping_.load(std::memory_order_relaxed);
    };
    if (!spin(kWorkerSpin, open)) {
      const uint32_t e = epoch_.load();
      asleep_.fetch_add(1);
      if (!open()) epoch_.wait(e);
      asleep_.fetch_sub(1);
      continue;
    }
    if (stopping_.load()) return;
    inside_.fetch_add(1);
    const uint32_t e = epoch_.load();
    if (e & 1) {
      done = e;
      work(worker);
    }
    if (inside_.fetch_sub(1) == 1 && caller_asleep_.load()) inside_.notify_one();
  }
}

}  // namespace sluice::cpu
