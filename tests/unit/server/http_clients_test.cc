#include <sys/resource.h>

#include "server/http_server.h"
#include "tests/unit/server/http_fixture.h"

// Clients that are too many, leave, stall; a server that drains and stops.
namespace sluice {
namespace {

using HttpClientsTest = HttpServerTest;

TEST_F(HttpClientsTest, OverloadIsAStatusAlsoForStreams) {
  WorldOptions options;
  options.max_seqs = 1;
  options.max_queue = 1;
  options.step_time = 1ms;
  start(options);
  std::vector<std::unique_ptr<HttpClient>> clients;
  int refused = 0;
  for (int i = 0; i < 2; ++i) {  // one runs, one waits
    clients.push_back(std::make_unique<HttpClient>(port()));
    clients.back()->send(
        HttpClient::request("POST", "/v1/completions", completion("busy", 400, i, true)));
    wait_for([&] {
      const Scheduler::Stats stats = world_->engine->stats();
      return stats.running == 1 && stats.waiting == i;
    });
    if (i == 0) wait_for([&] { return world_->engine->stats().running == 1; });
  }
  for (const bool stream : {true, false}) {
    HttpClient client(port());
    const HttpAnswer answer =
        client.call("POST", "/v1/completions", completion("more", 4, 1, stream));
    EXPECT_EQ(answer.status, 503) << answer.body;
    EXPECT_EQ(answer.header("content-type"), "application/json");
    EXPECT_EQ(answer.header("retry-after"), "1");
    EXPECT_EQ(answer.header("retry-after-ms"), "1000");
    EXPECT_EQ(answer.header("x-should-retry"), "true");
    EXPECT_EQ(Json::parse(answer.body)["error"]["code"], "overloaded");
    ++refused;
  }
  EXPECT_EQ(refused, 2);
  clients.clear();
  wait_until_free();
}

// A client may leave while it is queued, in its prefill, or in the middle of its answer.
TEST_F(HttpClientsTest, ClientsThatLeaveFreeEverything) {
  WorldOptions options;
  options.max_seqs = 4;
  options.step_time = 1ms;
  start(options);
  for (const bool stream : {true, false}) {
    for (const bool hard : {true, false}) {
      std::vector<std::unique_ptr<HttpClient>> clients;
      for (int i = 0; i < 24; ++i) {
        clients.push_back(std::make_unique<HttpClient>(port()));
        clients.back()->send(
            HttpClient::request("POST", "/v1/completions", completion("going", 500, i, stream)));
      }
      wait_for([&] {
        const Scheduler::Stats stats = world_->engine->stats();
        return stats.running == 4 && stats.waiting == 20;
      });
      for (auto& client : clients) hard ? client->reset() : client->close();
      wait_until_free();
      wait_for([&] { return server_->num_connections() == 0; });
    }
  }
  EXPECT_LT(world_->engine->stats().generated_tokens, 4 * 24 * 500 / 2);
}

// Bytes that were sent ahead must not hide that their sender has left.
TEST_F(HttpClientsTest, ClientsThatLeaveAfterSendingAheadFreeEverything) {
  WorldOptions options;
  options.max_model_len = 200000;
  options.num_blocks = 20000;
  options.step_time = 1ms;
  start(options);
  {
    HttpClient client(port());
    client.send(
        HttpClient::request("POST", "/v1/completions", completion("ahead", 190000, 1, false)));
    wait_for([this] { return world_->engine->stats().running == 1; });
    client.send(HttpClient::request("GET", "/ping"));
  }
  wait_until_free();
  EXPECT_LT(world_->engine->stats().generated_tokens, 100000);
}

TEST_F(HttpClientsTest, HalfClosedClientIsToldAndFreed) {
  WorldOptions options;
  options.step_time = 1ms;
  start(options);
  for (const bool stream : {true, false}) {
    HttpClient client(port());
    client.send(HttpClient::request("POST", "/v1/completions", completion("half", 500, 1, stream)));
    if (stream) {
      ASSERT_TRUE(client.read_until("data: "));
    }
    client.half_close();
    const HttpAnswer answer = client.receive();
    EXPECT_EQ(answer.status, stream ? 200 : 499);
    EXPECT_NE(answer.body.find("closed its side"), std::string::npos);
    wait_until_free();
  }
  HttpClient client(port());
  client.send("POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"pro");
  client.half_close();
  EXPECT_EQ(client.receive().status, 400);
}

TEST_F(HttpClientsTest, SlowSenderGets408) {
  WorldOptions options;
  options.server.body_timeout_seconds = 1;
  start(options);
  HttpClient client(port());
  client.send("POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"pro");
  const HttpAnswer answer = client.receive();
  EXPECT_EQ(answer.status, 408);
  EXPECT_EQ(Json::parse(answer.body)["error"]["type"], "timeout");
  EXPECT_FALSE(client.read_some());  // closed
}

TEST_F(HttpClientsTest, SlowReaderIsDroppedAndOthersAreNot) {
  WorldOptions options;
  options.max_model_len = 60000;
  options.server.write_timeout_seconds = 1;
  start(options);
  HttpClient slow(port(), 4096);
  slow.send(HttpClient::request("POST", "/v1/completions",
                                completion("slow", 59000, 1, true, R"(,"logprobs":5)")));
  HttpClient other(port());
  for (int i = 0; i < 5; ++i)
    EXPECT_EQ(other.call("POST", "/v1/completions", completion("quick", 50, i, true)).status, 200);
  wait_until_free();
  wait_for([&] { return server_->num_connections() == 1; });
  EXPECT_LT(world_->engine->stats().generated_tokens, 59000);
  EXPECT_EQ(other.call("GET", "/ping").status, 200);
}

TEST_F(HttpClientsTest, TooManyConnectionsAreToldSo) {
  WorldOptions options;
  options.server.max_connections = 3;
  start(options);
  std::vector<std::unique_ptr<HttpClient>> held;
  for (int i = 0; i < 3; ++i) {
    held.push_back(std::make_unique<HttpClient>(port()));
    EXPECT_EQ(held.back()->call("GET", "/ping").status, 200);
  }
  HttpClient extra(port());
  const HttpAnswer answer = extra.call("GET", "/ping");
  EXPECT_EQ(answer.status, 503);
  EXPECT_NE(answer.body.find("max_connections is 3"), std::string::npos);
  held.clear();
  wait_for([&] { return server_->num_connections() == 0; });
  HttpClient again(port());
  EXPECT_EQ(again.call("GET", "/ping").status, 200);
}

TEST_F(HttpClientsTest, DrainRefusesNewWorkAndFinishesTheOld) {
  WorldOptions options;
  options.step_time = 1ms;
  start(options);
  HttpClient idle(port());
  EXPECT_EQ(idle.call("GET", "/health/ready").status, 200);
  HttpClient busy(port());
  busy.send(HttpClient::request("POST", "/v1/completions", completion("old", 200, 4, true)));
  ASSERT_TRUE(busy.read_until("data: "));

  server_->announce_drain();
  EXPECT_EQ(HttpClient(port()).call("GET", "/health/ready").status, 503);
  EXPECT_EQ(HttpClient(port()).call("GET", "/health/live").status, 200);
  const HttpAnswer late =
      HttpClient(port()).call("POST", "/v1/completions", completion("late", 4, 1, false));
  EXPECT_EQ(late.status, 200);
  EXPECT_EQ(late.header("connection"), "close");

  server_->begin_drain();
  // A connection kept open from before gets an answer too, and is closed only after it.
  const HttpAnswer answer = idle.call("POST", "/v1/completions", completion("new", 4, 1, false));
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.header("connection"), "close");
  EXPECT_EQ(answer.header("retry-after"), "1");
  EXPECT_EQ(Json::parse(answer.body)["error"]["code"], "draining");
  EXPECT_FALSE(idle.read_some());
  const int port = this->port();
  wait_for([&] { return !HttpClient(port).connected(); });
  EXPECT_TRUE(Listener::bind("127.0.0.1", port, "server.http_port").ok());  // a successor may come
  world_->engine->drain(kNever);
  EXPECT_EQ(text_of(events(busy.receive().body)), world_->answer("old", 4, 200));
}

TEST_F(HttpClientsTest, DrainThatRunsOutEndsStreamsWithAnError) {
  WorldOptions options;
  options.step_time = 1ms;
  start(options);
  HttpClient client(port());
  client.send(HttpClient::request("POST", "/v1/completions", completion("old", 400, 4, true)));
  ASSERT_TRUE(client.read_until("data: "));
  server_->begin_drain();
  world_->engine->drain(std::chrono::steady_clock::now());
  const std::vector<std::string> list = events(client.receive().body);
  EXPECT_EQ(Json::parse(list.back())["error"]["code"], "draining");
}

TEST_F(HttpClientsTest, AStalledEngineIsNeitherReadyNorAlive) {
  WorldOptions options;
  options.step_time = 3s;
  options.server.stall_seconds = 1;
  start(options);
  HttpClient busy(port());
  busy.send(HttpClient::request("POST", "/v1/completions", completion("x", 1, 1, false)));
  HttpClient probe(port());
  wait_for([&] { return probe.call("GET", "/health/live").status == 503; });
  EXPECT_EQ(probe.call("GET", "/health/ready").status, 503);
  EXPECT_EQ(busy.receive().status, 200);
  EXPECT_EQ(probe.call("GET", "/health/live").status, 200);
}

TEST_F(HttpClientsTest, LimitsChangeWhileServing) {
  WorldOptions options;
  options.max_seqs = 1;
  options.step_time = 5ms;
  start(options);
  Config fresh = world_->config;
  fresh.server.max_n = 2;
  fresh.scheduler.max_queue = 1;
  world_->frontend->set_limits(fresh);
  HttpClient client(port());
  const HttpAnswer wide =
      client.call("POST", "/v1/completions", completion("x", 1, 1, false, R"(,"n":3)"));
  EXPECT_EQ(wide.status, 400);
  EXPECT_NE(wide.body.find("2"), std::string::npos) << wide.body;
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 2; ++i) {  // one runs, one waits
    clients.push_back(std::make_unique<HttpClient>(port()));
    clients[i]->send(HttpClient::request("POST", "/v1/completions", completion("x", 400, i, true)));
    wait_for([&] {
      const Scheduler::Stats stats = world_->engine->stats();
      return stats.running == 1 && stats.waiting == i;
    });
  }
  const HttpAnswer full = client.call("POST", "/v1/completions", completion("x", 1, 1, false));
  EXPECT_EQ(full.status, 503);
  EXPECT_EQ(Json::parse(full.body)["error"]["code"], "overloaded");
}

TEST_F(HttpClientsTest, StopClosesIdleConnections) {
  start(WorldOptions{});
  HttpClient idle(port());
  EXPECT_EQ(idle.call("GET", "/ping").status, 200);
  server_->stop();
  EXPECT_FALSE(idle.read_some());
}

TEST_F(HttpClientsTest, StopWithStreamsUnderWay) {
  WorldOptions options;
  options.step_time = 1ms;
  start(options);
  HttpClient client(port());
  client.send(HttpClient::request("POST", "/v1/completions", completion("x", 500, 4, true)));
  ASSERT_TRUE(client.read_until("data: "));
  client.close();
  server_->stop();
  EXPECT_EQ(server_->num_connections(), 0);
}

TEST_F(HttpClientsTest, ReadinessFollowsTheModel) {
  world_ = std::make_unique<World>(WorldOptions{});
  server_ = std::make_unique<HttpServer>(world_->config.server, *world_->frontend);
  ASSERT_TRUE(server_->start(any_port()).ok());
  HttpClient client(port());
  EXPECT_EQ(client.call("GET", "/health/ready").status, 503);
  EXPECT_EQ(client.call("GET", "/health/live").status, 200);
  const HttpAnswer early = client.call("POST", "/v1/completions", completion("a", 1, 1, false));
  EXPECT_EQ(early.status, 503);
  EXPECT_EQ(Json::parse(early.body)["error"]["code"], "model_loading");
  world_->start();
  EXPECT_EQ(client.call("GET", "/health/ready").status, 200);
}

TEST_F(HttpClientsTest, PortInUseIsAnError) {
  start();
  const absl::Status status = Listener::bind("127.0.0.1", port(), "server.http_port").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(message_of(status).find(std::to_string(port())), std::string::npos);
}

TEST_F(HttpClientsTest, AThousandStreamsAtOnceLoseNothing) {
  constexpr int kStreams = 1000;
  rlimit files{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  if (files.rlim_cur < 2 * kStreams + 100) GTEST_SKIP() << "too few file descriptors";
  WorldOptions options;
  options.max_seqs = kStreams;
  options.max_queue = kStreams;
  options.num_blocks = 20 * kStreams;
  options.step_time = 1ms;
  start(options);
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<HttpClient>(port()));
    ASSERT_TRUE(clients.back()->connected());
    clients.back()->send(HttpClient::request("POST", "/v1/completions",
                                             completion(fmt::format("s{}", i), 40, i, true)));
  }
  for (int i = 0; i < kStreams; ++i) {
    const HttpAnswer answer = clients[i]->receive();
    ASSERT_EQ(answer.status, 200) << answer.body;
    ASSERT_TRUE(answer.complete);
    const std::vector<std::string> list = events(answer.body);
    ASSERT_EQ(list.back(), "[DONE]");
    ASSERT_EQ(text_of(list), world_->answer(fmt::format("s{}", i), i, 40));
  }
  wait_until_free();
}

}  // namespace
}  // namespace sluice
