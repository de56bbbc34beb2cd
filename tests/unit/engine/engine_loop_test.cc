#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <thread>

#include "tests/unit/engine/engine_world.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

// The loop: its order, its sleep, what wakes it, and who looks at it from outside.
class EngineLoopDepthTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Depths, EngineLoopDepthTest, testing::Values(1, 2, 4));

TEST(EngineLoopTest, AtRestThereIsNoLackOfProgress) {
  World w;
  w.engine->start();
  ASSERT_TRUE(w.engine->submit(1, request(1)).ok());
  w.engine->drain(kNever);
  // The thread is in its inbox, or about to be: from then on the answer stays zero.
  while (w.engine->since_progress() != Nanos{0}) std::this_thread::yield();
  std::this_thread::sleep_for(20ms);
  EXPECT_EQ(w.engine->since_progress(), Nanos{0});
}

// A runner that hangs in its second step until it is let go.
class StuckRunner final : public ModelRunner {
 public:
  StuckRunner(std::unique_ptr<ModelRunner> inner, std::mutex& gate)
      : inner_(std::move(inner)), gate_(gate) {}
  int depth() const override { return 1; }
  void launch(const StepPlan& plan) override { inner_->launch(plan); }
  StepResult collect() override {
    std::lock_guard lock(gate_);
    return inner_->collect();
  }

 private:
  const std::unique_ptr<ModelRunner> inner_;
  std::mutex& gate_;
};

TEST(EngineLoopTest, AStuckStepShowsAsLackOfProgress) {
  BlockPool pool(64, 4);
  Metrics metrics("test");
  Inbox inbox;
  std::mutex gate;
  Engine engine(std::make_unique<Scheduler>(Policy{}, CostModel(), pool, nullptr, 1, kEos, 200),
                std::make_unique<StuckRunner>(std::make_unique<LedgerRunner>(small_ledger()), gate),
                inbox, metrics, 10);
  gate.lock();
  engine.start();
  ASSERT_TRUE(engine.submit(1, request(1)).ok());
  while (engine.since_progress() < 30ms) std::this_thread::sleep_for(1ms);
  gate.unlock();
  inbox.wait_finals(1);
}

// Writes down what happens on the engine thread, in order.
class LoggingRunner final : public ModelRunner {
 public:
  LoggingRunner(int depth, std::string& log) : inner_(small_ledger(depth)), log_(log) {}
  int depth() const override { return inner_.depth(); }
  void launch(const StepPlan& plan) override {
    log_ += 'L';
    inner_.launch(plan);
  }
  StepResult collect() override {
    log_ += 'C';
    return inner_.collect();
  }

 private:
  LedgerRunner inner_;
  std::string& log_;
};
std::string order_of_one_request(int depth) {
  BlockPool pool(64, 4);
  Metrics metrics("test");
  Inbox inbox;
  std::string log;
  inbox.on_deliver = [&] { log += 'D'; };
  Engine engine(std::make_unique<Scheduler>(Policy{}, CostModel(), pool, nullptr, depth, kEos, 200),
                std::make_unique<LoggingRunner>(depth, log), inbox, metrics, 10);
  GenerateRequest r = request(1, 10, 4);
  r.sampling.ignore_eos = true;
  EXPECT_TRUE(engine.submit(1, r).ok());
  engine.start();
  engine.drain(kNever);
  return log;
}

TEST(EngineLoopTest, ASynchronousRunnerHoldsNoTokenBack) {
  EXPECT_EQ(order_of_one_request(1), "LCDLCDLCDLCD");
}
TEST(EngineLoopTest, AnAsynchronousRunnerIsFedBeforeTheSockets) {
  // Two steps at once; a token goes out after the step behind it was launched.
  const std::string log = order_of_one_request(2);
  EXPECT_TRUE(log.starts_with("LLCLD")) << log;
  EXPECT_EQ(std::count(log.begin(), log.end(), 'L'), std::count(log.begin(), log.end(), 'C'));
  EXPECT_EQ(std::count(log.begin(), log.end(), 'D'), 4) << log;
}

// Has so many pieces of work that can wait.
class WorkingRunner final : public ModelRunner {
 public:
  WorkingRunner(int depth, int pieces, std::string& log)
      : inner_(small_ledger(depth)), pieces_(pieces), log_(log) {}
  int depth() const override { return inner_.depth(); }
  void launch(const StepPlan& plan) override {
    ++in_flight_;
    inner_.launch(plan);
  }
  StepResult collect() override {
    --in_flight_;
    return inner_.collect();
  }
  bool work_ahead() override {
    log_ += char('0' + in_flight_);
    return in_flight_ == 0 && --pieces_ > 0;
  }

 private:
  LedgerRunner inner_;
  int in_flight_ = 0, pieces_;
  std::string& log_;
};

// Before each wait for a step, and then piece by piece until there is no more. Who comes meanwhile
// waits for one piece.
TEST(EngineLoopTest, WorksAheadWhenItWouldWait) {
  for (const int depth : {1, 2}) {
    BlockPool pool(64, 4);
    Metrics metrics("test");
    Inbox inbox;
    std::string log;
    Engine engine(
        std::make_unique<Scheduler>(Policy{}, CostModel(), pool, nullptr, depth, kEos, 200),
        std::make_unique<WorkingRunner>(depth, 3, log), inbox, metrics, 10);
    GenerateRequest r = request(1, 10, 4);
    r.sampling.ignore_eos = true;
    EXPECT_TRUE(engine.submit(1, r).ok());
    engine.start();
    inbox.wait_finals(1);
    while (engine.since_progress() != Nanos{0}) std::this_thread::yield();
    EXPECT_EQ(log, depth == 1 ? "1111000" : "2221000") << depth;
  }
}

// Says from another thread, whenever told to, that copies have ended.
class CopyingRunner final : public ModelRunner {
 public:
  struct Shared {
    std::mutex mutex;
    std::function<void()> on_copies_done;
    std::atomic<int> polls{0};
    void say() {
      std::lock_guard lock(mutex);
      if (on_copies_done) on_copies_done();
    }
  };
  explicit CopyingRunner(Shared& shared) : inner_(small_ledger()), shared_(shared) {}
  int depth() const override { return 1; }
  void launch(const StepPlan& plan) override { inner_.launch(plan); }
  StepResult collect() override { return inner_.collect(); }
  CopyProgress copies() override {
    ++shared_.polls;
    return inner_.copies();
  }
  bool on_copies_done(std::function<void()> f) override {
    std::lock_guard lock(shared_.mutex);
    shared_.on_copies_done = std::move(f);
    return true;
  }

 private:
  LedgerRunner inner_;
  Shared& shared_;
};

TEST(EngineLoopTest, CopiesThatEndWakeTheLoop) {
  CopyingRunner::Shared shared;
  BlockPool pool(64, 4);
  Metrics metrics("test");
  Inbox inbox;
  auto engine = std::make_unique<Engine>(
      std::make_unique<Scheduler>(Policy{}, CostModel(), pool, nullptr, 1, kEos, 200),
      std::make_unique<CopyingRunner>(shared), inbox, metrics, 10);
  engine->start();
  // Were it not woken, every round would take until the next heartbeat: the test would time out.
  for (int i = 0; i < 300; ++i) {
    const int before = shared.polls;
    shared.say();
    while (shared.polls == before) std::this_thread::yield();
  }
  std::jthread other([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) shared.say();
  });
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(engine->submit(i, request(i)).ok());
    inbox.wait_finals(i + 1);
    EXPECT_EQ(inbox.answer(i).tokens, alone(request(i)));
  }
  engine.reset();  // while it is being told
  EXPECT_EQ(shared.on_copies_done, nullptr);
}

// Asks and waits for the answer, which was written on the engine's thread.
Scheduler::Stats look(Engine& engine) {
  std::mutex mutex;
  std::condition_variable answered;
  std::optional<Scheduler::Stats> stats;
  EXPECT_TRUE(engine
                  .inspect([&](const Scheduler& scheduler) {
                    std::lock_guard lock(mutex);
                    stats = scheduler.stats();
                    answered.notify_all();
                  })
                  .ok());
  std::unique_lock lock(mutex);
  answered.wait(lock, [&] { return stats.has_value(); });
  return *stats;
}

TEST_P(EngineLoopDepthTest, InspectionSeesWhatWasSubmittedAndAlsoAtRest) {
  World w({.depth = GetParam(), .step_time = 1ms, .sleep = true});
  w.engine->start();
  EXPECT_EQ(look(*w.engine).running, 0);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(w.engine->submit(i, endless(i)).ok());
  const Scheduler::Stats busy = look(*w.engine);
  EXPECT_EQ(busy.running + busy.waiting, 5);
  for (int i = 0; i < 5; ++i) w.engine->cancel(i);
  w.inbox.wait_finals(5);
  w.engine->drain(kNever);
  EXPECT_EQ(w.metrics.cancel_to_free_seconds.Collect().histogram.sample_count, 5u);
  const Scheduler::Stats idle = look(*w.engine);
  EXPECT_EQ(idle.running + idle.waiting, 0);
  EXPECT_GT(idle.prompt_tokens, 0);
}

// Who finds a request gone has been sent its last event.
TEST_P(EngineLoopDepthTest, InspectionComesBehindTheEventsOfTheStepsBefore) {
  World w({.depth = GetParam()});
  w.engine->start();
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(w.engine->submit(i, request(i, 5, 3)).ok());
    int finals = -1;
    while (finals < 0) {
      std::atomic<int> seen{-2};
      ASSERT_TRUE(w.engine
                      ->inspect([&](const Scheduler& s) {
                        seen =
                            s.stats().running + s.stats().waiting > 0 ? -1 : w.inbox.num_finals();
                      })
                      .ok());
      while (seen == -2) std::this_thread::yield();
      finals = seen;
    }
    ASSERT_EQ(finals, i + 1);
  }
}

TEST(EngineLoopTest, InspectionIsRefusedByAFullInbox) {
  World w({.inbox = 1});
  ASSERT_TRUE(w.engine->submit(1, request(1)).ok());
  const absl::Status full = w.engine->inspect([](const Scheduler&) { FAIL(); });
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  w.engine.reset();
}

}  // namespace
}  // namespace sluice
