#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "bench/workload.h"
#include "config/config.h"

namespace sluice {

// The scheduler that serves, in virtual time: docs/scheduling.md, "The simulator".
struct SimulateOptions {
  Config config;                     // scheduler.*, cache.*
  std::vector<std::string> presets;  // one line each per load; empty: config.scheduler.preset
  std::vector<double> rates;         // requests a second; empty: 1, or a trace as recorded
  std::vector<int> clients = {16};   // closed loop
  WorkloadOptions workload;          // but its rate, clients and arrivals
  std::string arrivals = "standard";
  std::string cost = "h200-8b", seed_cost;  // a machine or a file; the second is what the
                                            // scheduler is told, empty: the same
  std::optional<double> noise;              // sigma of a factor on each step; none: the machine's
  int64_t blocks = 0;                       // 0: cache.bytes, or what the machine has
  int64_t pool_tokens = 0;                  // likewise, in tokens
  int64_t host_blocks = -1;                 // negative: cache.host_bytes, or what the machine has
  std::vector<double> tenant_weights;       // empty: all 1
  int replicas = 1;
  std::string route = "round-robin";
  int depth = 1;    // steps in flight
  int threads = 0;  // 0: all processors
  std::string json_path, plot_path;
  std::string metric = "norm_mean";  // of the plot and of `bound`
  double bound = 0;                  // > 0: say at which load each preset's metric rises through it
};

// Runs every preset at every load and prints a table. The error names the option.
absl::Status simulate(const SimulateOptions&);

}  // namespace sluice
