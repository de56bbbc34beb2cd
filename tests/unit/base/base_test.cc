#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "base/hash.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/queue.h"
#include "base/status.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Queue, IsBoundedAndKeepsWhatItRefuses) {
  Queue<std::unique_ptr<int>> queue(2);
  EXPECT_TRUE(queue.try_push(std::make_unique<int>(1)));
  EXPECT_TRUE(queue.try_push(std::make_unique<int>(2)));
  auto third = std::make_unique<int>(3);
  EXPECT_FALSE(queue.try_push(std::move(third)));
  ASSERT_TRUE(third);  // untouched
  queue.push(std::move(third));
  std::vector<std::unique_ptr<int>> out;
  queue.take(out);
  ASSERT_EQ(out.size(), 3u);
  EXPECT_EQ(*out[2], 3);
}

TEST(Queue, WhatMustNotBeLostTakesNoRoom) {
  Queue<int> queue(1);
  queue.push(1);
  EXPECT_TRUE(queue.try_push(2));
  EXPECT_FALSE(queue.try_push(3));
  std::vector<int> out;
  queue.take(out);
  EXPECT_THAT(out, ::testing::ElementsAre(1, 2));
  EXPECT_TRUE(queue.try_push(4));
}

TEST(Queue, DeliversEverythingOnceFromManyThreads) {
  constexpr int kThreads = 4, kEach = 2000;
  Queue<int> queue(64);
  std::vector<std::thread> producers;
  for (int t = 0; t < kThreads; ++t) {
    producers.emplace_back([&queue, t] {
      for (int i = 0; i < kEach; ++i) {
        int item = t * kEach + i;
        while (!queue.try_push(std::move(item))) std::this_thread::yield();
      }
    });
  }
  std::vector<int> seen(kThreads * kEach), last(kThreads, -1), batch;
  for (int got = 0; got < kThreads * kEach;) {
    queue.wait();
    batch.clear();
    queue.take(batch);
    for (const int item : batch) {
      ++seen[item];
      EXPECT_GT(item, last[item / kEach]);  // each producer's order is kept
      last[item / kEach] = item;
    }
    got += static_cast<int>(batch.size());
  }
  for (std::thread& t : producers) t.join();
  EXPECT_THAT(seen, ::testing::Each(1));
}

TEST(Queue, WaitUntilReturnsAtTheDeadline) {
  Queue<int> queue(1);
  queue.wait_until(std::chrono::steady_clock::now() + std::chrono::milliseconds(5));
  std::vector<int> out;
  queue.take(out);
  EXPECT_TRUE(out.empty());
}

TEST(Queue, APokeWakesOnceAndTakesNoRoom) {
  Queue<int> queue(1);
  std::vector<int> out;
  for (int i = 0; i < 3; ++i) queue.poke();
  EXPECT_TRUE(queue.try_push(7));
  queue.wait();
  queue.take(out);
  EXPECT_THAT(out, ::testing::ElementsAre(7));
  out.clear();
  queue.poke();  // before the wait
  queue.wait();
  queue.take(out);
  EXPECT_TRUE(out.empty());
  std::thread other([&] { queue.poke(); });
  queue.wait();  // during it
  other.join();
}

TEST(Status, FormatsAndAnnotates) {
  const absl::Status status = invalid_argument("{} is above {}", "n", 16);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(message_of(status), "n is above 16");
  EXPECT_EQ(message_of(annotate(status, "file")), "file: n is above 16");
  EXPECT_EQ(annotate(status, "file").code(), status.code());
  EXPECT_TRUE(annotate(absl::OkStatus(), "file").ok());
}

TEST(Hash, MixSeparatesNeighboursAndOrder) {
  EXPECT_NE(mix64(1), mix64(2));
  EXPECT_NE(mix64(1, 2), mix64(2, 1));
  int changed = 0;
  for (int bit = 0; bit < 64; ++bit)
    changed += __builtin_popcountll(mix64(7) ^ mix64(7 ^ (1ull << bit)));
  EXPECT_NEAR(changed / 64.0, 32, 4);
}

TEST(Log, JsonLinesStayOneObjectWhateverTheText) {
  init_log("info", "json");
  testing::internal::CaptureStderr();
  log_info("he said \"{}\"\n{{}}", "hi\\");
  log_debug("not shown");
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_THAT(line, HasSubstr(R"(he said \"hi\\\"\u000a{})"));
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
}

TEST(Metrics, ExposesOwnNamesAndAliasesWithTheSameValue) {
  Metrics metrics("m");
  metrics.running.Set(3);
  metrics.finished("stop").Increment();
  metrics.rejected("queue_full").Increment(2);
  metrics.http_requests("/v1/models", 200).Increment();
  metrics.set_cache_config(16, 99);
  const std::string text = metrics.expose();
  EXPECT_THAT(text, HasSubstr("sluice_requests_running{model_name=\"m\"} 3"));
  EXPECT_THAT(text, HasSubstr("vllm:num_requests_running{model_name=\"m\"} 3"));
  EXPECT_THAT(text, HasSubstr("reason=\"queue_full\"} 2"));
  EXPECT_THAT(text, HasSubstr("# TYPE vllm:kv_cache_usage_perc gauge"));
  EXPECT_THAT(text, HasSubstr("vllm:cache_config_info{block_size=\"16\""));
  EXPECT_THAT(text, Not(HasSubstr("vllm:nothing")));
}

}  // namespace
}  // namespace sluice
