#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "bench/workload.h"
#include "scheduler/scheduler.h"

namespace sluice {

// What every replica of a simulation is.
struct SimSetup {
  Policy policy;
  StepCost cost;       // what steps and copies take
  StepCost seed_cost;  // what the scheduler is told that they take
  // What steps are off by: a log-normal factor of mean 1 and this sigma; or pieces of `errors`.
  int tile_tokens = 1;  // steps with prompts take as long as a multiple of so many tokens
  double noise = 0;
  std::vector<StepError> errors;
  int block_size = 16, num_blocks = 1, host_blocks = 0;
  int depth = 1;  // plans in flight
  int max_model_len = 1 << 30;
};

// Copies blocks one after the other, beside what computes.
class CopyStream {
 public:
  explicit CopyStream(double seconds_per_block) : seconds_per_block_(seconds_per_block) {}
  // The copies of the next plan, which may be none.
  void start(uint64_t plan, int64_t blocks, Instant now);
  CopyProgress progress(Instant now);
  // When the copies of the oldest plan that has any end; kNever: there are none.
  Instant next_end() const { return copies_.empty() ? kNever : copies_.front().end; }
  double seconds() const { return seconds_; }  // of all copies so far

 private:
  struct Copies {
    uint64_t plan = 0;
    Instant end{};
    int64_t blocks = 0;
    Nanos time{};
  };
  double seconds_per_block_, seconds_ = 0;
  uint64_t last_plan_ = 0;
  Instant free_{};
  std::deque<Copies> copies_;
  CopyProgress done_;
};

// One daemon in virtual time: a scheduler, its pools, a device that computes one step after the
// other, and a stream beside it that copies one block after the other. Takes no decisions: what
// happens is what Scheduler says, and how long it takes is what the cost model says. Copies within
// the device, which forks make, cost nothing.
class SimReplica {
 public:
  // Sums over steps. Those that are weighted by the seconds of a step count only steps that began
  // before `window_end`: what comes later is the queue running empty.
  struct Totals {
    int64_t steps = 0;
    double busy = 0;              // seconds of steps
    double window = 0;            // weights of the next two
    double rows = 0, tokens = 0;  // of a step
    double sampled = 0;           // weights of the next two
    double held = 0, live = 0;    // shares of the slots: in held blocks; with a live token
    // By tenant: tokens of steps that left out somebody of every tenant.
    std::vector<double> contended;
  };

  // Requests are those of `workload`; their ids are their indexes plus one. `live` has an entry for
  // each, shared by all replicas.
  SimReplica(const SimSetup&, const Workload& workload, std::vector<int>& live, uint64_t noise_seed,
             Instant window_end);

  // Asks the scheduler to take request `index`, at `now`.
  absl::Status add(int index, Instant now);
  // Does what is due at `now`: ends steps and copies, and launches what comes next. Appends events.
  void advance(Instant now, std::vector<TokenEvent>& events);
  // When advance() has something to do again; kNever: after the next add() only.
  Instant due() const { return due_; }
  // Since when nothing could be done although requests wait; kNever: things go on.
  Instant stuck_since() const { return stuck_since_; }
  // Request `index` has ended.
  void forget(int index) {
    live_[size_t(index)] = 0;
    --requests_[workload_.requests[size_t(index)].tenant];
  }

  const Scheduler& scheduler() const { return *scheduler_; }
  const Totals& totals() const { return totals_; }
  double copy_seconds() const { return copies_.seconds(); }

 private:
  struct Flight {
    Instant end{};
    StepResult result;
  };
  int in_flight() const { return int(launched_ - committed_); }
  Flight& flight(uint64_t n) { return flights_[n % flights_.size()]; }
  void launch(const StepPlan&, Instant now);
  StepError next_error();
  void count_live(const StepRow&, int index);
  void sample_cache();
  void count_tenants(const StepPlan&);

  const SimSetup& setup_;
  const Workload& workload_;
  const CostModel truth_;
  BlockPool device_;
  std::optional<BlockPool> host_;
  std::unique_ptr<Scheduler> scheduler_;
  std::mt19937_64 noise_;
  size_t next_error_ = 0;
  const Instant window_end_;

  std::vector<Flight> flights_;  // [depth] ring
  uint64_t launched_ = 0, committed_ = 0;
  Instant compute_free_{};
  CopyStream copies_;
  Instant due_ = kNever, stuck_since_ = kNever;
  Totals totals_;

  std::vector<int> requests_;  // by tenant: those that have not ended
  std::vector<int>& live_;     // by request: tokens in the cache when it computed last
  std::vector<int> holders_;   // requests that have any, and some that had
  double since_sample_ = 0;    // seconds of steps since the cache was looked at
  int64_t preemptions_ = 0;    // up to the last sample
};

}  // namespace sluice
