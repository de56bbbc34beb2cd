#include "kvcache/kv_groups.h"

#include <algorithm>
#include <array>

namespace sluice {
namespace {

// A table costs every row of every step a line of block ids, written and uploaded.
constexpr int kMostTables = 8;

int blocks_for(int n, int per_block) { return (n + per_block - 1) / per_block; }

}  // namespace

int window_stretches(int reach, int tokens_in_flight, int block_size) {
  return blocks_for(reach + tokens_in_flight, block_size) + 1;
}

KvGrouping one_group(std::span<const int> windows) {
  KvGrouping out;
  out.groups.resize(1);
  out.layers_per_block = int(windows.size());
  bool all = true;
  for (size_t i = 0; i < windows.size(); ++i) {
    out.places.push_back({0, int(i)});
    if (windows[i] < 0) continue;
    all &= windows[i] > 0;
    out.groups[0].reach = std::max(out.groups[0].reach, windows[i]);
  }
  if (!all) out.groups[0].reach = 0;
  return out;
}

KvGrouping group_layers(std::span<const int> windows) {
  const int full = int(std::count(windows.begin(), windows.end(), 0));
  const int windowed =
      int(std::count_if(windows.begin(), windows.end(), [](int w) { return w > 0; }));
  if (full == 0 || windowed == 0) return one_group(windows);
  const auto tables = [&](int k) { return blocks_for(full, k) + blocks_for(windowed, k); };
  // As many layers to a block as the smaller group has, or more where the other is many times
  // larger. Fewer if that leaves less room to spare.
  int best = std::min(full, windowed);
  while (tables(best) > kMostTables) ++best;
  for (int k = best - 1; k > 0 && tables(k) <= kMostTables; --k) {
    if (tables(k) * k < tables(best) * best) best = k;
  }
  KvGrouping out;
  out.layers_per_block = best;
  out.groups = {{blocks_for(full, best), 0}, {blocks_for(windowed, best), 0}};
  std::array<int, kMaxKvGroups> next{};
  for (const int window : windows) {
    if (window < 0) {
      out.places.emplace_back();
      continue;
    }
    const int g = window > 0, i = next[size_t(g)]++;
    out.places.push_back({(g > 0 ? out.groups[0].width : 0) + i / best, i % best});
    out.groups[1].reach = std::max(out.groups[1].reach, window);
  }
  return out;
}

}  // namespace sluice
