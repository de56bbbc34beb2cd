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
    auto recorder = Recorder::open(path_, 2, "a = \"b\"\n", Instant{});
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
  EXPECT_EQ(read->block_size, 2);
  EXPECT_EQ(read->config, "a = \"b\"\n");
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

TEST_F(RecordingTest, HoldsNoTokenAndAnotherKeyEachTime) {
  std::vector<std::string> texts;
  for (int i = 0; i < 2; ++i) {
    {
      auto recorder = Recorder::open(path_, 2, "", Instant{});
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
  EXPECT_EQ(refusal(header + "{\"step\":1}\n" + body + end), "accepted");
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
