#pragma once

#include <functional>

#include "scheduler/step.h"

namespace sluice {

// Runs steps. Implementations: RankRunner (one device, on the calling thread) and LedgerRunner
// (tests: a cache that checks itself, no weights).
class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  virtual int depth() const = 0;  // steps that may be in flight: 1 on CPU, 2 with overlap
  // Enqueues the step and begins its copies; may return before the device is done. A plan with
  // copies and no rows has an empty result.
  virtual void launch(const StepPlan&) = 0;
  virtual StepResult collect() = 0;  // waits for the oldest step launched
  // Polls how far the copies between device and host have come.
  virtual CopyProgress copies() { return {}; }
  // True: from now on `f` is called, on a thread of the runner's, whenever copies() has news; it is
  // short and does not call back. After this returns, the one before is not called any more. False:
  // nobody calls, poll.
  virtual bool on_copies_done(std::function<void()> /*f*/) { return false; }
  // A piece of work, some milliseconds, that no step needs and later ones are faster for. Called
  // when this thread would wait: for a step in flight, or with nothing left to compute. True: come
  // back at once in the latter case, there is more.
  virtual bool work_ahead() { return false; }
  // Gives a committed result back, so that its memory serves the next step. Optional.
  virtual void reuse(StepResult&&) {}
};

}  // namespace sluice
