#include "kvcache/budget.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <optional>

#include "base/check.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

std::optional<int64_t> read_bytes(const fs::path& file) {
  std::ifstream in(file);
  int64_t value = 0;
  if (!(in >> value) || value <= 0) return std::nullopt;  // absent, or "max"
  return value;
}

// A key of /proc/meminfo, which counts in KiB.
std::optional<int64_t> meminfo(const fs::path& root, const std::string& key) {
  std::ifstream in(root / "proc/meminfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key + ":"))
      return std::strtoll(line.c_str() + key.size() + 1, nullptr, 10) * 1024;
  return std::nullopt;
}

// The least limit of a group and all groups above it. A container may see its own group as the
// root of the mount while /proc names it by its path outside: then the part that exists counts.
std::optional<int64_t> least_limit(const fs::path& mount, fs::path group, const char* file) {
  std::optional<int64_t> least;
  for (group = group.relative_path();; group = group.parent_path()) {
    if (const auto bytes = read_bytes(mount / group / file))
      least = std::min(least.value_or(*bytes), *bytes);
    if (group.empty()) return least;
  }
}

std::optional<int64_t> cgroup_limit(const fs::path& root) {
  std::optional<int64_t> least;
  std::ifstream in(root / "proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "4:memory:/path", "0::/path"
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path group = line.substr(second + 1);
    std::optional<int64_t> limit;
    if (controllers.empty())
      limit = least_limit(root / "sys/fs/cgroup", group, "memory.max");
    else if (("," + controllers + ",").find(",memory,") != std::string::npos)
      limit = least_limit(root / "sys/fs/cgroup/memory", group, "memory.limit_in_bytes");
    if (limit) least = std::min(least.value_or(*limit), *limit);
  }
  return least;
}

int64_t blocks_of(int64_t tokens, int block_size) { return (tokens + block_size - 1) / block_size; }

// Slots are numbered in 32 bits.
int64_t most_blocks(const MemoryNeeds& needs) {
  return std::numeric_limits<int32_t>::max() / needs.block_size;
}

// Sizes the host tier in what the rest of `plan` leaves.
absl::Status add_host_tier(int64_t host_bytes, MemoryPlan& plan) {
  const MemoryNeeds& needs = plan.needs;
  if (host_bytes == 0) return absl::OkStatus();
  if (host_bytes < needs.block_bytes)
    return invalid_argument("cache.host_bytes = {} ({}) is less than a block of {} tokens, {}",
                            host_bytes, bytes_text(host_bytes), needs.block_size,
                            bytes_text(needs.block_bytes));
  if (plan.host && host_bytes > plan.host->bytes)
    return resource_exhausted("cache.host_bytes = {} ({}) does not fit: the {} of the host is {}",
                              host_bytes, bytes_text(host_bytes), plan.host->source,
                              bytes_text(plan.host->bytes));
  const int64_t left = plan.limit.bytes - plan.total_bytes();
  if (!plan.host && host_bytes > left)
    return resource_exhausted(
        "cache.host_bytes = {} ({}) does not fit: the {} is {}, weights and scratch take {} and "
        "the KV cache {}, which leaves {}",
        host_bytes, bytes_text(host_bytes), plan.limit.source, bytes_text(plan.limit.bytes),
        bytes_text(needs.fixed_bytes()), bytes_text(plan.kv_bytes()),
        bytes_text(std::max<int64_t>(left, 0)));
  plan.num_host_blocks = int(std::min(host_bytes / needs.block_bytes, most_blocks(needs)));
  return absl::OkStatus();
}

}  // namespace

MemoryLimit read_memory_limit(const fs::path& root) {
  const auto available = meminfo(root, "MemAvailable");
  MemoryLimit limit{available.value_or(std::numeric_limits<int64_t>::max()), "available memory"};
  // "No limit" is a huge number in a v1 group: the minimum sees to it.
  const auto cgroup = cgroup_limit(root);
  if (cgroup && *cgroup < limit.bytes) limit = {*cgroup, "cgroup limit"};
  return limit;
}

absl::StatusOr<MemoryPlan> plan_memory(const Config::Cache& cache, const MemoryNeeds& needs,
                                       const MemoryLimit& limit,
                                       const std::optional<MemoryLimit>& host) {
  CHECK(needs.block_bytes > 0 && needs.block_size > 0);
  CHECK(needs.max_seqs > 0 && needs.max_model_len > 0);
  const int64_t fixed = needs.fixed_bytes();
  const int64_t left = limit.bytes - fixed;
  const std::string graphs = needs.graph_bytes > 0
                                 ? fmt::format(", captured steps {}", bytes_text(needs.graph_bytes))
                                 : "";
  if (left <= 0)
    return resource_exhausted(
        "the model does not fit: weights take {} and scratch {}{}, the {} is {}",
        bytes_text(needs.weight_bytes), bytes_text(needs.scratch_bytes), graphs, limit.source,
        bytes_text(limit.bytes));
  if (cache.bytes > left)
    return resource_exhausted(
        "cache.bytes = {} ({}) does not fit: the {} is {}, weights and scratch take {}, which "
        "leaves {}",
        cache.bytes, bytes_text(cache.bytes), limit.source, bytes_text(limit.bytes),
        bytes_text(fixed), bytes_text(left));
  const int64_t one_sequence =
      blocks_of(needs.max_model_len, needs.block_size) * needs.stretch_blocks;
  int64_t bytes = cache.bytes;
  if (bytes == 0)
    bytes = std::min(int64_t(double(left) * cache.memory_fraction),
                     one_sequence * needs.max_seqs * needs.block_bytes);
  const int64_t num_blocks = std::min(bytes / needs.block_bytes, most_blocks(needs));
  const int64_t least = needs.sequence_blocks > 0 ? needs.sequence_blocks : one_sequence;
  if (num_blocks < least) {
    const std::string knob = cache.bytes > 0
                                 ? fmt::format("cache.bytes = {}", cache.bytes)
                                 : fmt::format(
                                       "cache.memory_fraction = {} of {} (what weights and scratch "
                                       "leave of the {})",
                                       cache.memory_fraction, bytes_text(left), limit.source);
    const int64_t tokens = num_blocks / needs.stretch_blocks * needs.block_size;
    return resource_exhausted(
        "the KV cache is too small: {} holds {} tokens, one sequence of model.max_model_len = {} "
        "takes {}. {}aise --cache.bytes or --cache.memory_fraction",
        knob, count_text(tokens), count_text(needs.max_model_len),
        bytes_text(least * needs.block_bytes),
        tokens > 0 ? fmt::format("Lower --model.max_model_len to {} or less, or r", tokens) : "R");
  }
  MemoryPlan plan{limit, host, needs, int(num_blocks)};
  if (auto status = add_host_tier(cache.host_bytes, plan); !status.ok()) return status;
  return plan;
}

std::string MemoryPlan::to_text() const {
  const double sequences = needs.sequence_blocks > 0
                               ? double(num_blocks) / double(needs.sequence_blocks)
                               : double(num_tokens()) / needs.max_model_len;
  const std::string parts =
      needs.stretch_blocks > 1 ? fmt::format(" ({} for all layers)", needs.stretch_blocks) : "";
  std::string host, graphs;
  if (needs.graph_bytes > 0)
    graphs = fmt::format("  captured steps     {:>10}\n", bytes_text(needs.graph_bytes));
  if (num_host_blocks > 0)
    host = fmt::format("  host tier          {:>10}  {} blocks for swaps and evicted prefixes\n",
                       bytes_text(host_bytes()), count_text(num_host_blocks));
  return fmt::format(
      "memory ({}: {})\n"
      "  weights            {:>10}\n"
      "  scratch            {:>10}\n"
      "{}"
      "  KV cache           {:>10}  {} blocks of {} tokens{}, {} a token\n"
      "{}"
      "  total              {:>10}\n"
      "  concurrent tokens  {:>10}  {:.1f} sequences of {} tokens\n",
      limit.source, bytes_text(limit.bytes), bytes_text(needs.weight_bytes),
      bytes_text(needs.scratch_bytes), graphs, bytes_text(kv_bytes()), count_text(num_blocks),
      needs.block_size, parts, bytes_text(needs.stretch_bytes() / needs.block_size), host,
      bytes_text(total_bytes()), count_text(num_tokens()), sequences,
      count_text(needs.max_model_len));
}

std::string MemoryPlan::to_line() const {
  std::string tier, apart, graphs;
  if (needs.graph_bytes > 0)
    graphs = fmt::format("captured steps {}, ", bytes_text(needs.graph_bytes));
  if (num_host_blocks > 0)
    tier = fmt::format("host tier {} ({} blocks)", bytes_text(host_bytes()),
                       count_text(num_host_blocks));
  if (!tier.empty() && host)
    apart = fmt::format("; {} of {} {}", tier, bytes_text(host->bytes), host->source);
  else if (!tier.empty())
    tier = ", " + tier;
  return fmt::format(
      "memory: weights {}, scratch {}, {}KV cache {} ({} blocks of {} tokens, {} concurrent "
      "tokens){} of {} {}{}",
      bytes_text(needs.weight_bytes), bytes_text(needs.scratch_bytes), graphs,
      bytes_text(kv_bytes()), count_text(num_blocks), needs.block_size, count_text(num_tokens()),
      host ? "" : tier, bytes_text(limit.bytes), limit.source, apart);
}

}  // namespace sluice
