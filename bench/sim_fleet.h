#pragma once

#include <memory>
#include <queue>
#include <span>
#include <vector>

#include "bench/sim_metrics.h"

namespace sluice {

// Which replica a request goes to.
enum class Route : uint8_t {
  round_robin,
  least_loaded,  // the fewest requests; the first of equals
  prefix,        // by the session, or a hash of the first block's tokens
};

struct SimOptions {
  SimSetup setup;
  int replicas = 1;
  Route route = Route::round_robin;
  int threads = 1;  // a result does not depend on it
  uint64_t seed = 1;
};

// Whether who gets which request is known before, so that replicas can be simulated one by one: in
// parallel, and with the caches of one at a time in the processor's.
bool one_by_one(const SimOptions&, const Workload&);

// Replays a workload on a number of replicas. An error is a scheduler that stands still.
absl::StatusOr<SimResult> simulate_point(const SimOptions&, const Workload&);

}  // namespace sluice
