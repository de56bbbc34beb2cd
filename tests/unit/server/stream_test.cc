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
  std::optional<Timing> timing;
  MaybeError error;
  double counted = -1;  // of the reason looked for, when the end was told
  bool gone = false;
};
class Recorder final : public ChunkWriter {
 public:
  Recorder(Written& out, int choices, prometheus::Counter* finished = nullptr)
      : out_(out), finished_(finished) {
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
  void end(const Usage& usage, const Timing* timing) override {
    out_.usage = usage;
    if (timing != nullptr) out_.timing = *timing;
    if (finished_ != nullptr) out_.counted = finished_->Value();
    ++out_.ends;
  }
  void fail(const ApiError& error) override {
    EXPECT_EQ(out_.ends, 0);
    if (finished_ != nullptr) out_.counted = finished_->Value();
    out_.error = error;
  }
  bool flush() override { return !out_.gone; }

 private:
  Written& out_;
  prometheus::Counter* finished_;  // none: not looked for
};

class TokenStreamTest : public ::testing::Test {
 protected:
  void open(StreamOptions options, std::vector<TokenStream::Prompt> prompts = {{{}, "", 3}},
            int num_choices = 0) {
    options.num_choices = num_choices > 0 ? num_choices : options.num_samples;
    const int choices = static_cast<int>(prompts.size()) * options.num_choices;
    stream_ = std::make_unique<TokenStream>(
        std::make_shared<CharTokenizer>(), options, std::move(prompts),
        std::make_unique<Recorder>(out_, choices, &metrics_.finished(looked_for_)), metrics_);
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
  std::string looked_for_ = "stop";  // reason in the counter that the recorder reads
  Written out_;
  std::unique_ptr<TokenStream> stream_;
};

// A client that has its answer and then reads /metrics finds itself there.
TEST_F(TokenStreamTest, AnEndIsCountedBeforeItIsTold) {
  open({});
  text("ab", FinishReason::stop);
  EXPECT_EQ(out_.ends, 1);
  EXPECT_EQ(out_.counted, 1);

  out_ = {};
  looked_for_ = "deadline";
  open({});
  EXPECT_EQ(text("ab", FinishReason::deadline), TokenStream::Next::failed);
  ASSERT_TRUE(out_.error);
  EXPECT_EQ(out_.counted, 1);
}

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
  event.add_details().prompt_logprobs = {{ids[1], -1.0f}, {ids[2], -2.0f}};
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
      {FinishReason::error, ErrorKind::invalid}};
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

TEST_F(TokenStreamTest, ARefusalSaysWhatWasTooMuch) {
  open({});
  TokenEvent event;
  event.finish = FinishReason::error;
  event.add_details().refusal = "n = 16 needs 900 cache blocks; the cache has 512";
  EXPECT_EQ(stream_->push(0, event, Instant{}), TokenStream::Next::failed);
  ASSERT_TRUE(out_.error);
  EXPECT_EQ(out_.error->message, "n = 16 needs 900 cache blocks; the cache has 512");
}

// Three samples of two prompts, two wanted of each: those with the highest mean, best first.
TEST_F(TokenStreamTest, TheBestOfTheSamplesAreShown) {
  StreamOptions options;
  options.num_samples = 3;
  open(options, {{{}, "", 3}, {{}, "", 4}}, 2);
  const auto say = [this](int prompt, int sample, char c, float logprob, bool last) {
    TokenEvent event;
    event.token = CharTokenizer::of(c);
    event.sample = static_cast<uint16_t>(sample);
    event.logprob = logprob;
    if (last) event.finish = FinishReason::length;
    stream_->push(prompt, event, Instant{});
    stream_->flush(Instant{});
  };
  // Means -1, -0.75, -2. By the sum, which favours short samples, the first would be best.
  say(0, 0, 'a', -1.0f, true);
  say(0, 1, 'b', -1.0f, false);
  say(0, 1, 'c', -0.5f, true);
  say(0, 2, 'd', -2.0f, true);
  // Means that are equal keep their order; one that is not a number is the worst.
  say(1, 0, 'x', NAN, true);
  say(1, 1, 'y', -3.0f, true);
  EXPECT_EQ(out_.deltas, 0);
  say(1, 2, 'z', -3.0f, true);
  EXPECT_EQ(out_.ends, 1);
  EXPECT_EQ(out_.text, (std::vector<std::string>{"bc", "a", "y", "z"}));
  EXPECT_EQ(out_.usage.completion, 7);
  EXPECT_EQ(out_.usage.prompt, 7);
}

TokenEvent final_event(FinishReason finish, std::shared_ptr<const RequestTrace> trace) {
  TokenEvent event;
  event.finish = finish;
  event.add_details().trace = std::move(trace);
  return event;
}

// A stop string ends the text, but the trace comes with the engine's last word.
TEST_F(TokenStreamTest, TimingWaitsForTheTrace) {
  using std::chrono::milliseconds;
  StreamOptions options;
  options.stop = {"END"};
  options.want_timing = true;
  open(options, {{{}, "", 3}});
  EXPECT_EQ(text("abEND"), TokenStream::Next::cancel_sample);
  EXPECT_EQ(out_.finish[0], FinishReason::stop);
  EXPECT_EQ(out_.ends, 0);
  EXPECT_FALSE(stream_->done());
  auto trace = std::make_shared<RequestTrace>();
  trace->arrived = Instant{} + milliseconds(100);
  trace->admitted = Instant{} + milliseconds(102);
  trace->first_token = Instant{} + milliseconds(110);
  trace->ended = Instant{} + milliseconds(150);
  trace->level = 2;
  trace->chunks = 3;
  trace->swaps = 1;
  trace->recomputes = 4;
  trace->swapped_blocks = 12;
  trace->swapped_time = milliseconds(7);
  trace->cached_tokens = 32;
  trace->host_cached_tokens = 16;
  TokenEvent last = final_event(FinishReason::cancelled, trace);
  EXPECT_EQ(stream_->push(0, last, Instant{}), TokenStream::Next::more);
  stream_->flush(Instant{});
  EXPECT_EQ(out_.ends, 1);
  EXPECT_TRUE(stream_->done());
  ASSERT_TRUE(out_.timing);
  std::string json;
  append_timing(json, *out_.timing);
  EXPECT_EQ(Json::parse(json),
            Json::parse(R"({"queue_ms":2.0,"ttft_ms":10.0,"total_ms":50.0,"level":2,"chunks":3,
                            "preemptions":{"swap":1,"recompute":4},"swapped_blocks":12,
                            "swap_ms":7.0,"cached_tokens":32,"host_cached_tokens":16})"));
}

TEST_F(TokenStreamTest, TimingOfSeveralPromptsIsOfTheSlowest) {
  StreamOptions options;
  options.want_timing = true;
  open(options, {{{}, "", 3}, {{}, "", 4}});
  for (int prompt = 0; prompt < 2; ++prompt) {
    auto trace = std::make_shared<RequestTrace>();
    trace->ended = Instant{} + std::chrono::milliseconds(prompt == 0 ? 30 : 20);
    trace->chunks = 2;
    TokenEvent last = final_event(FinishReason::length, trace);
    stream_->push(prompt, last, Instant{});
    stream_->flush(Instant{});
  }
  ASSERT_TRUE(out_.timing);
  EXPECT_EQ(out_.timing->total_ms, 30);
  EXPECT_EQ(out_.timing->chunks, 4);

  // Without the scheduler's trace the field is left out, and the response ends all the same.
  out_ = {};
  open(options);
  TokenEvent last = final_event(FinishReason::length, nullptr);
  stream_->push(0, last, Instant{});
  stream_->flush(Instant{});
  EXPECT_EQ(out_.ends, 1);
  EXPECT_FALSE(out_.timing);
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

// What is posted behind a request's last event finds the request ended: whoever asked the engine
// for it relies on that.
TEST(StreamHub, TasksRunBehindTheEventsBeforeThem) {
  World world(WorldOptions{});
  world.frontend->set_ready();
  Written written;
  ApiRequest request;
  request.prompts.push_back({"abc", {}, false});
  Job job;
  ASSERT_FALSE(world.frontend->prepare(request, &job));
  RequestId stream = 0;
  ASSERT_FALSE(
      world.frontend->start(0, std::move(job), std::make_unique<Recorder>(written, 1), &stream));
  TokenEvent last = final_event(FinishReason::length, nullptr);
  last.request = stream;
  world.hub.deliver({&last, 1});
  int ends = -1;
  world.hub.post(0, [&] { ends = written.ends; });
  world.frontend->pump(0);
  EXPECT_EQ(ends, 1);
  EXPECT_EQ(world.hub.num_open(), 0);
  world.engine.reset();
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
