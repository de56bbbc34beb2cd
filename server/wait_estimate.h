#pragma once

#include <cstdint>

#include "scheduler/scheduler.h"

namespace sluice {

// What a prediction needs to know of the engine: its last snapshot, and what cannot change.
struct EngineLoad {
  Scheduler::Stats stats;
  StepCost cost;
  int step_tokens = 1;  // the most that a step computes
  int block_size = 1;
};

// Tokens of a request of so many bytes, before anybody has read it: about four bytes make one, of
// text and of ids written in JSON alike.
int64_t estimate_tokens(int64_t body_bytes);

// Seconds until a prompt that comes now would have its first token, as if prompts were computed in
// order of arrival beside what runs, nothing of them were cached, and nobody had to wait for a
// running request to end. The first holds back a policy that favours short prompts, the second
// flatters none; the third is the one thing that no snapshot tells.
double predict_ttft(const EngineLoad&, int64_t prompt_tokens);

}  // namespace sluice
