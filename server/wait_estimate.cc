#include "server/wait_estimate.h"

#include <algorithm>
#include <cmath>

namespace sluice {

int64_t estimate_tokens(int64_t body_bytes) { return body_bytes / 4 + 1; }

double predict_ttft(const EngineLoad& load, int64_t prompt_tokens) {
  const Scheduler::Stats& s = load.stats;
  const auto own = static_cast<double>(prompt_tokens);
  const auto ahead = static_cast<double>(s.waiting_tokens);
  // Decode rows come first in every step; prompts get what is left of it.
  const double room = std::max(load.step_tokens - s.running, 1);
  const double steps = std::ceil((ahead + own) / room);
  StepWork work;
  work.prefill_tokens = ahead + own;
  // A token attends to half of its prompt on average; those that wait are taken as equally long.
  work.prefill_context = (ahead * ahead / std::max(s.waiting, 1) + own * own) / 2;
  work.decode_rows = steps * s.running;
  work.decode_context = steps * (s.used_blocks / s.stretch_blocks) * load.block_size;
  return steps * load.cost.constant + CostModel(load.cost).marginal(work);
}

}  // namespace sluice
