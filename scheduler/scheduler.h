#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "base/status.h"
#include "scheduler/cost_model.h"
#include "scheduler/policy.h"
#include "scheduler/step.h"

namespace sluice {

// Decides what the next step computes. A pure state machine: no clock, no lock,
// no thread, no device, so a test can run a day of traffic in a second.
// Single-threaded; only the engine thread calls it.
class Scheduler {
 public:
  // `host`: the second tier, for what is swapped out and for prefixes that the device evicted;
  // null: none. `depth`: plans that may be in flight at once. `groups`: of the model's layers, as
  // group_layers() has them; a sequence gives back the blocks that its group sees no more.
  Scheduler(const Policy&, const CostModel& seed, BlockPool& device, BlockPool* host, int depth,
            std::vector<TokenId> eos_tokens, int max_model_len,
            std::vector<KvGroup> groups = {KvGroup{}});
  ~Scheduler();

  // Fails with resource_exhausted (queue full) or invalid_argument (cannot ever fit). A failed
  // request gets no event. The prompt moves to Sequence::tokens.
  absl::Status add(RequestId, GenerateRequest, Instant now);

  // Plans after which all blocks of a request are back in the pools: its steps are committed by the
  // one, and its copies done with the other.
  struct Release {
    uint64_t step = 0, copies = 0;
  };
  // Unknown ids are ignored: the race is normal. A value where the request ended with it.
  std::optional<Release> cancel(RequestId, int sample = kAllSamples);
  bool released(const Release&) const;

  // Fills one step in the policy's order until the token budget or the blocks run
  // out: decode rows first, then prefill chunks, several prompts at once, skipping
  // over what does not fit. Preempts from the policy's tail when a sequence cannot
  // grow. Time is an argument, never read. Cancels and deadlines that fell due are reported in
  // `events` even when there is nothing to run. The plan's sequences are valid during
  // ModelRunner::launch only. An empty plan is not launched and not committed; a plan may hold
  // copies and no rows; with `depth` plans in flight it is always empty.
  StepPlan schedule(Instant now, const CopyProgress& copies, std::vector<TokenEvent>& events);

  // Applies the results of the oldest plan in flight: appends tokens, publishes full
  // blocks, ends sequences, and appends the events for the front ends. Plans commit in order.
  // `result.device_time` feeds the cost model and the service that each request is charged.
  void commit(const StepResult& result, Instant now, std::vector<TokenEvent>& events);

  // For requests that come from now on; what waits already goes on waiting.
  void set_queue_limits(int max_queue, int64_t max_queued_tokens);

  bool idle() const;  // no request, nothing in flight, no copy under way, no event owed

  static constexpr int kLevels = 16;  // of the MLFQ; the last takes all that would be below
  struct Stats {
    int waiting = 0, running = 0, swapped = 0;  // requests; running counts those arriving
    int64_t waiting_tokens = 0;                 // prompt tokens not yet computed of waiting ones
    int used_blocks = 0, total_blocks = 0;
    int stretch_blocks = 1;  // that block_size tokens take in all layers
    int used_host_blocks = 0, total_host_blocks = 0;
    std::array<int, kLevels> waiting_at{}, running_at{};  // requests by level
    // Since the start, as all below.
    int64_t preemptions = 0, swaps = 0;            // of all preemptions, how many by swap
    int64_t proactive = 0;                         // of all preemptions, not forced by memory
    int64_t proactive_swaps = 0;                   // of those, by swap
    int64_t blocks_out = 0, blocks_in = 0;         // swapped; not what is written behind
    int64_t written_behind = 0;                    // blocks copied to the host's cache
    int64_t demotions = 0, promotions = 0;         //
    int64_t livelocks = 0;                         // rounds without progress that were noticed
    int64_t prompt_tokens = 0, cached_tokens = 0;  // looked up in / found in the prefix cache
    int64_t host_cached_tokens = 0;                // of those, found on the host
    int64_t generated_tokens = 0;
    int64_t wasted_cancel = 0, wasted_deadline = 0, wasted_recompute = 0;  // computed tokens
  };
  Stats stats() const;
  const CostModel& cost_model() const;
  std::vector<RequestInfo> list(Instant now) const;  // live requests, in order of arrival
  bool find(RequestId, Instant now, RequestInfo& out) const;
  struct TenantStats {
    int running = 0, waiting = 0;  // requests; those swapped out wait
    int64_t tokens = 0;            // computed for it since the start
  };
  int num_tenants() const;
  TenantStats tenant(uint32_t index) const;
  double tenant_served(uint32_t tenant) const;  // its tokens
  void check_invariants() const;                // CHECKs; for tests and the idle loop

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
