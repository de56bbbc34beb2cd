#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/status.h"
#include "base/text.h"
#include "config/config.h"

namespace sluice {

// How much memory this process may come to, and who says so.
struct MemoryLimit {
  int64_t bytes = 0;
  std::string source;  // "cgroup limit", "available memory"
};
// The smallest of the memory limits of this process's cgroups (v1 and v2, up to their root) and of
// what the kernel calls available. `root` is "/" but in tests.
MemoryLimit read_memory_limit(const std::filesystem::path& root = "/");

// What is known before the cache is sized.
struct MemoryNeeds {
  int64_t weight_bytes = 0;
  int64_t scratch_bytes = 0;
  int64_t block_bytes = 0;  // KvStore::bytes_per_block
  int block_size = 0;       // tokens
  int max_seqs = 0;
  int max_model_len = 0;
  int stretch_blocks = 1;  // for block_size tokens in all layers: KvGrouping::num_tables
  // Of a sequence of max_model_len that gives back what its windowed layers see no more: the most
  // it holds. 0: none does.
  int64_t sequence_blocks = 0;
  int64_t graph_bytes = 0;  // of captured steps; 0: there are none

  int64_t stretch_bytes() const { return block_bytes * stretch_blocks; }
  int64_t fixed_bytes() const { return weight_bytes + scratch_bytes + graph_bytes; }
};

// Who gets how much: what `sluice plan` prints and a start-up logs.
struct MemoryPlan {
  MemoryLimit limit;
  std::optional<MemoryLimit> host;  // of the second tier, where the device has memory of its own
  MemoryNeeds needs;
  int num_blocks = 0;
  int num_host_blocks = 0;  // the second tier; 0: none

  int64_t kv_bytes() const { return num_blocks * needs.block_bytes; }
  int64_t host_bytes() const { return num_host_blocks * needs.block_bytes; }
  // In all layers; more where windowed layers have given back theirs.
  int64_t num_tokens() const {
    return int64_t(num_blocks) / needs.stretch_blocks * needs.block_size;
  }
  int64_t total_bytes() const {  // under `limit`
    return needs.fixed_bytes() + kv_bytes() + (host ? 0 : host_bytes());
  }
  std::string to_text() const;  // a table for people
  std::string to_line() const;  // the same in a line, for the log
};

// Sizes the cache: `cache.bytes`, or `cache.memory_fraction` of what the weights, the scratch and
// captured steps leave of the limit, but then no more than max_seqs sequences of full length could
// ever use. The host tier comes on top: from what then is left where the device's memory is the
// host's, else from `host`. Refused, with the numbers and the knobs that help: what does not fit
// into the limit, and a cache that could not hold even one sequence of max_model_len tokens, for
// such a request would be accepted and could never end.
absl::StatusOr<MemoryPlan> plan_memory(const Config::Cache&, const MemoryNeeds&, const MemoryLimit&,
                                       const std::optional<MemoryLimit>& host = {});

}  // namespace sluice
