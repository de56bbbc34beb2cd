#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "server/chunk_writers.h"
#include "tests/unit/server/world.h"

// The JSON of responses.
namespace sluice {
namespace {

using Json = nlohmann::json;

ReplyFormat format_of(ApiKind kind, int choices = 1) {
  ReplyFormat format;
  format.kind = kind;
  format.id = "id-1";
  format.model = "m\"odel";
  format.created = 5;
  format.num_choices = choices;
  format.tokenizer = std::make_shared<CharTokenizer>();
  return format;
}

const std::vector<TokenOut> kTokens = {
    {CharTokenizer::of('a'),
     true,
     -0.5f,
     0,
     {{CharTokenizer::of('a'), -0.5f}, {CharTokenizer::kHalf1, -INFINITY}}},
    {CharTokenizer::kHalf1, true, -1.0f, 1, {{CharTokenizer::of('b'), -0.25f}}}};

TEST(Writers, ChatLogprobs) {
  const auto reply = std::make_shared<HttpReply>();
  ReplyFormat format = format_of(ApiKind::chat);
  format.logprobs = true;
  const auto writer = make_json_writer(format, reply);
  Delta delta;
  delta.text = "a";
  delta.tokens = kTokens;
  delta.finish = FinishReason::stop;
  writer->write(delta);
  writer->end({1, 0, 2}, nullptr);
  const Json json = Json::parse(reply->bytes);
  EXPECT_EQ(json["model"], "m\"odel");
  EXPECT_EQ(json["object"], "chat.completion");
  const Json message = json["choices"][0]["message"];
  EXPECT_EQ(message, Json::parse(R"({"role":"assistant","content":"a","refusal":null})"));
  const Json content = json["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 2u);
  EXPECT_EQ(content[0]["token"], "a");
  EXPECT_EQ(content[0]["bytes"], Json({97}));
  EXPECT_EQ(content[0]["top_logprobs"][1]["logprob"], -9999.0);
  EXPECT_EQ(content[0]["top_logprobs"][1]["bytes"], Json({0xC3}));
  EXPECT_EQ(content[1]["token"], "\uFFFD");
  EXPECT_TRUE(json["choices"][0]["logprobs"]["refusal"].is_null());
  EXPECT_EQ(json["usage"]["total_tokens"], 3);
}

TEST(Writers, CompletionLogprobs) {
  for (const bool as_ids : {false, true}) {
    const auto reply = std::make_shared<HttpReply>();
    ReplyFormat format = format_of(ApiKind::completion);
    format.logprobs = true;
    format.tokens_as_ids = as_ids;
    const auto writer = make_sse_writer(format, reply);
    Delta delta;
    delta.text = "a";
    delta.tokens = kTokens;
    writer->write(delta);
    const Json choice = Json::parse(reply->bytes.substr(6))["choices"][0];
    const Json logprobs = choice["logprobs"];
    const std::string half = as_ids ? "token_id:96" : "bytes:\\xc3";
    EXPECT_EQ(logprobs["tokens"], Json({as_ids ? "token_id:65" : "a", half}));
    EXPECT_EQ(logprobs["token_logprobs"], Json({-0.5, -1.0}));
    EXPECT_EQ(logprobs["text_offset"], Json({0, 1}));
    EXPECT_EQ(logprobs["top_logprobs"][0][half], -9999.0);
    // The token itself is there although it was not among the best.
    EXPECT_EQ(logprobs["top_logprobs"][1][half], -1.0);
    EXPECT_EQ(logprobs["top_logprobs"][1].size(), 2u);
    EXPECT_TRUE(choice["finish_reason"].is_null());
  }
}

TEST(Writers, PromptLogprobsAndTokenIds) {
  const auto reply = std::make_shared<HttpReply>();
  ReplyFormat format = format_of(ApiKind::completion);
  format.prompt_logprobs = format.token_ids = true;
  const auto writer = make_json_writer(format, reply);
  const std::vector<TokenId> ids = {65, 66, 67};
  const std::vector<TokenLogprob> logprobs = {{66, -1.0f}, {66, -1.0f}, {67, -2.0f}, {5, -0.5f}};
  writer->prompt(0, {ids, logprobs, 2});
  Delta delta;
  delta.tokens = kTokens;
  delta.finish = FinishReason::length;
  writer->write(delta);
  writer->end({}, nullptr);
  const Json choice = Json::parse(reply->bytes)["choices"][0];
  EXPECT_EQ(choice["prompt_token_ids"], Json({65, 66, 67}));
  EXPECT_EQ(choice["token_ids"], Json({65, 96}));
  ASSERT_EQ(choice["prompt_logprobs"].size(), 3u);
  EXPECT_TRUE(choice["prompt_logprobs"][0].is_null());
  EXPECT_EQ(choice["prompt_logprobs"][1],
            Json::parse(R"({"66":{"logprob":-1.0,"rank":1,"decoded_token":"b"}})"));
  EXPECT_EQ(choice["prompt_logprobs"][2]["67"]["rank"], nullptr);
  EXPECT_EQ(choice["prompt_logprobs"][2]["5"]["rank"], 1);
}

TEST(Writers, StopReasons) {
  for (const bool chat : {true, false}) {
    const auto reply = std::make_shared<HttpReply>();
    const auto writer =
        make_json_writer(format_of(chat ? ApiKind::chat : ApiKind::completion, 3), reply);
    Delta delta;
    delta.finish = FinishReason::stop;
    delta.stop_text = "E\"";
    writer->write(delta);
    delta = {};
    delta.choice = 1;
    delta.finish = FinishReason::stop;
    delta.stop_token = 7;
    writer->write(delta);
    delta = {};
    delta.choice = 2;
    delta.finish = FinishReason::length;
    writer->write(delta);
    writer->end({}, nullptr);
    const Json choices = Json::parse(reply->bytes)["choices"];
    EXPECT_EQ(choices[0]["stop_reason"], "E\"");
    EXPECT_EQ(choices[1]["stop_reason"], 7);
    EXPECT_TRUE(choices[2]["stop_reason"].is_null());
    EXPECT_EQ(choices[2]["finish_reason"], "length");
  }
}

TEST(Writers, ContinuousUsage) {
  const auto reply = std::make_shared<HttpReply>();
  ReplyFormat format = format_of(ApiKind::completion);
  format.include_usage = format.continuous_usage = true;
  const auto writer = make_sse_writer(format, reply);
  Delta delta;
  delta.text = "x";
  delta.usage = {4, 2, 1};
  writer->write(delta);
  const Json usage = Json::parse(reply->bytes.substr(6))["usage"];
  EXPECT_EQ(usage["total_tokens"], 5);
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 2);
}

TEST(Writers, TimingIsInTheLastChunkAndInTheBody) {
  Timing timing;
  timing.chunks = 3;
  for (const bool usage : {false, true}) {
    const auto reply = std::make_shared<HttpReply>();
    ReplyFormat format = format_of(ApiKind::completion);
    format.include_usage = usage;
    make_sse_writer(format, reply)->end({4, 2, 1}, &timing);
    const Json last = Json::parse(reply->bytes.substr(6, reply->bytes.find("\n\n") - 6));
    EXPECT_TRUE(last["choices"].empty());
    EXPECT_EQ(last["timing"]["chunks"], 3);
    EXPECT_EQ(last.contains("usage"), usage);
    EXPECT_TRUE(reply->bytes.ends_with("\n\ndata: [DONE]\n\n"));
  }
  for (const ApiKind kind : {ApiKind::chat, ApiKind::completion}) {
    const auto reply = std::make_shared<HttpReply>();
    make_json_writer(format_of(kind), reply)->end({4, 2, 1}, &timing);
    EXPECT_EQ(Json::parse(reply->bytes)["timing"]["chunks"], 3);
  }
}

TEST(Writers, ErrorBeforeTheFirstByteIsAStatusAfterItAnEvent) {
  const ApiError error{ErrorKind::overloaded, "full", ""};
  const auto before = std::make_shared<HttpReply>();
  make_sse_writer(format_of(ApiKind::chat), before)->fail(error);
  EXPECT_TRUE(before->error && before->bytes.empty() && before->ended);

  const auto after = std::make_shared<HttpReply>();
  const auto writer = make_sse_writer(format_of(ApiKind::chat), after);
  writer->write(Delta{});
  after->bytes.clear();
  writer->fail(error);
  EXPECT_EQ(after->bytes, "data: " + error.body() + "\n\n");
  EXPECT_FALSE(after->error);
}

}  // namespace
}  // namespace sluice
