#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/unit/engine/engine_world.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

// How an engine ends: drains, and what is still under way then.
class EngineEndDepthTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Depths, EngineEndDepthTest, testing::Values(1, 2, 4));

TEST_P(EngineEndDepthTest, DestructorEndsWhatIsLeft) {
  auto w = std::make_unique<World>(Options{.depth = GetParam(), .step_time = 5ms, .sleep = true});
  w->engine->start();
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(w->engine->submit(i, endless(i)).ok());
  w->inbox.wait_tokens(0, 3);
  w->engine.reset();
  EXPECT_EQ(w->inbox.num_finals(), 40);
  EXPECT_EQ(w->inbox.answer(39).finish, FinishReason::cancelled);
  EXPECT_EQ(w->pool.num_available(), w->pool.num_blocks());
}

TEST_P(EngineEndDepthTest, DrainCancelsAtItsDeadline) {
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
TEST_P(EngineEndDepthTest, SubmitsThatRaceWithADrain) {
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

TEST(EngineEndTest, DrainLetsRunningRequestsFinish) {
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

TEST(EngineEndTest, NeverStartedStillAnswers) {
  World w;
  ASSERT_TRUE(w.engine->submit(1, request(1, 5, 5, 3)).ok());
  w.engine.reset();
  EXPECT_EQ(w.inbox.num_finals(), 3);
  for (int s = 0; s < 3; ++s) EXPECT_EQ(w.inbox.answer(1, s).finish, FinishReason::cancelled);
}

}  // namespace
}  // namespace sluice
