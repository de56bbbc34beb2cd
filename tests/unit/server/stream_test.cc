#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "server/chunk_writers.h"
#include "server/shard_thread.h"
#include "server/token_stream.h"
#include "tests/unit/server/world.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

// Writes down what it is told.
struct Written {
  std::vector<std::string> text;  // by choice
  std::vector<FinishReason> finish;
  std::vector<std::string> stop;
  std::vector<TokenId> stop_token;
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<int>> offsets;
  int deltas = 0, ends = 0;
  Usage usage;
  MaybeError error;
  bool gone = false;
};
class Recorder final : public ChunkWriter {
 public:
  Recorder(Written& out, int choices) : out_(out) {
    out_.text.resize(choices);
    out_.finish.resize(choices);
    out_.stop.resize(choices);
    out_.stop_token.resize(choices, -1);
    out_.tokens.resize(choices);
    out_.offsets.resize(choices);
  }
  void prompt(int, const PromptOut&) override {}
  void write(const Delta& delta) override {
    EXPECT_EQ(out_.finish[delta.choice], FinishReason::none) << "a delta after the last";
    EXPECT_EQ(out_.ends, 0);
    ++out_.deltas;
    out_.text[delta.choice] += delta.text;
    out_.finish[delta.choice] = delta.finish;
    out_.stop[delta.choice] = delta.stop_text;
    out_.stop_token[delta.choice] = delta.stop_token;
    for (const TokenOut& token : delta.tokens) {
      out_.tokens[delta.choice].push_back(token.id);
      out_.offsets[delta.choice].push_back(token.text_offset);
    }
  }
  void end(const Usage& usage) override {
    out_.usage = usage;
    ++out_.ends;
  }
  void fail(const ApiError& error) override {
    EXPECT_EQ(out_.ends, 0);
    out_.error = error;
  }
  bool flush() override { return !out_.gone; }

 private:
  Written& out_;
};

class TokenStreamTest : public ::testing::Test {
 protected:
  void open(StreamOptions options, std::vector<TokenStream::Prompt> prompts = {{{}, "", 3}}) {
    const int choices = static_cast<int>(prompts.size()) * options.num_samples;
    stream_ = std::make_unique<TokenStream>(std::make_shared<CharTokenizer>(), options,
                                            std::move(prompts),
                                            std::make_unique<Recorder>(out_, choices), metrics_);
  }
  TokenStream::Next token(TokenId id, FinishReason finish = FinishReason::none, int sample = 0,
                          int prompt = 0) {
    TokenEvent event;
    event.token = id;
    event.sample = static_cast<uint16_t>(sample);
    event.finish = finish;
    const TokenStream::Next next = stream_->push(prompt, event, Instant{});
    stream_->flush(Instant{});
    return next;
  }
  // Every character a token, the last one with `finish`. Stops when the stream does.
  TokenStream::Next text(std::string_view characters, FinishReason finish = FinishReason::none) {
    const std::vector<TokenId> ids = CharTokenizer::ids(characters);
    for (size_t i = 0; i < ids.size(); ++i) {
      const TokenStream::Next next =
          token(ids[i], i + 1 == ids.size() ? finish : FinishReason::none);
      if (next != TokenStream::Next::more) return next;
    }
    return TokenStream::Next::more;
  }

  Metrics metrics_{"m"};
  Written out_;
  std::unique_ptr<TokenStream> stream_;
};

TEST_F(TokenStreamTest, TextIsWholeCharacters) {
  open({});
  token(CharTokenizer::of('a'));
  token(CharTokenizer::kHalf1);
  EXPECT_EQ(out_.text[0], "a");
  token(CharTokenizer::kHalf2);
  EXPECT_EQ(out_.text[0], "a\xC3\xA9");
  token(CharTokenizer::kHalf1, FinishReason::length);
  EXPECT_EQ(out_.text[0], "a\xC3\xA9\uFFFD");
  EXPECT_EQ(out_.ends, 1);
  EXPECT_EQ(out_.usage.completion, 4);
  EXPECT_EQ(out_.usage.prompt, 3);
}

TEST_F(TokenStreamTest, StopStringsOverTokenBorders) {
  for (const bool include : {false, true}) {
    out_ = {};
    StreamOptions options;
    options.stop = {"xyz", "END"};
    options.include_stop = include;
    open(options);
    EXPECT_EQ(text("abEN"), TokenStream::Next::more);
    EXPECT_EQ(out_.text[0], "ab");  // "EN" may be the beginning
    EXPECT_EQ(text("d EN"), TokenStream::Next::more);
    EXPECT_EQ(out_.text[0], "abENd ");
    EXPECT_EQ(text("D and more"), TokenStream::Next::cancel_sample);
    EXPECT_EQ(out_.text[0], include ? "abENd END" : "abENd ");
    EXPECT_EQ(out_.finish[0], FinishReason::stop);
    EXPECT_EQ(out_.stop[0], "END");
    EXPECT_EQ(out_.usage.completion, 9);
    EXPECT_TRUE(stream_->done());
    // What the engine had computed beyond it is not seen.
    EXPECT_EQ(text("q", FinishReason::cancelled), TokenStream::Next::more);
    EXPECT_EQ(out_.ends, 1);
    EXPECT_FALSE(out_.error);
  }
}

TEST_F(TokenStreamTest, HeldTextComesAtTheEnd) {
  StreamOptions options;
  options.stop = {"END"};
  open(options);
  EXPECT_EQ(text("abEN", FinishReason::length), TokenStream::Next::more);
  EXPECT_EQ(out_.text[0], "abEN");
  EXPECT_EQ(out_.finish[0], FinishReason::length);
}

TEST_F(TokenStreamTest, StopStringWithTheLastTokenNeedsNoCancel) {
  StreamOptions options;
  options.stop = {"END"};
  open(options);
  EXPECT_EQ(text("abEND", FinishReason::length), TokenStream::Next::more);
  EXPECT_EQ(out_.text[0], "ab");
  EXPECT_EQ(out_.finish[0], FinishReason::stop);
}

TEST_F(TokenStreamTest, NoStopStringBeforeMinTokens) {
  StreamOptions options;
  options.stop = {"ab", "ce"};
  options.min_tokens = 4;
  open(options);
  EXPECT_EQ(text("abc"), TokenStream::Next::more);
  EXPECT_EQ(out_.text[0], "ab");  // "c" may begin a stop string that ends after min_tokens
  EXPECT_EQ(text("e"), TokenStream::Next::cancel_sample);
  EXPECT_EQ(out_.text[0], "ab");

  out_ = {};
  options.min_tokens = 10;
  open(options);
  EXPECT_EQ(text("abce", FinishReason::length), TokenStream::Next::more);
  EXPECT_EQ(out_.text[0], "abce");
}

TEST_F(TokenStreamTest, EndTokensHaveNoTextUnlessAsked) {
  StreamOptions options;
  options.stop_tokens = {CharTokenizer::kHello};
  open(options);
  text("ab");
  token(CharTokenizer::kHello, FinishReason::stop);
  EXPECT_EQ(out_.text[0], "ab");
  EXPECT_EQ(out_.stop_token[0], CharTokenizer::kHello);
  EXPECT_EQ(out_.usage.completion, 3);

  out_ = {};
  options.include_stop = true;
  options.skip_special = false;
  options.stop_tokens = {};
  open(options);
  text("ab");
  token(CharTokenizer::kEos, FinishReason::stop);
  EXPECT_EQ(out_.text[0], "ab<eos>");
  EXPECT_EQ(out_.stop_token[0], -1);
}

TEST_F(TokenStreamTest, TokensTravelWithTheirText) {
  StreamOptions options;
  options.want_tokens = true;
  open(options);
  token(CharTokenizer::kHello);
  token(CharTokenizer::kHalf1);
  EXPECT_EQ(out_.tokens[0].size(), 1u);
  token(CharTokenizer::kHalf2);
  EXPECT_EQ(out_.tokens[0].size(), 3u);
  text("x", FinishReason::length);
  EXPECT_EQ(out_.offsets[0], (std::vector<int>{0, 5, 6, 6}));
}

TEST_F(TokenStreamTest, EchoBeginsEveryChoiceWithItsPrompt) {
  StreamOptions options;
  options.num_samples = 2;
  options.echo = true;
  options.want_tokens = true;
  options.prompt_width = 1;
  const std::vector<TokenId> ids = CharTokenizer().encode("pq", true);
  open(options, {{ids, "pq", 3}});
  // The sample that carries the prompt's logprobs comes second: the first waits for it.
  token(CharTokenizer::of('a'), FinishReason::none, 1);
  EXPECT_EQ(out_.deltas, 0);
  TokenEvent event;
  event.token = CharTokenizer::of('b');
  event.prompt_logprobs = {{ids[1], -1.0f}, {ids[2], -2.0f}};
  stream_->push(0, event, Instant{});
  EXPECT_EQ(out_.text[0], "pqb");
  EXPECT_EQ(out_.text[1], "pqa");
  EXPECT_EQ(out_.tokens[1].size(), 4u);
  EXPECT_EQ(out_.offsets[0], (std::vector<int>{0, 0, 1, 2}));
}

TEST_F(TokenStreamTest, FailuresEndTheResponseOnce) {
  const std::vector<std::pair<FinishReason, ErrorKind>> cases = {
      {FinishReason::overloaded, ErrorKind::overloaded},
      {FinishReason::deadline, ErrorKind::deadline},
      {FinishReason::cancelled, ErrorKind::draining},
      {FinishReason::error, ErrorKind::internal}};
  for (const auto& [finish, kind] : cases) {
    out_ = {};
    StreamOptions options;
    options.num_samples = 2;
    open(options);
    EXPECT_EQ(token(-1, finish, 1), TokenStream::Next::failed);
    ASSERT_TRUE(out_.error);
    EXPECT_EQ(out_.error->kind, kind);
    token(5, FinishReason::length, 0);
    EXPECT_EQ(out_.ends, 0);
    EXPECT_EQ(out_.deltas, 0);
  }
}

// --- the writers' JSON ---

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
  writer->end({1, 0, 2});
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
  writer->end({});
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
    writer->end({});
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

// --- the hub, with threads ---

TEST(StreamHub, RoutesEveryTokenToItsStreamOverThreads) {
  constexpr int kShards = 3, kRequests = 300;
  WorldOptions options;
  options.io_threads = kShards - 1;
  options.max_queue = kRequests;
  World world(options);
  std::vector<std::unique_ptr<ShardThread>> threads;
  for (int i = 0; i < kShards; ++i)
    threads.push_back(std::make_unique<ShardThread>(*world.frontend, i));
  world.start();
  std::vector<Written> written(kRequests);
  std::atomic<int> left{0};
  for (int i = 0; i < kRequests; ++i) {
    const int shard = i % kShards;
    world.hub.post(shard, [&, i, shard] {
      ApiRequest request;
      request.prompts.push_back({fmt::format("r{}", i), {}, false});
      request.seed = i;
      request.max_tokens = 5 + i % 40;
      request.n = 1 + i % 3;
      Job job;
      ASSERT_FALSE(world.frontend->prepare(request, &job));
      RequestId stream = 0;
      ASSERT_FALSE(world.frontend->start(
          shard, std::move(job),
          std::make_unique<Recorder>(written[i], static_cast<int>(*request.n)), &stream));
      EXPECT_EQ(static_cast<int>(stream % kShards), shard);
      if (i % 7 == 3) {  // some leave at once
        world.frontend->cancel(shard, stream);
        written[i].gone = true;
      }
      ++left;
    });
  }
  while (left < kRequests || world.hub.num_open() > 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  world.engine->drain(kNever);
  world.engine.reset();
  threads.clear();
  for (int i = 0; i < kRequests; ++i) {
    if (written[i].gone) continue;
    EXPECT_EQ(written[i].ends, 1);
    for (int s = 0; s < 1 + i % 3; ++s)
      EXPECT_EQ(written[i].text[s], world.answer(fmt::format("r{}", i), i, 5 + i % 40, s));
  }
}

// A writer that says its client is gone gets nothing more, and its request is cancelled.
TEST(StreamHub, AClientThatIsGoneIsCancelled) {
  WorldOptions options;
  options.step_time = std::chrono::milliseconds(1);
  World world(options);
  ShardThread thread(*world.frontend, 0);
  world.start();
  Written written;
  written.gone = true;
  std::atomic<bool> started{false};
  world.hub.post(0, [&] {
    ApiRequest request;
    request.prompts.push_back({"abc", {}, false});
    request.max_tokens = 500;
    Job job;
    ASSERT_FALSE(world.frontend->prepare(request, &job));
    RequestId stream = 0;
    ASSERT_FALSE(
        world.frontend->start(0, std::move(job), std::make_unique<Recorder>(written, 1), &stream));
    started = true;
  });
  while (!started || world.hub.num_open() > 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  world.engine->drain(kNever);
  EXPECT_LT(world.engine->stats().generated_tokens, 400);
  EXPECT_EQ(written.ends, 0);
  world.engine.reset();
}

}  // namespace
}  // namespace sluice
