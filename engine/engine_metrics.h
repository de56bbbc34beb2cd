#pragma once

#include <array>
#include <vector>

#include "base/metrics.h"
#include "scheduler/scheduler.h"

namespace sluice {

// What the scheduler counts and the engine sees, as metrics: the scheduler knows no metrics
// library. Engine thread.
class EngineMetrics {
 public:
  EngineMetrics(Metrics&, const Scheduler::Stats& start);

  // Once a step, so it only does what the scheduler's figures ask for.
  void publish(const Scheduler::Stats&, const CostModel&, const CopyProgress&);
  void publish_tenant(uint32_t tenant, const Scheduler::TenantStats&);
  void launched(const StepPlan&);
  void committed(const StepResult&);  // before its plan's id is kMaxInFlight plans old
  void ended(const RequestTrace&);

 private:
  static constexpr size_t kMaxInFlight = 16;
  // A field of Stats, and the counter that follows it.
  struct Followed {
    int64_t Scheduler::Stats::*field;
    prometheus::Counter* counter;
  };
  // Preemptions: what became of the blocks, and why.
  struct Preemptions {
    prometheus::Counter *swapped_for_memory, *swapped_ahead, *recomputed_for_memory,
        *recomputed_ahead;
  };
  struct TenantSeries {
    Scheduler::TenantStats told;
    prometheus::Gauge *running, *waiting;
    prometheus::Counter* tokens;
  };

  void publish_preemptions(const Scheduler::Stats&);
  void publish_levels(const Scheduler::Stats&);
  void publish_cost(const CostModel&);

  Metrics& metrics_;
  Scheduler::Stats counted_;  // what the counters have been told
  CopyProgress copies_;
  int64_t observed_ = -1;  // steps that the published cost model had seen
  // Looked up once: finding a series by its labels allocates.
  std::vector<Followed> followed_;
  Preemptions preemptions_;
  prometheus::Counter *bytes_out_, *bytes_in_, *seconds_out_, *seconds_in_;
  std::array<prometheus::Gauge*, Scheduler::kLevels> waiting_at_{}, running_at_{};
  std::array<prometheus::Gauge*, 6> cost_{};
  std::vector<TenantSeries> tenants_;
  prometheus::Histogram *prefill_, *decode_, *mixed_;             // seconds of a step
  std::array<prometheus::Histogram*, kMaxInFlight> in_flight_{};  // by plan: where its time goes
};

}  // namespace sluice
