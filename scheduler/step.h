#pragma once

#include <vector>

#include "scheduler/sequence.h"

namespace sluice {

// One sequence's share of a step: compute tokens [begin, begin + count).
struct StepRow {
  const Sequence* seq = nullptr;
  int begin = 0;
  int count = 0;
  int num_logits = 0;   // trailing positions whose logits are wanted: 0 inside a prompt, 1 to
                        // sample, more for prompt logprobs (or to verify a draft)
  int num_samples = 0;  // draws from the last of them: 0 inside a prompt, n where n samples fork
                        // (draw i is sample i's), 1 otherwise (sample seq->sample's)

  bool is_decode() const { return count == 1 && begin >= seq->num_prompt; }
};

// What to run. In the scheduler's words (sequences and counts); engine/
// step_inputs.cc is the one place that turns it into arrays for kernels.
struct StepPlan {
  uint64_t id = 0;
  std::vector<StepRow> rows;           // decode rows first, then prefill chunks
  std::vector<BlockCopy> fork_copies;  // device -> device, before the step's KV writes
  // Between the device and the host, started with the step and done some time later, in no order
  // with the step or among themselves: no step in flight touches either end of a copy before
  // ModelRunner::copies() has reported it.
  std::vector<BlockCopy> swap_out, swap_in;  // device -> host, host -> device
  int num_tokens = 0;
  bool empty() const { return rows.empty() && swap_out.empty() && swap_in.empty(); }
};

// How far the copies have come. `blocks` and `time` count from the start.
struct CopyProgress {
  uint64_t done = 0;   // the copies of every plan up to this id have finished
  int64_t blocks = 0;  // copied
  Nanos time{};        // spent copying them
  Nanos out{};         // of that, to the host
};

// What came out. Draws of row i are [first[i], first[i + 1]).
struct StepResult {
  uint64_t id = 0;
  Nanos device_time{};  // of this step alone, overlapped or not
  bool eager = false;   // launched kernel by kernel, on a device that can replay a step
  std::vector<int> first;
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  std::vector<std::vector<TokenLogprob>> top;     // by draw; empty unless some row asked
  std::vector<std::vector<TokenLogprob>> prompt;  // by row, flat, (1 + k) per wanted position that
                                                  // has a next prompt token; empty unless asked
};

}  // namespace sluice
