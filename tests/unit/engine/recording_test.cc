#include "engine/recording.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace sluice {
namespace {

using std::chrono::milliseconds;

class RecordingTest : public testing::Test {
 protected:
  // Tests of one file run beside each other, each in a process of its own.
  std::string path_ = fmt::format("{}recording_test.{}.jsonl", testing::TempDir(), getpid());
  void TearDown() override { std::filesystem::remove(path_); }

  static GenerateRequest request(std::vector<TokenId> prompt, int max_tokens, int samples = 1) {
    GenerateRequest q;
    q.prompt = std::move(prompt);
    q.sampling.max_tokens = max_tokens;
    q.num_samples = samples;
    return q;
  }
  static TokenEvent event(RequestId id, TokenId token, FinishReason finish = FinishReason::none,
                          int sample = 0) {
    TokenEvent e;
    e.request = id;
    e.sample = uint16_t(sample);
    e.token = token;
    e.finish = finish;
    return e;
  }
  static RecordingHeader header(int block_size, std::string config = "") {
    return {block_size, 50, 7, 96, std::move(config)};
  }
  std::string text() const {
    std::ifstream file(path_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::string refusal(const std::string& text) {
    std::ofstream(path_) << text;
    const auto read = read_recording(path_);
    return read.ok() ? "accepted" : std::string(message_of(read.status()));
  }
};

TEST_F(RecordingTest, ComesBackAsItWas) {
  {
    auto recorder = Recorder::open(path_, header(2, "a = \"b\"\n"), Instant{});
    ASSERT_TRUE(recorder.ok());
    GenerateRequest first = request({5, 6, 7}, 9);
    first.tenant = 3;
    first.priority = -2;
    first.session = 0xabc;
    (*recorder)->arrived(1, first, Instant{} + milliseconds(1500));
    (*recorder)->arrived(2, request({5, 6, 8}, 9, 2), Instant{} + milliseconds(500));
    (*recorder)->arrived(3, request({1}, 4), Instant{} + milliseconds(2000));
    const TokenEvent events[] = {
        event(1, 10),
        event(2, 1, FinishReason::none, 0),
        event(2, 1, FinishReason::stop, 1),
        event(1, 11, FinishReason::length),
        event(2, 2, FinishReason::length, 0),
        event(3, -1, FinishReason::overloaded),
        event(99, 1, FinishReason::length),  // nobody's: ignored
    };
    (*recorder)->observe(events);
  }
  const auto read = read_recording(path_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->header.block_size, 2);
  EXPECT_EQ(read->header.num_blocks, 50);
  EXPECT_EQ(read->header.host_blocks, 7);
  EXPECT_EQ(read->header.kv_bytes_per_token, 96);
  EXPECT_EQ(read->header.config, "a = \"b\"\n");
  ASSERT_EQ(read->requests.size(), 3u);
  const RecordedRequest &two = read->requests[0], &one = read->requests[1];
  EXPECT_DOUBLE_EQ(one.at, 1.5);
  EXPECT_EQ(one.prompt, 3);
  EXPECT_EQ(one.output, 2);
  EXPECT_EQ(one.tenant, 3u);
  EXPECT_EQ(one.priority, -2);
  EXPECT_EQ(one.session, 0xabcu);
  EXPECT_EQ(one.blocks.size(), 2u);  // 5 6 | 7 10
  EXPECT_EQ(two.samples, 2);
  EXPECT_EQ(two.output, 2);
  ASSERT_EQ(two.blocks.size(), 1u);  // of the prompt alone
  EXPECT_EQ(two.blocks[0], one.blocks[0]);
  EXPECT_NE(one.blocks[1], one.blocks[0]);
  EXPECT_TRUE(read->requests[2].refused);
  EXPECT_FALSE(one.refused);
}

// Each request's last event has its trace.
TEST_F(RecordingTest, HoldsWhatTheSchedulerDecided) {
  {
    auto recorder = Recorder::open(path_, header(4), Instant{});
    const auto at = [](int ms) { return Instant{} + milliseconds(ms); };
    (*recorder)->arrived(1, request({1, 2}, 9), at(1000));
    (*recorder)->arrived(2, request({1, 2}, 9), at(1000));
    auto trace = std::make_shared<RequestTrace>();
    trace->admitted = at(1010);
    trace->first_token = at(1500);
    trace->ended = at(2000);
    trace->cached_tokens = 3, trace->host_cached_tokens = 4, trace->chunks = 5;
    trace->demotions = 6, trace->promotions = 7, trace->swaps = 8, trace->recomputes = 9;
    trace->recomputed_tokens = 10, trace->swapped_blocks = 11;
    trace->swapped_time = milliseconds(250);
    trace->note(at(1010), RequestTrace::Kind::admitted, 3);
    trace->note(at(1750), RequestTrace::Kind::demoted, 2);
    TokenEvent last = event(1, 5, FinishReason::length),
               never = event(2, -1, FinishReason::deadline);
    last.add_details().trace = std::move(trace);
    never.add_details().trace = std::make_shared<RequestTrace>();
    (*recorder)->observe({&last, 1});
    (*recorder)->observe({&never, 1});
  }
  EXPECT_THAT(text(),
              testing::HasSubstr(R"([[0.010000000,"admitted",3],[0.750000000,"demoted",2]])"));
  const auto read = read_recording(path_);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(read->requests[0].has_decisions);
  const RecordedDecisions &d = read->requests[0].decisions, &none = read->requests[1].decisions;
  EXPECT_DOUBLE_EQ(d.admitted, 0.01);
  EXPECT_DOUBLE_EQ(d.first_token, 0.5);
  EXPECT_DOUBLE_EQ(d.ended, 1);
  EXPECT_THAT((std::vector<int64_t>{d.cached, d.host_cached, d.chunks, d.demotions, d.promotions,
                                    d.swaps, d.recomputes, d.recomputed_tokens, d.swapped_blocks}),
              testing::ElementsAre(3, 4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_DOUBLE_EQ(d.swapped_seconds, 0.25);
  EXPECT_LT(none.admitted, 0);
  EXPECT_LT(none.first_token, 0);
}

// The host's share is what passed since the step before, or since a rest, without the device's.
TEST_F(RecordingTest, HoldsWhatStepsHeldAndTook) {
  Sequence prompt, answer;
  prompt.num_prompt = 100;
  answer.num_prompt = 10;
  StepPlan plan;
  plan.rows = {{&answer, 30, 1, 1, 1}, {&prompt, 16, 8, 0, 0}};
  plan.swap_out.resize(2);
  plan.swap_in.resize(3);
  plan.fork_copies.resize(1);
  StepResult result;
  result.device_time = milliseconds(10);
  Scheduler::Stats stats;
  stats.waiting = 4, stats.swapped = 1, stats.running = 2;
  {
    auto recorder = Recorder::open(path_, header(4), Instant{});
    const auto step = [&](uint64_t id, int launched, int committed, int64_t blocks) {
      plan.id = result.id = id;
      (*recorder)->launched(plan, stats, Instant{} + milliseconds(launched));
      (*recorder)->committed(result, {id, blocks, milliseconds(blocks)},
                             Instant{} + milliseconds(committed));
    };
    step(1, 1000, 1011, 0);
    step(2, 1012, 1024, 6);
    (*recorder)->rested(Instant{} + milliseconds(1999));
    step(3, 2000, 2010, 6);
    plan.rows.clear();
    step(5, 2011, 2012, 6);  // copies alone
  }
  const auto read = read_recording(path_);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->steps.size(), 4u);
  const RecordedStep &one = read->steps[0], &two = read->steps[1], &three = read->steps[2],
                     &copies = read->steps[3];
  EXPECT_EQ(two.id, 2u);
  EXPECT_DOUBLE_EQ(two.at, 1.012);
  EXPECT_DOUBLE_EQ(two.seconds, 0.01);
  EXPECT_NEAR(one.host_seconds, 0.001, 1e-9);
  EXPECT_NEAR(two.host_seconds, 0.003, 1e-9);
  EXPECT_NEAR(three.host_seconds, 0.001, 1e-9);
  EXPECT_EQ(two.work.prefill_tokens, 8);
  EXPECT_EQ(two.work.prefill_context, 8 * (16 + 4.5));
  EXPECT_EQ(two.work.decode_rows, 1);
  EXPECT_EQ(two.work.decode_context, 31);
  EXPECT_THAT(
      (std::vector{two.rows, two.waiting, two.running, two.swap_out, two.swap_in, two.forks}),
      testing::ElementsAre(2, 5, 2, 2, 3, 1));
  EXPECT_EQ(one.copied, 0);
  EXPECT_EQ(two.copied, 6);
  EXPECT_DOUBLE_EQ(two.copy_seconds, 0.006);
  EXPECT_EQ(three.copied, 0);
  EXPECT_EQ(copies.rows, 0);
  EXPECT_EQ(copies.seconds, 0);
}

TEST_F(RecordingTest, HoldsNoTokenAndAnotherKeyEachTime) {
  std::vector<std::string> texts;
  for (int i = 0; i < 2; ++i) {
    {
      auto recorder = Recorder::open(path_, header(2), Instant{});
      (*recorder)->arrived(1, request({777777, 888888}, 1), Instant{});
      const TokenEvent last[] = {event(1, 999999, FinishReason::length)};
      (*recorder)->observe(last);
    }
    texts.push_back(text());
    for (const char* token : {"777777", "888888", "999999"})
      EXPECT_EQ(texts.back().find(token), std::string::npos);
  }
  EXPECT_NE(texts[0], texts[1]);
}

TEST_F(RecordingTest, RefusesWhatIsNotWholeNamingFileAndLine) {
  const std::string header = R"({"sluice_recording":1,"block_size":16,"config":""})"
                             "\n";
  const std::string body =
      R"({"at":1,"prompt":4,"output":2,"n":1,"max_tokens":2,"tenant":0,"priority":0,)"
      R"("session":"0","finish":"length","blocks":[]})"
      "\n";
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = body;
    changed.replace(changed.find(from), from.size(), to);
    return header + changed;
  };
  const std::string end = "{\"end\":true,\"requests\":1}\n";
  EXPECT_EQ(refusal(header + body + end), "accepted");
  const std::string sizes = R"({"sluice_recording":1,"block_size":16,"num_blocks":9,)"
                            R"("host_blocks":0,"kv_bytes_per_token":64,"config":""})"
                            "\n";
  const std::string step =
      R"({"step":1,"at":0.5,"seconds":0.01,"host_seconds":0,"prefill_tokens":4,"prefill_pairs":10,)"
      R"("decode_rows":0,"context":0,"rows":1,"waiting":0,"running":1,"swap_out":0,"swap_in":0,)"
      R"("forks":0,"copied":0,"copy_seconds":0})"
      "\n";
  const std::string decided =
      body.substr(0, body.size() - 2) +
      R"(,"decisions":{"admitted":0,"first_token":0.1,"ended":null,"cached":0,"host_cached":0,)"
      R"("chunks":1,"demotions":0,"promotions":0,"swaps":0,"recomputes":0,"recomputed_tokens":0,)"
      R"("swapped_blocks":0,"swapped_seconds":0,"events":[]}})"
      "\n";
  const auto swapped = [](std::string text, const std::string& from, const std::string& to) {
    return text.replace(text.find(from), from.size(), to);
  };
  const std::string ends = "{\"end\":true,\"requests\":1,\"steps\":1}\n";
  EXPECT_EQ(refusal(sizes + step + decided + ends), "accepted");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", " line 1: the file is empty"},
      {body, "line 1: not a recording"},
      {"{\"sluice_recording\":2}\n", "line 1: version 2; this program reads version 1"},
      {"{\"sluice_recording\":1,\"block_size\":0,\"config\":\"\"}\n", "line 1: \"block_size\""},
      {header, "line 1: cut short"},
      {header + body, "line 2: cut short"},
      {header + body.substr(0, 30), "line 2: not a JSON object (cut short?)"},
      {header + end, "line 2: the end names 1 requests, but 0"},
      {header + body + end + body, "line 4: something follows the end"},
      {with("\"prompt\":4", "\"prompt\":0"), "line 2: \"prompt\" must be a number from 1"},
      {with("\"prompt\":4", "\"prompt\":4.5"), "line 2: \"prompt\" must be a whole number"},
      {with("\"prompt\":4", "\"prompt\":\"4\""), "line 2: \"prompt\" must be a number"},
      {with("\"at\":1", "\"at\":-1"), "line 2: \"at\" must be"},
      {with("\"at\":1,", ""), "line 2: \"at\" is missing"},
      {with("\"priority\":0", "\"priority\":5000"), "line 2: \"priority\" must be"},
      {with("\"session\":\"0\"", "\"session\":\"xyz\""), "line 2: \"session\" must be"},
      {with("[]", "[\"00\"]"), "line 2: \"blocks\" must be an array of at most 0"},
      {with("[]", "[7]"), "line 2: \"blocks\" must be"},
      {swapped(sizes, "\"num_blocks\":9", "\"num_blocks\":0"), "line 1: \"num_blocks\" must be"},
      {swapped(sizes, "\"host_blocks\":0,", ""), "line 1: \"host_blocks\" is missing"},
      {header + "{\"step\":1}\n", "line 2: \"at\" is missing"},
      {header + swapped(step, "0.01", "-1"), "line 2: \"seconds\" must be a number from 0"},
      {header + swapped(step, "\"rows\":1", "\"rows\":1.5"), "line 2: \"rows\" must be a whole"},
      {header + swapped(step, ",\"copied\":0", ""), "line 2: \"copied\" is missing"},
      {header + step + body + end, "line 4: \"steps\" is missing"},
      {header + step + step + body + ends, "line 5: the end names 1 steps, but 2"},
      {header + swapped(decided, "\"chunks\":1", "\"chunks\":-1"), "line 2: \"chunks\" must be"},
      {header + swapped(decided, "\"admitted\":0,", ""), "line 2: \"admitted\" is missing"},
      {header + swapped(decided, "\"ended\":null", "\"ended\":\"x\""), "line 2: \"ended\" must be"},
      {header + swapped(body, "[]", "[],\"decisions\":3"),
       "line 2: \"decisions\" must be an object"},
  };
  for (const auto& [text, want] : cases) {
    const std::string message = refusal(text);
    EXPECT_THAT(message, testing::HasSubstr(want)) << text;
    EXPECT_THAT(message, testing::StartsWith(path_)) << text;
    EXPECT_THAT(message, testing::Not(testing::HasSubstr("\n")));
  }
  EXPECT_THAT(message_of(read_recording("/nonexistent").status()),
              testing::HasSubstr("/nonexistent: cannot read"));
}

}  // namespace
}  // namespace sluice
