#pragma once

#include <memory>
#include <vector>

#include "base/status.h"
#include "config/config.h"
#include "scheduler/policy.h"
#include "scheduler/step.h"

namespace sluice {

// Decides what the next step computes. A pure state machine: no clock, no lock,
// no thread, no device, so a test can run a day of traffic in a second.
// Single-threaded; only the engine thread calls it.
class Scheduler {
 public:
  // `depth`: plans that may be in flight at once. `prefix_caching` as in Config::Cache.
  Scheduler(const Config::Scheduler&, BlockPool& pool, bool prefix_caching, int depth,
            std::vector<TokenId> eos_tokens, int max_model_len);
  Scheduler(const Policy&, BlockPool& pool, int depth, std::vector<TokenId> eos_tokens,
            int max_model_len);
  ~Scheduler();

  // Fails with resource_exhausted (queue full) or invalid_argument (cannot ever fit). A failed
  // request gets no event. The prompt moves to Sequence::tokens.
  absl::Status add(RequestId, GenerateRequest, Instant now);
  void cancel(RequestId, int sample = kAllSamples);  // unknown ids are ignored: the race is normal

  // Fills one step in the policy's order until the token budget or the blocks run
  // out: decode rows first, then prefill chunks, several prompts at once, skipping
  // over what does not fit. Preempts from the policy's tail when a sequence cannot
  // grow. Time is an argument, never read. Cancels and deadlines that fell due are reported in
  // `events` even when there is nothing to run. The plan's sequences are valid during
  // ModelRunner::launch only. An empty plan is not launched and not committed; with `depth` plans
  // in flight it is always empty.
  StepPlan schedule(Instant now, std::vector<TokenEvent>& events);

  // Applies the results of the oldest plan in flight: appends tokens, publishes full
  // blocks, ends sequences, and appends the events for the front ends. Plans commit in order.
  void commit(const StepResult& result, Instant now, std::vector<TokenEvent>& events);

  bool idle() const;  // no request, nothing in flight, no event owed
  struct Stats {
    int waiting = 0, running = 0;  // requests
    int64_t waiting_tokens = 0;    // prompt tokens not yet computed of waiting requests
    int used_blocks = 0, total_blocks = 0;
    int64_t preemptions = 0;                       // since the start, as all below
    int64_t prompt_tokens = 0, cached_tokens = 0;  // looked up in / found in the prefix cache
    int64_t generated_tokens = 0;
  };
  Stats stats() const;
  void check_invariants() const;  // CHECKs; for tests and the idle loop

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
