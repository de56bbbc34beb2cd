#pragma once

#include "scheduler/step.h"

namespace sluice {

// Runs steps. Implementations: RankRunner (one device, on the calling thread) and LedgerRunner
// (tests: a cache that checks itself, no weights).
class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  virtual int depth() const = 0;  // steps that may be in flight: 1 on CPU, 2 with overlap
  virtual void launch(const StepPlan&) = 0;  // enqueues; may return before the device is done
  virtual StepResult collect() = 0;          // waits for the oldest step launched
  // Polls how far the copies between device and host have come.
  virtual CopyProgress copies() { return {}; }
  // Gives a committed result back, so that its memory serves the next step. Optional.
  virtual void reuse(StepResult&&) {}
};

}  // namespace sluice
