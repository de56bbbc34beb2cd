#include <gtest/gtest.h>

#include "server/wait_estimate.h"
#include "tests/unit/server/http_fixture.h"

// Requests that would wait too long are refused before anybody works on them.
namespace sluice {
namespace {

constexpr StepCost kFree{.constant = 0, .per_prefill_token = 0, .per_decode_row = 0};

TEST(WaitEstimate, CountsStepsAndWhatIsInThem) {
  EngineLoad load;
  load.step_tokens = 100;
  load.block_size = 16;
  load.cost = kFree;
  load.cost.constant = 1;
  EXPECT_EQ(predict_ttft(load, 1), 1);
  EXPECT_EQ(predict_ttft(load, 100), 1);
  EXPECT_EQ(predict_ttft(load, 101), 2);
  load.stats.waiting_tokens = 400;
  load.stats.waiting = 2;
  EXPECT_EQ(predict_ttft(load, 100), 5);
  load.stats.running = 50;  // half of every step is theirs
  EXPECT_EQ(predict_ttft(load, 100), 10);
  load.stats.running = 1000;  // a prompt gets something all the same
  EXPECT_EQ(predict_ttft(load, 100), 500);

  load.stats.running = 50;
  load.cost = kFree;
  load.cost.per_prefill_token = 1;
  EXPECT_EQ(predict_ttft(load, 100), 500);
  load.cost = kFree;
  load.cost.per_decode_row = 1;
  EXPECT_EQ(predict_ttft(load, 100), 10 * 50);
  load.cost = kFree;
  load.cost.per_context_token = 1;
  load.stats.used_blocks = 3;
  EXPECT_EQ(predict_ttft(load, 100), 10 * 3 * 16);
  load.cost = kFree;
  load.cost.per_prefill_pair = 1;
  EXPECT_EQ(predict_ttft(load, 100), 2 * 200 * 200 / 2 + 100 * 100 / 2);
}

TEST(WaitEstimate, TokensOfABody) {
  EXPECT_EQ(estimate_tokens(0), 1);
  EXPECT_EQ(estimate_tokens(4000), 1001);
}

class WaitTest : public HttpServerTest {
 protected:
  // An engine at rest whose cost model has seen nothing: 1 ms a step, 0.2 ms a prompt token.
  static std::string of_size(size_t bytes, const std::string& more = "") {
    return completion(std::string(bytes, 'x'), 4, 1, false, more);
  }
};

TEST_F(WaitTest, WhatIsPredictedTooLateIsRefusedBeforeItIsRead) {
  WorldOptions options;
  options.max_ttft_seconds = 0.05;
  start(options);
  HttpClient client(port());
  // 500 tokens: 100 ms. The body is not even JSON.
  const HttpAnswer answer = client.call("POST", "/v1/completions", std::string(2000, '{'));
  EXPECT_EQ(answer.status, 503) << answer.body;
  EXPECT_EQ(answer.header("retry-after"), "1");
  EXPECT_EQ(answer.header("x-should-retry"), "true");
  const Json error = Json::parse(answer.body)["error"];
  EXPECT_EQ(error["code"], "overloaded");
  const std::string message = error["message"];
  EXPECT_NE(message.find("scheduler.max_ttft_seconds"), std::string::npos) << message;
  EXPECT_NE(message.find("(0.05 s)"), std::string::npos) << message;
  EXPECT_EQ(world_->metrics.rejected("predicted_ttft").Value(), 1);
  EXPECT_EQ(client.call("POST", "/v1/completions", of_size(100)).status, 200);
  EXPECT_EQ(world_->metrics.rejected("predicted_ttft").Value(), 1);
}

TEST_F(WaitTest, ARequestsOwnTargetIsALimitForItself) {
  start();
  HttpClient client(port());
  const HttpAnswer answer =
      client.call("POST", "/v1/completions", of_size(400, R"(,"ttft_ms":2.5)"));
  EXPECT_EQ(answer.status, 503) << answer.body;
  EXPECT_NE(answer.body.find("ttft_ms"), std::string::npos);
  EXPECT_EQ(world_->metrics.rejected("predicted_ttft").Value(), 1);
  EXPECT_EQ(client.call("POST", "/v1/completions", of_size(400, R"(,"ttft_ms":60000)")).status,
            200);
  EXPECT_EQ(client.call("POST", "/v1/completions", of_size(400)).status, 200);
}

// The hint is how much too late it is, in whole seconds.
TEST_F(WaitTest, TheRetryHintGrowsWithTheWait) {
  WorldOptions options;
  options.max_model_len = 100000;
  options.max_ttft_seconds = 0.5;
  start(options);
  HttpClient client(port());
  // 20,001 tokens: 4 s, and 1 ms for each of the steps.
  const HttpAnswer answer = client.call("POST", "/v1/completions", std::string(80000, ' '));
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.header("retry-after"), "4");
  EXPECT_EQ(answer.header("retry-after-ms"), "4000");
}

}  // namespace
}  // namespace sluice
