#include "bench/swaps.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

namespace sluice {
namespace {

constexpr int kBlocks = 64;

// The best of `seconds`, as of the ops.
double best_of(double seconds, const std::function<void()>& body) {
  using Clock = std::chrono::steady_clock;
  body();  // starts the thread, and pays for pages
  double best = 1e30, total = 0;
  for (int i = 0; i < 5 || total < seconds; ++i) {
    const auto begin = Clock::now();
    body();
    const double s = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::min(best, s);
    total += s;
  }
  return best;
}

double piece_seconds(Device& device, void* to, const void* from, size_t bytes, double seconds) {
  return best_of(seconds, [&] {
    device.copy(to, from, bytes, device.copy_stream());
    device.sync(device.record(device.copy_stream()));
  });
}

}  // namespace

void bench_swaps(Device& device, const KvShape& shape, double seconds,
                 const std::function<bool(const std::string&)>& only,
                 nlohmann::ordered_json& lines) {
  const size_t block = KvStore::bytes_per_block(shape);
  const auto name_of = [&](int blocks, bool out) {
    return fmt::format("swap {} {} x {} KiB", out ? "out" : "in", blocks, block / 1024);
  };
  std::vector<std::pair<int, bool>> wanted;
  for (const int blocks : {1, kBlocks})
    for (const bool out : {true, false})
      if (only(name_of(blocks, out))) wanted.emplace_back(blocks, out);
  if (wanted.empty()) return;

  const Device::Buffer there = device.allocate(kBlocks * block, Memory::device);
  const Device::Buffer here = device.allocate(kBlocks * block, Memory::pinned_host);
  KvStore kv(device, shape, kBlocks, {kBlocks, {}});
  uint64_t plan = 0;
  for (const auto& [blocks, out] : wanted) {
    const size_t bytes = size_t(blocks) * block;
    const double piece = out ? piece_seconds(device, here.get(), there.get(), bytes, seconds)
                             : piece_seconds(device, there.get(), here.get(), bytes, seconds);
    std::vector<BlockCopy> copies;
    for (int i = 0; i < blocks; ++i) copies.push_back({i, i});
    const double best = best_of(seconds, [&] {
      ++plan;
      out ? kv.swap(plan, copies, {}) : kv.swap(plan, {}, copies);
      kv.copier().wait();
      kv.copier().progress();
    });
    const std::string name = name_of(blocks, out);
    fmt::print("{:<38}{:>11.1f}{:>10.1f}{:>12.1f}{:>7.0f}%\n", name, best * 1e6,
               double(bytes) / best / 1e9, 0.0, 100 * piece / best);
    std::fflush(stdout);
    lines.push_back({{"op", name},
                     {"seconds", best},
                     {"bytes", bytes},
                     {"flops", 0},
                     {"share_of_limit", piece / best},
                     {"pinned_copy_gb_per_s", double(bytes) / piece / 1e9}});
  }
}

}  // namespace sluice
