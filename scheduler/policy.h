#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "config/config.h"

namespace sluice {

// How the scheduler chooses: five orthogonal choices and the bounds they work within. A system of
// the field is one value of this struct, not a subclass; config/presets.h has the list.
struct Policy {
  // Who comes first, among the running and among the waiting.
  enum class Order : uint8_t {
    fcfs,         // by arrival; a preempted request keeps its place; what does not fit is passed
    fcfs_strict,  // likewise, but nobody overtakes a request that does not fit (Orca, OSDI'22)
    mlfq,         // skip-join multi-level feedback queue (FastServe, NSDI'26)
  };
  // What one step may hold.
  enum class Step : uint8_t {
    chunked,        // decodes first, then chunks of several prompts (Sarathi-Serve, OSDI'24)
    whole,          // whole prompts beside decodes (Orca)
    prefill_first,  // whole prompts alone if any fits, else all decodes (vLLM, SOSP'23)
    batch,          // nobody comes in until all that run have ended (request-level batching)
    ratio,          // as chunked, but newcomers wait until they are many enough (TGI)
  };
  // What a request must find free to come in. One that was preempted max_preemptions times always
  // gets its whole remaining need set aside, whatever stands here: nobody takes from it again.
  enum class Reservation : uint8_t {
    paged,  // blocks of its known tokens (PagedAttention, SOSP'23), and a watermark left over
    full,   // blocks of prompt + max_tokens: never preempted for memory
  };
  // How many tokens a step computes.
  enum class Budget : uint8_t {
    fixed,       // max_step_tokens
    target,      // as many as keep the predicted step within the target time between tokens
    split_fuse,  // evened out so that no prompt takes more than max_prefill_steps (LMDeploy)
  };
  // What happens when a running sequence cannot grow.
  enum class Pressure : uint8_t {
    recompute,    // the last in order, all samples of the request together, gives its blocks back
    swap,         // its blocks go to the host; recompute when the host is full
    swap_groups,  // swap where several samples share a request, else recompute (vLLM, SOSP'23)
    cheapest,     // swap or recompute, whichever the cost model says is cheaper
  };
  // Order::mlfq. What a request that starved gets once it goes first.
  enum class Promotion : uint8_t {
    restart,  // it starts again at the top (FastServe)
    visit,    // the first level's quantum, and then it is back at its own level
  };

  Order order = Order::fcfs;
  Step step = Step::chunked;
  Reservation reservation = Reservation::paged;
  Budget budget = Budget::fixed;
  Pressure pressure = Pressure::recompute;
  Promotion promotion = Promotion::restart;
  // A waiting request of a better level may push out a running one of a worse level, and blocks
  // are swapped out and in ahead of need, by estimated next schedule time (FastServe).
  bool proactive = false;

  // From the start, and not only for those that were preempted often.
  bool sets_all_aside() const { return reservation == Reservation::full || max_preemptions == 0; }

  int max_seqs = 256;  // sequences with blocks on the device
  int max_rows = 0;    // of those, how many a step computes; 0: all
  int max_step_tokens = 256;
  int max_queue = 1024;
  int64_t max_queued_tokens = 0;  // 0: no limit
  int max_preemptions = 4;
  int min_residency = 0;  // steps a request computed since it came in before it may be preempted
  bool prefix_caching = true;
  bool write_behind = true;  // full blocks are copied to the host when they are published

  // Budget::target. Seconds; 0: interval_factor times a plain decode step of what runs.
  double token_interval = 0;
  double interval_factor = 3;
  int min_chunk = 16;         // tokens that prefills get in any step, whatever the target says
  int max_prefill_steps = 1;  // Budget::split_fuse
  // Kernels compute so many tokens at a time, and a step with one more pays for as many again:
  // where a prompt is cut, the step's tokens are a multiple (Agrawal et al., "SARATHI", 2023).
  int tile_tokens = 1;

  // Order::mlfq. Level i has a quantum of quantum * 2^i seconds of work; 0: one decode step, by the
  // cost model. A request at level i that did not run for promote_after * promote_growth^i is
  // starving: it goes first, at the top level.
  double quantum = 0;
  Nanos promote_after = std::chrono::seconds(3);
  double promote_growth = 1;

  // Step::ratio. Newcomers wait until they are at least this share of what runs, or until the
  // running ones made so many steps.
  double waiting_ratio = 0.3;
  int max_waiting_steps = 20;

  // Bounded waiting: a waiting request that does not fit is passed over, up to max_passed of them
  // in a step, until max_overtakes later ones have come in before it. From then on it is starving,
  // and nobody behind it comes in until it has.
  int max_overtakes = 32;
  int max_passed = 8;
  // Share of the blocks that stays free when a request comes in while others run: they will grow.
  double watermark = 0.01;

  // Served work follows these where tenants compete (virtual token counters: Sheng et al.,
  // "Fairness in serving large language models", OSDI'24).
  std::vector<double> tenant_weights{1.0};

  // The choices of a Config whose preset has been applied (config/presets.h); an error names the
  // knob.
  static absl::StatusOr<Policy> from(const Config::Scheduler&, const Config::Cache&);
};

}  // namespace sluice
