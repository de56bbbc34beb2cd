#pragma once

#include <functional>
#include <memory>
#include <span>

#include "base/metrics.h"
#include "base/status.h"
#include "engine/model_runner.h"
#include "scheduler/scheduler.h"

namespace sluice {

// Where tokens go. Called once per step, on the engine thread, with every event
// of the step, which it may move from. Must not block.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  virtual void deliver(std::span<TokenEvent>) = 0;
};

class Recorder;  // engine/recording.h

// The loop. Owns one thread; everything below it runs on that thread.
class Engine {
 public:
  Engine(std::unique_ptr<Scheduler>, std::unique_ptr<ModelRunner>, OutputSink&, Metrics&,
         int max_queue);
  ~Engine();  // cancels what is left and joins the thread; every request still gets its final event

  void record(std::unique_ptr<Recorder>);  // what is served, until the end; before start()
  void start();
  // Any thread, never blocks. The caller chooses the id (unique while alive), so it can register
  // its stream before the first token can possibly arrive. resource_exhausted: the inbox is full;
  // unavailable: draining. What the scheduler itself refuses (never fits, queue full) comes back as
  // one final event per sample, token == -1, with finish == overloaded or error.
  absl::Status submit(RequestId, GenerateRequest);
  void cancel(RequestId, int sample = kAllSamples);  // any thread, idempotent, also after the end

  // Any thread, never blocks: `look` runs once on the engine thread, between two steps, after every
  // event of the steps before it was delivered. It must not block. resource_exhausted: the inbox is
  // full. A request submitted before is known to the scheduler, or refused. What is asked of an
  // engine that ends before it got to it is not answered.
  absl::Status inspect(std::function<void(const Scheduler&)> look);

  // Any thread: of the inbox, and of the scheduler's queue for requests that come from now on.
  void set_queue_limits(int max_queue, int64_t max_queued_tokens);

  // Stops admission (submit fails with unavailable), lets running requests finish until the
  // deadline, then cancels the rest. Returns when the engine is idle. Every request still gets its
  // final event.
  void drain(Instant deadline);
  // Any thread: the last published snapshot, and the cost model's figures.
  Scheduler::Stats stats() const;
  StepCost step_cost() const;
  // Any thread: how long ago the loop last finished a step. Zero at rest, as long as its heart
  // beats.
  Nanos since_progress() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
