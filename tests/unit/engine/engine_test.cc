#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "tests/unit/engine/engine_world.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

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
  EXPECT_THAT(w.inbox.answer(1).refusal, testing::HasSubstr("500 tokens"));
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
