#pragma once

#include <array>
#include <vector>

#include "base/metrics.h"
#include "scheduler/scheduler.h"

namespace sluice {

// What the scheduler counts, as metrics: it knows no metrics library. Engine thread.
class EngineMetrics {
 public:
  EngineMetrics(Metrics&, const Scheduler::Stats& start);

  // Once a step, so it only does what the scheduler's figures ask for.
  void publish(const Scheduler::Stats&, const CostModel&, const CopyProgress&);
  void ended(const RequestTrace&);

 private:
  struct Counted;  // a field of Stats and the counter that follows it
  static const Counted kCounted[];

  void publish_levels(const Scheduler::Stats&);
  void publish_cost(const CostModel&);

  Metrics& metrics_;
  Scheduler::Stats counted_;  // what the counters have been told
  CopyProgress copies_;
  int64_t observed_ = -1;  // steps that the published cost model had seen
  // Looked up once: finding a series by its labels allocates.
  std::vector<prometheus::Counter*> counters_;  // of kCounted
  std::array<prometheus::Gauge*, Scheduler::kLevels> waiting_at_{}, running_at_{};
  std::array<prometheus::Gauge*, 6> cost_{};
};

}  // namespace sluice
