#pragma once

#include <string>

#include "scheduler/trace.h"

namespace sluice {

// Where a response's time went, for a client that asked. Of a response to several prompts: the
// times of the slowest, the counts of all.
struct Timing {
  double queue_ms = 0;  // from arrival at the scheduler to its first step
  double ttft_ms = 0, total_ms = 0;
  int level = 0;  // MLFQ: the one it ended at
  int chunks = 0;
  int swaps = 0, recomputes = 0;  // preemptions
  int64_t swapped_blocks = 0;
  double swap_ms = 0;
  int cached_tokens = 0, host_cached_tokens = 0;

  void add(const RequestTrace&);
};

double to_millis(Nanos);
// {"queue_ms":...}
void append_timing(std::string& out, const Timing&);

}  // namespace sluice
