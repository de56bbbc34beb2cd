#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

#include "tests/sim/ledger.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

const std::vector<TokenId> kEos = {0};
constexpr int kVocab = 50;  // an eos now and then

Instant soon(Nanos d) { return std::chrono::steady_clock::now() + d; }

// What a request got. Checks the promise to every client: one final event a sample, the last.
struct Answer {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::none;
};
class Inbox final : public OutputSink {
 public:
  void deliver(std::span<TokenEvent> events) override {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(events.empty());
    for (const TokenEvent& e : events) {
      Answer& a = answers_[{e.request, e.sample}];
      EXPECT_EQ(a.finish, FinishReason::none) << "an event after the last one";
      EXPECT_TRUE(e.token >= 0 || e.finish != FinishReason::none) << "an event of nothing";
      if (e.token >= 0) a.tokens.push_back(e.token);
      a.finish = e.finish;
      num_finals_ += e.finish != FinishReason::none;
    }
    arrived_.notify_all();
    if (on_deliver) on_deliver();
  }
  // Blocks until so many samples have ended.
  void wait_finals(int n) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return num_finals_ >= n; });
  }
  void wait_tokens(RequestId id, int n) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return int(answers_[{id, 0}].tokens.size()) >= n; });
  }
  Answer answer(RequestId id, int sample = 0) {
    std::lock_guard lock(mutex_);
    return answers_[{id, uint16_t(sample)}];
  }
  int num_finals() {
    std::lock_guard lock(mutex_);
    return num_finals_;
  }

  std::function<void()> on_deliver;  // engine thread

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<std::pair<RequestId, uint16_t>, Answer> answers_;
  int num_finals_ = 0;
};

struct Options {
  int depth = 1;
  int num_blocks = 64;
  int max_queue = 1000;
  int max_model_len = 200;
  int inbox = 1000;
  Nanos step_time{0};
  bool sleep = false;
};

// An engine over a ledger instead of a model.
struct World {
  explicit World(Options o = {}) : pool(o.num_blocks, 4), metrics("test") {
    Policy policy;
    policy.max_seqs = 16;
    policy.max_step_tokens = 32;
    policy.max_queue = o.max_queue;
    LedgerOptions ledger;
    ledger.block_size = 4;
    ledger.num_blocks = o.num_blocks;
    ledger.num_slots = 16;
    ledger.depth = o.depth;
    ledger.vocab = kVocab;
    ledger.eos_tokens = kEos;
    ledger.step_time = o.step_time;
    ledger.sleep = o.sleep;
    engine =
        std::make_unique<Engine>(std::make_unique<Scheduler>(policy, CostModel(), pool, nullptr,
                                                             o.depth, kEos, o.max_model_len),
                                 std::make_unique<LedgerRunner>(ledger), inbox, metrics, o.inbox);
  }
  void expect_empty() {
    const Scheduler::Stats s = engine->stats();
    EXPECT_EQ(s.running, 0);
    EXPECT_EQ(s.waiting, 0);
    EXPECT_EQ(s.used_blocks, 0);
    EXPECT_EQ(pool.num_available(), pool.num_blocks());
  }
  BlockPool pool;
  Metrics metrics;
  Inbox inbox;
  std::unique_ptr<Engine> engine;  // last: its thread uses all of the above
};

GenerateRequest request(uint64_t seed, int prompt_len = 10, int max_tokens = 20, int n = 1) {
  GenerateRequest r;
  for (int i = 0; i < prompt_len; ++i) r.prompt.push_back(1 + TokenId(mix64(seed, i) % 40));
  r.sampling.seed = seed;
  r.sampling.max_tokens = max_tokens;
  r.num_samples = n;
  return r;
}
GenerateRequest endless(uint64_t seed) {
  GenerateRequest r = request(seed, 10, 180);
  r.sampling.ignore_eos = true;
  return r;
}
std::vector<TokenId> alone(const GenerateRequest& r, int sample = 0) {
  return ledger_alone(r.prompt, r.sampling, sample, kEos, kVocab);
}

class EngineDepthTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Depths, EngineDepthTest, testing::Values(1, 2, 4));

TEST_P(EngineDepthTest, AnswersFromManyThreadsAsIfEachWereAlone) {
  World w({.depth = GetParam(), .num_blocks = 40});  // small: preemption happens
  w.engine->start();
  constexpr int kThreads = 4, kEach = 40;
  const auto make = [](int i) { return request(i, 1 + i % 30, 1 + i % 25, 1 + i % 3); };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (int i = t; i < kThreads * kEach; i += kThreads)
        ASSERT_TRUE(w.engine->submit(i, make(i)).ok());
    });
  for (std::thread& t : threads) t.join();
  int samples = 0;
  for (int i = 0; i < kThreads * kEach; ++i) samples += make(i).num_samples;
  w.inbox.wait_finals(samples);
  w.engine->drain(kNever);
  w.expect_empty();
  for (int i = 0; i < kThreads * kEach; ++i)
    for (int s = 0; s < make(i).num_samples; ++s)
      ASSERT_EQ(w.inbox.answer(i, s).tokens, alone(make(i), s)) << i << " " << s;
  EXPECT_EQ(w.inbox.num_finals(), samples);
}

// Requests come and are cancelled at every moment of their lives, some twice, some before they
// exist, single samples too.
TEST_P(EngineDepthTest, StormOfCancels) {
  World w({.depth = GetParam()});
  w.engine->start();
  constexpr int kThreads = 4, kEach = 150;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 rng(t);
      for (int i = 0; i < kEach; ++i) {
        const RequestId id = RequestId(t * kEach + i);
        if (rng() % 8 == 0) w.engine->cancel(id);
        while (!w.engine->submit(id, request(id, 1 + rng() % 40, 60, 2)).ok())
          std::this_thread::yield();
        if (rng() % 4 == 0) std::this_thread::yield();
        if (rng() % 3 != 0) w.engine->cancel(id, int(rng() % 3) - 1);
        w.engine->cancel(RequestId(t * kEach) + rng() % (i + 1));
        (void)w.engine->stats();
        (void)w.engine->since_progress();
      }
    });
  for (std::thread& t : threads) t.join();
  w.inbox.wait_finals(kThreads * kEach * 2);
  w.engine->drain(kNever);
  w.expect_empty();
  EXPECT_EQ(w.inbox.num_finals(), kThreads * kEach * 2);
  for (int id = 0; id < kThreads * kEach; ++id)
    for (int s = 0; s < 2; ++s) {
      const Answer a = w.inbox.answer(id, s);
      const GenerateRequest r = request(id, 1, 60, 2);
      EXPECT_TRUE(a.finish == FinishReason::cancelled || a.finish == FinishReason::stop ||
                  a.finish == FinishReason::length);
    }
}

TEST_P(EngineDepthTest, DestructorEndsWhatIsLeft) {
  auto w = std::make_unique<World>(Options{.depth = GetParam(), .step_time = 5ms, .sleep = true});
  w->engine->start();
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(w->engine->submit(i, endless(i)).ok());
  w->inbox.wait_tokens(0, 3);
  w->engine.reset();
  EXPECT_EQ(w->inbox.num_finals(), 40);
  EXPECT_EQ(w->inbox.answer(39).finish, FinishReason::cancelled);
  EXPECT_EQ(w->pool.num_available(), w->pool.num_blocks());
}

TEST_P(EngineDepthTest, DrainCancelsAtItsDeadline) {
  World w({.depth = GetParam(), .step_time = 5ms, .sleep = true});
  w.engine->start();
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(w.engine->submit(i, endless(i)).ok());
  w.inbox.wait_tokens(0, 1);
  w.engine->drain(soon(-1s));
  EXPECT_EQ(w.inbox.num_finals(), 30);
  w.expect_empty();
  int cancelled = 0;
  for (int i = 0; i < 30; ++i) cancelled += w.inbox.answer(i).finish == FinishReason::cancelled;
  EXPECT_GT(cancelled, 0);
}

// What submit() accepted gets its end, also when it came in behind the cancel of everything.
TEST_P(EngineDepthTest, SubmitsThatRaceWithADrain) {
  for (int round = 0; round < 20; ++round) {
    World w({.depth = GetParam()});
    w.engine->start();
    std::atomic<int> accepted{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < 300; ++i) {
          const absl::Status status = w.engine->submit(RequestId(t * 1000 + i), endless(i));
          if (status.ok()) ++accepted;
          if (status.code() == absl::StatusCode::kUnavailable) return;
        }
      });
    while (accepted < 20) std::this_thread::yield();
    w.engine->drain(soon(-1s));
    for (std::thread& t : threads) t.join();
    w.inbox.wait_finals(accepted);
    w.engine.reset();
    EXPECT_EQ(w.inbox.num_finals(), accepted);
    EXPECT_EQ(w.pool.num_available(), w.pool.num_blocks());
  }
}

TEST(EngineTest, DrainLetsRunningRequestsFinish) {
  World w;
  w.engine->start();
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(w.engine->submit(i, request(i)).ok());
  w.engine->drain(kNever);
  EXPECT_EQ(w.inbox.num_finals(), 30);
  for (int i = 0; i < 30; ++i) EXPECT_EQ(w.inbox.answer(i).tokens, alone(request(i)));
  const absl::Status late = w.engine->submit(99, request(99));
  EXPECT_EQ(late.code(), absl::StatusCode::kUnavailable);
  w.engine->drain(soon(-1s));  // again: nothing to do, and it returns
  EXPECT_EQ(w.inbox.num_finals(), 30);
}

TEST(EngineTest, NeverStartedStillAnswers) {
  World w;
  ASSERT_TRUE(w.engine->submit(1, request(1, 5, 5, 3)).ok());
  w.engine.reset();
  EXPECT_EQ(w.inbox.num_finals(), 3);
  for (int s = 0; s < 3; ++s) EXPECT_EQ(w.inbox.answer(1, s).finish, FinishReason::cancelled);
}

TEST(EngineTest, AFullInboxIsRefusedAtOnceAndTheRestIsServed) {
  World w({.inbox = 3});
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(w.engine->submit(i, request(i)).ok());
  const absl::Status full = w.engine->submit(3, request(3));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(message_of(full)), testing::HasSubstr("3 requests"));
  for (int i = 0; i < 100; ++i) w.engine->cancel(77);  // a cancel is never refused
  w.engine->start();
  w.inbox.wait_finals(3);
  ASSERT_TRUE(w.engine->submit(3, request(3)).ok());
  w.inbox.wait_finals(4);
}

TEST(EngineTest, WhatTheSchedulerRefusesEndsEverySample) {
  World w({.max_queue = 1});
  ASSERT_TRUE(w.engine->submit(1, request(1, 500, 5, 2)).ok());  // longer than the model's context
  ASSERT_TRUE(w.engine->submit(2, request(2)).ok());
  ASSERT_TRUE(w.engine->submit(3, request(3, 10, 20, 3)).ok());  // behind 2 in a queue of one
  w.engine->start();
  w.inbox.wait_finals(2 + 1 + 3);
  for (int s = 0; s < 2; ++s) EXPECT_EQ(w.inbox.answer(1, s).finish, FinishReason::error);
  EXPECT_EQ(w.inbox.answer(2).tokens, alone(request(2)));
  for (int s = 0; s < 3; ++s) EXPECT_EQ(w.inbox.answer(3, s).finish, FinishReason::overloaded);
  w.engine->drain(kNever);
  EXPECT_EQ(w.inbox.num_finals(), 6);
}

TEST(EngineTest, ADeadlineEndsARequestAlsoWhenItIsAllThereIs) {
  World w;
  w.engine->start();
  GenerateRequest late = endless(1);
  late.deadline = soon(-1s);
  ASSERT_TRUE(w.engine->submit(1, late).ok());
  w.inbox.wait_finals(1);
  EXPECT_EQ(w.inbox.answer(1).finish, FinishReason::deadline);
  w.engine->drain(kNever);
  w.expect_empty();
}

TEST(EngineTest, ACancelWakesNobodyForNothing) {
  World w;
  w.engine->start();
  w.engine->cancel(5);
  ASSERT_TRUE(w.engine->submit(1, request(1)).ok());
  w.inbox.wait_finals(1);
  w.engine->cancel(1);  // after its end
  w.engine->drain(kNever);
  EXPECT_EQ(w.inbox.num_finals(), 1);
}

TEST(EngineTest, AtRestThereIsNoLackOfProgress) {
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

LedgerOptions small_ledger(int depth = 1) {
  LedgerOptions o;
  o.block_size = 4;
  o.num_blocks = 64;
  o.num_slots = 256;
  o.depth = depth;
  o.vocab = kVocab;
  o.eos_tokens = kEos;
  return o;
}

TEST(EngineTest, AStuckStepShowsAsLackOfProgress) {
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

TEST(EngineTest, ASynchronousRunnerHoldsNoTokenBack) {
  EXPECT_EQ(order_of_one_request(1), "LCDLCDLCDLCD");
}
TEST(EngineTest, AnAsynchronousRunnerIsFedBeforeTheSockets) {
  // Two steps at once; a token goes out after the step behind it was launched.
  const std::string log = order_of_one_request(2);
  EXPECT_TRUE(log.starts_with("LLCLD")) << log;
  EXPECT_EQ(std::count(log.begin(), log.end(), 'L'), std::count(log.begin(), log.end(), 'C'));
  EXPECT_EQ(std::count(log.begin(), log.end(), 'D'), 4) << log;
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

TEST(EngineTest, CopiesThatEndWakeTheLoop) {
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

TEST_P(EngineDepthTest, InspectionSeesWhatWasSubmittedAndAlsoAtRest) {
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
TEST_P(EngineDepthTest, InspectionComesBehindTheEventsOfTheStepsBefore) {
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

TEST(EngineTest, InspectionIsRefusedByAFullInbox) {
  World w({.inbox = 1});
  ASSERT_TRUE(w.engine->submit(1, request(1)).ok());
  const absl::Status full = w.engine->inspect([](const Scheduler&) { FAIL(); });
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  w.engine.reset();
}

TEST(EngineTest, MetricsAddUp) {
  World w({.num_blocks = 52});
  int prompt_tokens = 0, generated = 0;
  for (int i = 0; i < 30; ++i) {
    GenerateRequest r = request(i % 10, 40, 20, 1 + i % 2);  // each prompt three times
    r.sampling.ignore_eos = true;
    prompt_tokens += int(r.prompt.size());
    generated += 20 * r.num_samples;
    ASSERT_TRUE(w.engine->submit(i, r).ok());
  }
  w.engine->start();
  w.engine->drain(kNever);
  const Scheduler::Stats s = w.engine->stats();
  EXPECT_GT(s.preemptions, 0);  // or the next line would show nothing
  EXPECT_EQ(w.metrics.prompt_tokens.Value(), prompt_tokens);
  EXPECT_EQ(w.metrics.generation_tokens.Value(), generated);
  EXPECT_EQ(w.metrics.preemptions.Value(), double(s.preemptions));
  EXPECT_EQ(w.metrics.prefix_queries.Value(), double(s.prompt_tokens));
  EXPECT_EQ(w.metrics.prefix_hits.Value(), double(s.cached_tokens));
  EXPECT_GT(s.cached_tokens, 0);
  EXPECT_EQ(w.metrics.running.Value(), 0);
  EXPECT_EQ(w.metrics.waiting.Value(), 0);
  EXPECT_EQ(w.metrics.kv_usage.Value(), 0);
  const auto queue = w.metrics.queue_seconds.Collect().histogram;
  EXPECT_EQ(queue.sample_count, 30u);
  uint64_t steps = 0;
  for (const char* kind : {"prefill", "decode", "mixed"})
    steps += w.metrics.step_seconds(kind).Collect().histogram.sample_count;
  EXPECT_EQ(steps, w.metrics.step_tokens.Collect().histogram.sample_count);
  EXPECT_GE(w.metrics.tenant_tokens(0).Value(), generated);
  EXPECT_EQ(w.metrics.tenant_requests(0, "running").Value(), 0);
  EXPECT_GT(w.metrics.last_step_time.Value(), 1.6e9);
}

}  // namespace
}  // namespace sluice
