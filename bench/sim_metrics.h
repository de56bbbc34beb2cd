#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/sim_replica.h"
#include "bench/workload.h"
#include "engine/recording.h"

namespace sluice {

// Counts of positive values in buckets 0.8 % wide: there are too many gaps between tokens to keep.
class LogHistogram {
 public:
  LogHistogram() : counts_(kBuckets) {}
  void add(double v) {
    ++counts_[size_t(bucket(v))];
    ++total_;
    sum_ += v;
    if (v > max_) max_ = v;
  }
  void merge(const LogHistogram&);
  double percentile(double p) const;  // by nearest rank; the middle of its bucket, at most max()
  double mean() const { return total_ > 0 ? sum_ / double(total_) : 0; }
  double max() const { return max_; }
  int64_t total() const { return total_; }

 private:
  // The exponent and the first 7 bits of the mantissa, from 2^-31 to 2^33.
  static constexpr int kShift = 52 - 7, kLowest = (1023 - 31) << 7, kBuckets = 64 << 7;
  static int bucket(double v) {
    const int64_t i = int64_t(std::bit_cast<uint64_t>(v) >> kShift) - kLowest;
    return int(i < 0 ? 0 : i >= kBuckets ? kBuckets - 1 : i);
  }
  std::vector<int64_t> counts_;
  int64_t total_ = 0;
  double sum_ = 0, max_ = 0;
};

// What became of a request.
struct SimOutcome {
  Instant arrived = kNever, first = kNever, last = kNever;
  int samples_left = 0;
  bool refused = false, done = false;
};

// Collects what clients see and what the machine does, of one or several replicas on one thread.
class SimCollector {
 public:
  // `outcomes` has one entry per request, shared with collectors of other requests.
  SimCollector(const Workload&, std::vector<SimOutcome>& outcomes);

  void arrived(int index, Instant now);
  void refused(int index, const absl::Status&);
  bool observe(const TokenEvent&, Instant now);  // true: the request has ended
  void finish(const SimReplica&);
  void merge(const SimCollector&);

 private:
  friend struct SimResult;
  const Workload& workload_;
  std::vector<SimOutcome>& outcomes_;
  LogHistogram gaps_;
  double swapped_seconds_ = 0, arriving_seconds_ = 0;
  std::string refusal_;  // the first one's reason
  SimReplica::Totals totals_;
  Scheduler::Stats stats_;
  double model_error_ = 0, copy_seconds_ = 0;
  int replicas_ = 0;
};

// One line of the report. Seconds, tokens, shares from 0 to 1.
struct SimResult {
  SimResult(const SimCollector&, const Workload&);

  std::string preset;
  double load = 0;  // requests a second offered, or clients
  int64_t requests = 0, completed = 0, refused = 0;
  std::string refusal;
  double seconds = 0;                      // from the first arrival to the last token
  double offered = 0;                      // requests a second: arrivals over their span
  double achieved = 0;                     // requests a second: completed / seconds
  double output_rate = 0, token_rate = 0;  // tokens a second: of answers; with prompts
  struct Spread {
    double mean = 0, p50 = 0, p95 = 0, p99 = 0, max = 0;
  };
  Spread normalised;                 // from arrival to the last token, per output token
  Spread ttft;                       // from arrival to the first token
  Spread gap;                        // between two tokens of a request
  Spread latency;                    // from arrival to the last token
  double rows = 0, step_tokens = 0;  // of a step, mean over time
  double held = 0, live = 0;         // slots of the cache: in held blocks; with live tokens
  double busy = 0;                   // share of `seconds` that steps took, per replica
  double copying = 0;                // likewise, copies
  double swap_share = 0;             // of all latency, spent swapped out
  double arriving_share = 0;         // of all latency, let in and waiting for copies
  double model_error = 0;            // of the scheduler's predictions, at the end
  int64_t steps = 0;
  Scheduler::Stats stats;             // sums over replicas
  std::vector<double> shares;         // by tenant: of tokens computed while none had all it wanted
  std::vector<double> tenant_served;  // the tokens that those are shares of
  bool has_long = false;              // short-plus-long
  double long_ttft = 0;               //
  int64_t beside_long = 0;            // short ones that came during the long one's prefill
  double beside_p50 = 0, beside_p99 = 0;  // their time to the first token

 private:
  void spread_of(const SimCollector&, const Workload&);
  void find_long(const SimCollector&, const Workload&);
};

// What the daemon itself did with the traffic that it recorded, which `Workload` was made from.
// What recordings do not have is 0: single gaps, and what the cache held. None: the recording has
// no decisions.
std::optional<SimResult> recorded_result(const Recording&, const Workload&);

}  // namespace sluice
