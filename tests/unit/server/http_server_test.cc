#include "server/http_server.h"

#include "tests/unit/server/http_fixture.h"

// What comes back for what is sent.
namespace sluice {
namespace {

TEST_F(HttpServerTest, CompletesWithOneBody) {
  start();
  HttpClient client(port());
  const HttpAnswer answer = client.call("POST", "/v1/completions", completion("abc", 20, 7, false));
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.header("content-type"), "application/json");
  EXPECT_FALSE(answer.header("x-request-id").empty());
  EXPECT_FALSE(answer.header("openai-processing-ms").empty());
  const Json json = Json::parse(answer.body);
  EXPECT_EQ(json["object"], "text_completion");
  EXPECT_EQ(json["model"], "test/model");
  EXPECT_EQ(json["choices"][0]["text"], world_->answer("abc", 7, 20));
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(json["usage"]["completion_tokens"], 20);
  EXPECT_EQ(json["usage"]["total_tokens"], 24);
}

TEST_F(HttpServerTest, StreamsEvents) {
  start();
  HttpClient client(port());
  const HttpAnswer answer =
      client.call("POST", "/v1/completions",
                  completion("abc", 20, 7, true, R"(,"stream_options":{"include_usage":true})"));
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_TRUE(answer.complete);
  EXPECT_EQ(answer.header("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(answer.header("cache-control"), "no-cache");
  EXPECT_EQ(answer.header("x-accel-buffering"), "no");
  const std::vector<std::string> list = events(answer.body);
  ASSERT_GT(list.size(), 3u);
  EXPECT_EQ(list.back(), "[DONE]");
  EXPECT_EQ(text_of(list), world_->answer("abc", 7, 20));
  const Json first = Json::parse(list.front());
  for (size_t i = 0; i + 2 < list.size(); ++i) {
    const Json json = Json::parse(list[i]);
    EXPECT_EQ(json["id"], first["id"]);
    EXPECT_EQ(json["created"], first["created"]);
    EXPECT_TRUE(json.contains("usage") && json["usage"].is_null());
    EXPECT_FALSE(json.contains("error"));
  }
  const Json usage = Json::parse(list[list.size() - 2]);
  EXPECT_TRUE(usage["choices"].empty());
  EXPECT_EQ(usage["usage"]["completion_tokens"], 20);
}

TEST_F(HttpServerTest, ChatStreamsRoleTextAndFinish) {
  start();
  HttpClient client(port());
  const HttpAnswer answer = client.call(
      "POST", "/chat/completions/",
      R"({"messages":[{"role":"user","content":"hi"}],"max_tokens":5,"seed":3,"stream":true})");
  ASSERT_EQ(answer.status, 200) << answer.body;
  const std::vector<std::string> list = events(answer.body);
  ASSERT_GE(list.size(), 4u);
  const Json first = Json::parse(list.front())["choices"][0];
  EXPECT_EQ(first["delta"], Json::parse(R"({"role":"assistant","content":""})"));
  EXPECT_TRUE(first["finish_reason"].is_null());
  std::string text;
  for (size_t i = 1; i + 2 < list.size(); ++i) {
    const Json choice = Json::parse(list[i])["choices"][0];
    EXPECT_TRUE(choice["finish_reason"].is_null());
    text += choice["delta"]["content"].get<std::string>();
  }
  EXPECT_EQ(text, world_->answer("[user]hi[assistant]", 3, 5, 0, false));
  const Json last = Json::parse(list[list.size() - 2])["choices"][0];
  EXPECT_EQ(last["delta"], Json::object());
  EXPECT_EQ(last["finish_reason"], "length");
}

TEST_F(HttpServerTest, OneConnectionServesManyRequestsAlsoSentAhead) {
  start();
  HttpClient client(port());
  for (int i = 0; i < 20; ++i) {
    const HttpAnswer answer =
        client.call("POST", "/v1/completions", completion("k", 5, i, i % 2 == 0));
    ASSERT_EQ(answer.status, 200);
    EXPECT_EQ(answer.header("connection"), "keep-alive");
  }
  std::string ahead;
  for (int i = 0; i < 10; ++i)
    ahead += HttpClient::request("POST", "/v1/completions", completion("p", 8, i, i % 2 == 1));
  ASSERT_TRUE(client.send(ahead));
  for (int i = 0; i < 10; ++i) {
    const HttpAnswer answer = client.receive();
    ASSERT_EQ(answer.status, 200);
    const std::string text =
        i % 2 == 1 ? text_of(events(answer.body))
                   : Json::parse(answer.body)["choices"][0]["text"].get<std::string>();
    EXPECT_EQ(text, world_->answer("p", i, 8));
  }
}

TEST_F(HttpServerTest, RequestsInAnySlicing) {
  start();
  const std::string bytes =
      HttpClient::request("POST", "/v1/completions", completion("slice", 4, 1, false));
  HttpClient client(port());
  for (const char c : bytes) {
    ASSERT_TRUE(client.send(std::string_view(&c, 1)));
    if (c == '\n') std::this_thread::yield();
  }
  EXPECT_EQ(client.receive().status, 200);
}

TEST_F(HttpServerTest, ChunkedBodyAndExpect) {
  start();
  HttpClient client(port());
  const std::string body = completion("abc", 4, 1, false);
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
      "Expect: 100-continue\r\n\r\n");
  ASSERT_TRUE(client.read_until("HTTP/1.1 100 Continue\r\n\r\n"));
  client.send(fmt::format("{:x}\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n", 5, body.substr(0, 5),
                          body.size() - 5, body.substr(5)));
  EXPECT_EQ(client.receive().status, 200);
}

TEST_F(HttpServerTest, OldClientsGetABodyThatEndsWithTheConnection) {
  start();
  HttpClient client(port());
  const std::string body = completion("abc", 4, 1, true);
  client.send(fmt::format("POST /v1/completions HTTP/1.0\r\nContent-Length: {}\r\n\r\n{}",
                          body.size(), body));
  const HttpAnswer answer = client.receive();
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.header("transfer-encoding"), "");
  EXPECT_EQ(answer.header("connection"), "close");
  EXPECT_EQ(events(answer.body).back(), "[DONE]");
}

TEST_F(HttpServerTest, Routes) {
  start();
  HttpClient client(port());
  for (const char* target : {"/v1/models", "/models", "/v1/models/", "/models?limit=3"}) {
    const HttpAnswer answer = client.call("GET", target);
    ASSERT_EQ(answer.status, 200) << target;
    const Json json = Json::parse(answer.body);
    EXPECT_EQ(json["data"][0]["id"], "test/model");
    EXPECT_EQ(json["data"][0]["max_model_len"], 512);
  }
  EXPECT_EQ(client.call("GET", "/v1/models/test/model").status, 200);
  EXPECT_EQ(client.call("GET", "/v1/models/test%2Fmodel").status, 200);
  EXPECT_EQ(client.call("GET", "/v1/models/other").status, 404);
  EXPECT_EQ(client.call("GET", "/version").status, 200);
  EXPECT_EQ(client.call("GET", "/load").body, R"({"server_load":0})");
  for (const char* target : {"/health", "/health/live", "/health/ready", "/ping"}) {
    const HttpAnswer answer = client.call("GET", target);
    EXPECT_EQ(answer.status, 200) << target;
    EXPECT_EQ(answer.body, "");
  }
  const HttpAnswer metrics = client.call("GET", "/metrics");
  EXPECT_NE(metrics.body.find("vllm:num_requests_running"), std::string::npos);
  EXPECT_EQ(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");

  const HttpAnswer head = client.call("HEAD", "/v1/models");
  EXPECT_EQ(head.status, 200);
  EXPECT_NE(head.header("content-length"), "0");
  const HttpAnswer options = client.call("OPTIONS", "/v1/completions");
  EXPECT_EQ(options.status, 204);
  EXPECT_EQ(options.header("allow"), "POST, OPTIONS");
  const HttpAnswer wrong = client.call("GET", "/v1/completions");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.header("allow"), "POST, OPTIONS");
  const HttpAnswer none = client.call("POST", "/v1/nothing", "{}");
  EXPECT_EQ(none.status, 404);
  const Json error = Json::parse(none.body)["error"];
  EXPECT_EQ(error["type"], "invalid_request_error");
  EXPECT_TRUE(error["param"].is_null());
}

TEST_F(HttpServerTest, TokenizeAndBack) {
  start();
  HttpClient client(port());
  const Json tokens = Json::parse(
      client.call("POST", "/tokenize", R"({"prompt":"a\u00e9","return_token_strs":true})").body);
  EXPECT_EQ(tokens["count"], 4);
  EXPECT_EQ(tokens["tokens"], Json({99, 65, 96, 97}));
  EXPECT_EQ(tokens["token_strs"][1], "a");
  const HttpAnswer back =
      client.call("POST", "/detokenize", Json({{"tokens", tokens["tokens"]}}).dump());
  EXPECT_EQ(Json::parse(back.body)["prompt"], "<bos>a\u00e9");
  const Json chat = Json::parse(
      client.call("POST", "/tokenize", R"({"messages":[{"role":"user","content":"x"}]})").body);
  EXPECT_EQ(chat["count"], std::string_view("[user]x[assistant]").size());
  EXPECT_EQ(client.call("POST", "/detokenize", R"({"tokens":[5000]})").status, 400);
}

TEST_F(HttpServerTest, RequestIdIsKeptWhenSane) {
  start();
  HttpClient client(port());
  EXPECT_EQ(client.call("GET", "/ping", "", "X-Request-Id: abc-1.2:3_4\r\n").header("x-request-id"),
            "abc-1.2:3_4");
  const std::string drawn =
      client.call("GET", "/ping", "", "X-Request-Id: a b\r\n").header("x-request-id");
  EXPECT_TRUE(drawn.starts_with("req-")) << drawn;
}

TEST_F(HttpServerTest, UnknownFieldsAreNamed) {
  start();
  HttpClient client(port());
  const HttpAnswer answer = client.call(
      "POST", "/v1/completions", completion("a", 2, 1, false, R"(,"foo":1,"b\r\nX: y, z":2)"));
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.header("x-ignored-params"), "foo, b%0D%0AX:%20y%2C%20z");
  EXPECT_EQ(answer.header("x"), "");
}

// What is wrong, and what the answer must say.
TEST_F(HttpServerTest, MalformedInputIsRefusedAndTheServerGoesOn) {
  WorldOptions options;
  options.server.max_body_bytes = 10000;
  start(options);
  const std::vector<std::tuple<std::string, int, std::string>> cases = {
      {"NONSENSE\r\n\r\n", 400, "malformed"},
      {"GET / HTTP/9.9\r\n\r\n", 400, "malformed"},
      {"POST /v1/completions HTTP/1.1\r\nContent-Length: abc\r\n\r\n", 400, "malformed"},
      {"POST /v1/completions HTTP/1.1\r\nContent-Length: 10001\r\n\r\n", 413, "10000 bytes"},
      {"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400,
       "malformed"},
      {"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2711\r\n" +
           std::string(10001, ' ') + "\r\n0\r\n\r\n",
       413, "10000 bytes"},
      {"GET / HTTP/1.1\r\nA: " + std::string(40000, 'x') + "\r\n\r\n", 431, "headers"},
      {HttpClient::request("POST", "/v1/completions", "{\"prompt\":\"\xff\"}"), 400, "UTF-8"},
      {HttpClient::request("POST", "/v1/completions", "{\"prompt\":\"a\",}"), 400, "at byte"},
      {HttpClient::request("POST", "/v1/completions", ""), 400, "JSON"},
      {HttpClient::request("POST", "/v1/completions", "[1]"), 400, "object"},
      {HttpClient::request("POST", "/v1/completions", std::string(9000, '[')), 400, "nested"},
      {HttpClient::request("POST", "/v1/completions", R"({"prompt":"a","model":"gpt-9"})"), 404,
       "gpt-9"},
      {HttpClient::request("POST", "/v1/completions", "{}", "Content-Encoding: gzip\r\n"), 415,
       "gzip"},
  };
  for (const auto& [bytes, status, words] : cases) {
    HttpClient client(port());
    client.send(bytes);
    const HttpAnswer answer = client.receive();
    EXPECT_EQ(answer.status, status) << bytes.substr(0, 80);
    ASSERT_TRUE(Json::accept(answer.body)) << answer.body;
    const Json error = Json::parse(answer.body)["error"];
    EXPECT_NE(error["message"].get<std::string>().find(words), std::string::npos) << error.dump();
    EXPECT_EQ(answer.header("x-should-retry"), "false");
  }
  HttpClient client(port());
  EXPECT_EQ(client.call("POST", "/v1/completions", completion("ok", 3, 1, false)).status, 200);
}

TEST_F(HttpServerTest, WhatAHandlerThrowsCostsOneRequest) {
  start();
  HttpClient client(port());
  const std::string prompt(CharTokenizer::kTooMuch);
  const HttpAnswer answer = client.call("POST", "/v1/completions", completion(prompt, 3, 1, false));
  EXPECT_EQ(answer.status, 500);
  EXPECT_EQ(answer.header("x-should-retry"), "true");
  EXPECT_EQ(Json::parse(answer.body)["error"]["type"], "server_error");
  EXPECT_EQ(client.call("POST", "/v1/completions", completion("ok", 3, 1, false)).status, 200);
  EXPECT_NE(
      client.call("GET", "/metrics")
          .body.find(
              R"(sluice_http_requests_total{code="500",model_name="test",route="/completions"} 1)"),
      std::string::npos);
}

TEST_F(HttpServerTest, TooLongAPromptNamesTheLimit) {
  start();
  HttpClient client(port());
  const HttpAnswer answer =
      client.call("POST", "/v1/completions", completion(std::string(500, 'x'), 100, 1, false));
  EXPECT_EQ(answer.status, 400);
  const Json error = Json::parse(answer.body)["error"];
  EXPECT_EQ(error["code"], "context_length_exceeded");
  EXPECT_NE(error["message"].get<std::string>().find("512"), std::string::npos);
}

TEST_F(HttpServerTest, BatchOfPromptsAndSamples) {
  start();
  HttpClient client(port());
  const HttpAnswer answer =
      client.call("POST", "/v1/completions",
                  R"({"prompt":["one","two",[51,52]],"n":2,"max_tokens":6,"seed":9})");
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json json = Json::parse(answer.body);
  ASSERT_EQ(json["choices"].size(), 6u);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    const std::string expected = i < 2   ? world_->answer("one", 9, 6, i)
                                 : i < 4 ? world_->answer("two", 9, 6, i - 2)
                                         : world_->answer("ST", 9, 6, i - 4, false);
    EXPECT_EQ(json["choices"][i]["text"], expected);
  }
  EXPECT_EQ(json["usage"]["prompt_tokens"], 4 + 4 + 2);
  EXPECT_EQ(json["usage"]["completion_tokens"], 36);
}

TEST_F(HttpServerTest, BestOfReturnsTheLikeliest) {
  start();
  HttpClient client(port());
  const auto ask = [&](const char* more) {
    const HttpAnswer answer = client.call(
        "POST", "/v1/completions",
        fmt::format(R"({{"prompt":["one","two"],"max_tokens":6,"seed":9,"logprobs":0{}}})", more));
    EXPECT_EQ(answer.status, 200) << answer.body;
    return Json::parse(answer.body);
  };
  const Json all = ask(R"(,"n":6)");
  const Json best = ask(R"(,"n":2,"best_of":6)");
  ASSERT_EQ(best["choices"].size(), 4u);
  EXPECT_EQ(best["usage"], all["usage"]);
  const auto mean = [](const Json& choice) {
    double sum = 0;
    for (const double logprob : choice["logprobs"]["token_logprobs"]) sum += logprob;
    return sum / 6;
  };
  for (int prompt = 0; prompt < 2; ++prompt) {
    std::vector<std::pair<double, std::string>> ranked;
    for (int i = 0; i < 6; ++i) {
      const Json& choice = all["choices"][prompt * 6 + i];
      ranked.emplace_back(-mean(choice), choice["text"]);
    }
    std::stable_sort(ranked.begin(), ranked.end());
    for (int i = 0; i < 2; ++i) {
      const Json& choice = best["choices"][prompt * 2 + i];
      EXPECT_EQ(choice["index"], prompt * 2 + i);
      EXPECT_EQ(choice["text"], ranked[i].second);
    }
  }
}

TEST_F(HttpServerTest, StopStringEndsTheTextAndTheWork) {
  start();
  const std::string whole = world_->answer("stop here", 5, 200);
  const std::string stop = whole.substr(40, 3);  // over token borders: each is one character
  HttpClient client(port());
  const HttpAnswer answer = client.call(
      "POST", "/v1/completions",
      Json({{"prompt", "stop here"}, {"seed", 5}, {"max_tokens", 200}, {"stop", stop}}).dump());
  const Json json = Json::parse(answer.body);
  const size_t at = whole.find(stop);
  EXPECT_EQ(json["choices"][0]["text"], whole.substr(0, at));
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(json["choices"][0]["stop_reason"], stop);
  EXPECT_EQ(json["usage"]["completion_tokens"], at + 3);
  wait_until_free();
}

TEST_F(HttpServerTest, EchoWithLogprobsAndNothingGenerated) {
  start();
  HttpClient client(port());
  const HttpAnswer answer = client.call(
      "POST", "/v1/completions", R"({"prompt":"abc","max_tokens":0,"echo":true,"logprobs":2})");
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json json = Json::parse(answer.body);
  const Json choice = json["choices"][0];
  EXPECT_EQ(choice["text"], "abc");
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["completion_tokens"], 0);
  const Json logprobs = choice["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json({"<bos>", "a", "b", "c"}));
  EXPECT_EQ(logprobs["text_offset"], Json({0, 0, 1, 2}));
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  const CharTokenizer tokenizer;
  uint64_t context = 0;
  const std::vector<TokenId> ids = tokenizer.encode("abc", true);
  for (size_t i = 1; i < ids.size(); ++i) {
    context = ledger_extend(context, ids[i - 1]);
    EXPECT_FLOAT_EQ(logprobs["token_logprobs"][i], ledger_logprob(context, ids[i]));
    EXPECT_EQ(logprobs["top_logprobs"][i].size(), 3u);
  }
}

}  // namespace
}  // namespace sluice
