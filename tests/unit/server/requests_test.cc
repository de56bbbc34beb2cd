#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/request_json.h"
#include "tests/unit/server/http_fixture.h"

// Looking at requests from outside, and ending them.
namespace sluice {
namespace {

using std::chrono::milliseconds;

std::shared_ptr<RequestTrace> some_trace() {
  auto trace = std::make_shared<RequestTrace>();
  trace->arrived = Instant{} + milliseconds(1000);
  trace->admitted = Instant{} + milliseconds(1002);
  trace->first_token = Instant{} + milliseconds(1010);
  trace->ended = Instant{} + milliseconds(1050);
  trace->prompt_tokens = 40;
  trace->output_tokens = 7;
  trace->swaps = 1;
  trace->swapped_time = milliseconds(3);
  trace->copy_time = milliseconds(2);
  trace->note(Instant{} + milliseconds(1002), RequestTrace::Kind::admitted, 16);
  trace->note(Instant{} + milliseconds(1050), RequestTrace::Kind::ended, 7);
  return trace;
}

std::vector<GenerateRequest> requests(int n) {
  std::vector<GenerateRequest> out(n);
  for (int i = 0; i < n; ++i) out[i].priority = i;
  return out;
}

TEST(RequestRegistry, NamesLiveRequestsAndForgetsThem) {
  RequestRegistry registry;
  registry.add("cmpl-a", 1, {11, 21}, requests(2));
  registry.add("chatcmpl-a", 0, {10}, requests(1));
  EXPECT_EQ(registry.live("cmpl-a").size(), 2u);
  EXPECT_EQ(registry.live("chatcmpl-a").size(), 1u);
  EXPECT_EQ(registry.live("a").size(), 3u);  // what a client chose, without what was put before it
  EXPECT_EQ(registry.live("b").size(), 0u);
  for (const RequestRegistry::Live& l : registry.live("cmpl-a")) {
    EXPECT_EQ(l.stream, 11u);
    EXPECT_EQ(l.shard, 1);
    EXPECT_EQ(l.view.prompt, l.request == 21 ? 1 : 0);
    EXPECT_EQ(l.view.info.priority, l.view.prompt);
  }
  RequestInfo known, unknown;
  known.id = 21;
  known.state = RequestInfo::State::swapped;
  unknown.id = 99;
  const std::vector<RequestView> named = registry.name({known, unknown});
  ASSERT_EQ(named.size(), 1u);
  EXPECT_EQ(named[0].id, "cmpl-a");
  EXPECT_EQ(named[0].prompt, 1);
  EXPECT_EQ(named[0].info.state, RequestInfo::State::swapped);

  registry.end(11, some_trace());
  registry.end(11, some_trace());  // the race with the end is normal
  EXPECT_EQ(registry.live("cmpl-a").size(), 1u);
  ASSERT_EQ(registry.ended("a").size(), 1u);
  EXPECT_EQ(registry.ended("a")[0].info.trace.output_tokens, 7);
  EXPECT_EQ(registry.ended("a")[0].info.age, milliseconds(50));
  registry.end(21, nullptr);  // the scheduler refused it: nothing to tell
  registry.forget({10, 12345});
  EXPECT_EQ(registry.live("a").size(), 0u);
  EXPECT_EQ(registry.ended("a").size(), 1u);
}

TEST(RequestRegistry, AnIdMayBeUsedTwice) {
  RequestRegistry registry;
  registry.add("cmpl-a", 0, {2}, requests(1));
  registry.add("cmpl-a", 1, {3}, requests(1));
  registry.end(2, some_trace());
  ASSERT_EQ(registry.live("a").size(), 1u);
  EXPECT_EQ(registry.live("a")[0].request, 3u);
}

TEST(RequestRegistry, KeepsTheLatestTraces) {
  RequestRegistry registry;
  const auto trace = some_trace();
  constexpr int kMore = 10;
  for (size_t i = 0; i < RequestRegistry::kMaxEnded + kMore; ++i) {
    registry.add(fmt::format("cmpl-{}", i), 0, {i}, requests(1));
    registry.end(i, trace);
  }
  EXPECT_EQ(registry.ended("0").size(), 0u);
  EXPECT_EQ(registry.ended(fmt::format("{}", kMore - 1)).size(), 0u);
  EXPECT_EQ(registry.ended(fmt::format("{}", kMore)).size(), 1u);
}

TEST(RequestJson, SaysAllOfTheTrace) {
  RequestView view{"cmpl-\"a", 2, true, {}};
  view.info.trace = *some_trace();
  view.info.priority = -4;
  view.info.age = milliseconds(50);
  const Json json = Json::parse(trace_json({view}));
  EXPECT_EQ(json["id"], "cmpl-\"a");
  const Json prompt = json["prompts"][0];
  EXPECT_EQ(prompt["index"], 2);
  EXPECT_EQ(prompt["state"], "ended");
  EXPECT_EQ(prompt["priority"], -4);
  EXPECT_EQ(prompt["age_ms"], 50.0);
  EXPECT_EQ(prompt["queue_ms"], 2.0);
  EXPECT_EQ(prompt["ttft_ms"], 10.0);
  EXPECT_EQ(prompt["total_ms"], 50.0);
  EXPECT_EQ(prompt["swap_ms"], 3.0);
  EXPECT_EQ(prompt["copy_ms"], 2.0);
  EXPECT_EQ(prompt["prompt_tokens"], 40);
  EXPECT_EQ(prompt["preemptions"], Json::parse(R"({"swap":1,"recompute":0})"));
  EXPECT_EQ(prompt["events"], Json::parse(R"([{"at_ms":2.0,"kind":"admitted","value":16},
                            {"at_ms":50.0,"kind":"ended","value":7}])"));
  view.ended = false;
  view.info.trace.ended = view.info.trace.first_token = kNever;
  EXPECT_TRUE(Json::parse(trace_json({view}))["prompts"][0]["ttft_ms"].is_null());
  const Json list = Json::parse(list_json({view, view}));
  EXPECT_EQ(list["data"].size(), 2u);
  EXPECT_EQ(list["data"][1]["state"], "waiting");
  EXPECT_FALSE(list["data"][0].contains("events"));
  EXPECT_EQ(list_json({}), R"({"object":"list","data":[]})");
}

class RequestsTest : public HttpServerTest {
 protected:
  static WorldOptions slow() {
    WorldOptions options;
    options.step_time = 5ms;
    return options;
  }
  // Long enough to be cancelled on the way.
  static std::string endless(const std::string& id, bool stream, const std::string& more = "") {
    return completion("abc", 500, 1, stream,
                      fmt::format(R"(,"ignore_eos":true,"request_id":"{}"{})", id, more));
  }
  void start_without_engine() {
    world_ = std::make_unique<World>(WorldOptions{});
    server_ = std::make_unique<HttpServer>(world_->config.server, *world_->frontend);
    ASSERT_TRUE(server_->start(any_port()).ok());
    world_->frontend->set_ready();
  }
  HttpAnswer cancel(const std::string& id) {
    return HttpClient(port()).call("DELETE", "/v1/requests/" + id);
  }
};

TEST_F(RequestsTest, CancelEndsAStreamWithAnError) {
  start(slow());
  HttpClient client(port());
  client.send(HttpClient::request("POST", "/v1/completions", endless("one", true, R"(,"n":3)")));
  ASSERT_TRUE(client.read_until("data: "));
  const HttpAnswer answer = cancel("cmpl-one");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, R"({"id":"cmpl-one","cancelled":true})");
  const HttpAnswer stream = client.receive();
  EXPECT_TRUE(stream.complete);
  const Json error = Json::parse(events(stream.body).back())["error"];
  EXPECT_EQ(error["code"], "cancelled");
  EXPECT_NE(error["message"].get<std::string>().find("cmpl-one"), std::string::npos);
  wait_until_free();
  EXPECT_EQ(world_->metrics.finished("cancelled").Value(), 1);
  EXPECT_EQ(cancel("cmpl-one").status, 404);
}

TEST_F(RequestsTest, CancelAnswersWhoWaitsForABody) {
  start(slow());
  HttpClient client(port());
  client.send(HttpClient::request("POST", "/v1/completions", endless("two", false)));
  HttpAnswer answer;
  wait_for([&] { return (answer = cancel("two")).status == 200; });  // once it has arrived
  const HttpAnswer body = client.receive();
  EXPECT_EQ(body.status, 499);
  EXPECT_EQ(body.header("x-should-retry"), "false");
  EXPECT_EQ(Json::parse(body.body)["error"]["code"], "cancelled");
  wait_until_free();
}

TEST_F(RequestsTest, UnknownIdsAndWrongMethods) {
  start();
  HttpClient client(port());
  for (const auto& [method, target, status] :
       std::vector<std::tuple<const char*, const char*, int>>{
           {"DELETE", "/v1/requests/nobody", 404},
           {"GET", "/v1/requests/nobody/trace", 404},
           {"GET", "/v1/requests/%22%ff/trace", 404},
           {"GET", "/v1/requests/nobody", 405},
           {"POST", "/v1/requests/nobody/trace", 405},
           {"POST", "/v1/requests", 405},
           {"DELETE", "/v1/requests", 405},
           {"GET", "/v1/requests//trace", 405}}) {
    const HttpAnswer answer = client.call(method, target);
    EXPECT_EQ(answer.status, status) << method << " " << target;
    const Json error = Json::parse(answer.body)["error"];
    EXPECT_EQ(error["code"] == "request_not_found", status == 404);
  }
  EXPECT_EQ(client.call("GET", "/v1/requests").body, R"({"object":"list","data":[]})");
  EXPECT_EQ(client.call("HEAD", "/v1/requests").body, "");
  EXPECT_EQ(client.call("OPTIONS", "/v1/requests/x").header("allow"), "DELETE, OPTIONS");
  EXPECT_EQ(client.call("OPTIONS", "/v1/requests/x/trace").header("allow"), "GET, HEAD, OPTIONS");
}

// The engine has not been started, so it cannot answer; what has ended is known all the same.
TEST_F(RequestsTest, EndedTracesComeFromTheEngineLastEvents) {
  start_without_engine();
  HttpClient client(port());
  client.send(HttpClient::request("POST", "/v1/completions",
                                  endless("three", false, R"(,"include_timing":true)")));
  wait_for([this] { return world_->hub.num_open() == 1; });
  // The stream's shard is not known here: the event is sent under both ids it can have.
  for (const int id : {3, 4}) {
    TokenEvent event;
    event.request = static_cast<RequestId>(id);
    event.token = CharTokenizer::of('x');
    event.finish = FinishReason::length;
    event.add_details().trace = some_trace();
    world_->hub.deliver({&event, 1});
  }
  const HttpAnswer answer = client.receive();
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(Json::parse(answer.body)["timing"]["total_ms"], 50.0);
  const HttpAnswer trace = client.call("GET", "/v1/requests/cmpl-three/trace");
  ASSERT_EQ(trace.status, 200) << trace.body;
  const Json json = Json::parse(trace.body);
  EXPECT_EQ(json["id"], "cmpl-three");
  EXPECT_EQ(json["prompts"][0]["state"], "ended");
  EXPECT_EQ(json["prompts"][0]["events"].size(), 2u);
  EXPECT_EQ(client.call("GET", "/v1/requests/three/trace").body, trace.body);
}

// Takes as long as a client has to wait then.
TEST_F(RequestsTest, AnEngineThatDoesNotAnswerIsA503) {
  start_without_engine();
  HttpClient client(port());
  client.send(HttpClient::request("GET", "/v1/requests"));
  HttpClient other(port());
  EXPECT_EQ(other.call("GET", "/health/live").status, 200);  // nobody is held up
  const HttpAnswer answer = client.receive();
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.header("x-should-retry"), "true");
  EXPECT_NE(answer.body.find("did not answer within 10 seconds"), std::string::npos);
  EXPECT_EQ(client.call("GET", "/health/live").status, 200);  // and the connection goes on
}

TEST_F(RequestsTest, ListsAndTracesLiveRequests) {
  start(slow());
  HttpClient client(port());
  client.send(HttpClient::request("POST", "/v1/completions",
                                  endless("four", true, R"(,"n":2,"priority":3)")));
  ASSERT_TRUE(client.read_until("data: "));
  HttpClient other(port());
  const Json list = Json::parse(other.call("GET", "/v1/requests").body)["data"];
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0]["id"], "cmpl-four");
  EXPECT_EQ(list[0]["state"], "running");
  EXPECT_EQ(list[0]["priority"], 3);
  EXPECT_EQ(list[0]["samples"], 2);
  EXPECT_EQ(list[0]["prompt_tokens"], 4);
  EXPECT_GT(list[0]["output_tokens"], 0);
  const Json live = Json::parse(other.call("GET", "/v1/requests/cmpl-four/trace").body);
  EXPECT_EQ(live["prompts"][0]["events"][0]["kind"], "admitted");
  EXPECT_TRUE(live["prompts"][0]["total_ms"].is_null());
  EXPECT_EQ(cancel("cmpl-four").status, 200);
  wait_until_free();
  const HttpAnswer ended = other.call("GET", "/v1/requests/cmpl-four/trace");
  ASSERT_EQ(ended.status, 200);
  EXPECT_EQ(Json::parse(ended.body)["prompts"][0]["state"], "ended");
}

// Whoever asks while a request ends finds it live or ended, never unknown.
TEST_F(RequestsTest, NoTraceIsLostBetweenLiveAndEnded) {
  start();
  HttpClient client(port()), other(port());
  for (int i = 0; i < 200; ++i) {
    client.send(HttpClient::request(
        "POST", "/v1/completions",
        completion("abc", 3, i, true, fmt::format(R"(,"request_id":"r{}")", i))));
    ASSERT_TRUE(client.read_until("data: "));
    const HttpAnswer trace = other.call("GET", fmt::format("/v1/requests/r{}/trace", i));
    EXPECT_EQ(trace.status, 200) << trace.body;
    client.receive();
  }
}

}  // namespace
}  // namespace sluice
