#include "text/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace sluice {
namespace {

struct Result {
  std::string text;
  int stopped = -1;
  bool operator==(const Result&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Result& r) {
  return out << "'" << r.text << "' stopped by " << r.stopped;
}

// The rule of the header, read off the whole text.
Result naive(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    int best = -1;
    for (size_t s = 0; s < stops.size(); ++s)
      if (text.substr(0, end).ends_with(stops[s]) &&
          (best < 0 || stops[s].size() > stops[best].size()))
        best = static_cast<int>(s);
    if (best >= 0) return {text.substr(0, include ? end : end - stops[best].size()), best};
  }
  return {text, -1};
}

Result streamed(const std::string& text, const std::vector<std::string>& stops, bool include,
                std::mt19937& random) {
  StopMatcher matcher(stops, include);
  Result result;
  for (size_t at = 0; at < text.size();) {
    const size_t count = random() % 4;
    const StopMatcher::Out out = matcher.push(std::string_view(text).substr(at, count));
    at += count;
    result.text += out.emit;
    // What is out is certain: it is a beginning of the answer.
    EXPECT_TRUE(naive(text, stops, include).text.starts_with(result.text));
    if (out.stopped < 0) continue;
    EXPECT_EQ(matcher.push("more").emit, "");
    EXPECT_EQ(matcher.push("more").stopped, out.stopped);
    EXPECT_EQ(matcher.flush(), "");
    result.stopped = out.stopped;
    return result;
  }
  result.text += matcher.flush();
  return result;
}

TEST(StopMatcher, EqualsASearchOfTheWholeTextHoweverItIsCut) {
  std::mt19937 random(7);
  const auto letters = [&](size_t length, int alphabet) {
    std::string out;
    while (out.size() < length) out.push_back(static_cast<char>('a' + random() % alphabet));
    return out;
  };
  int stopped = 0;
  for (int round = 0; round < 30000; ++round) {
    const int alphabet = 1 + random() % 3;
    std::vector<std::string> stops;
    for (size_t n = 1 + random() % 5; n > 0; --n)
      stops.push_back(letters(1 + random() % 6, alphabet));
    const std::string text = letters(random() % 20, alphabet);
    const bool include = random() % 2;
    const Result expected = naive(text, stops, include);
    stopped += expected.stopped >= 0;
    ASSERT_EQ(streamed(text, stops, include, random), expected)
        << text << " with " << testing::PrintToString(stops) << " include " << include;
  }
  EXPECT_GT(stopped, 5000);
  EXPECT_LT(stopped, 29000);
}

TEST(StopMatcher, HoldsBackNoMoreThanItMust) {
  StopMatcher matcher({"\n\nUser:", "###"}, false);
  EXPECT_EQ(matcher.push("Hello\n").emit, "Hello");
  EXPECT_EQ(matcher.push("there\n\n").emit, "\nthere");
  EXPECT_EQ(matcher.push("\n").emit, "\n");
  EXPECT_EQ(matcher.push("Us").emit, "");
  EXPECT_EQ(matcher.push("ed ##").emit, "\n\nUsed ");
  const StopMatcher::Out out = matcher.push("# rest");
  EXPECT_EQ(out.emit, "");
  EXPECT_EQ(out.stopped, 1);
}

TEST(StopMatcher, WithoutStopsEverythingPasses) {
  StopMatcher matcher({}, false);
  EXPECT_EQ(matcher.push("abc").emit, "abc");
  EXPECT_EQ(matcher.flush(), "");
}

TEST(StopMatcher, IncludesTheStopStringWhenAsked) {
  StopMatcher matcher({"END"}, true);
  EXPECT_EQ(matcher.push("the E").emit, "the ");
  const StopMatcher::Out out = matcher.push("ND of it");
  EXPECT_EQ(out.emit, "END");
  EXPECT_EQ(out.stopped, 0);
}

TEST(StopMatcher, ALongStopAgainstALongTextOfTheSameLetter) {
  StopMatcher matcher({std::string(5000, 'a') + "b"}, false);
  size_t emitted = 0;
  for (int i = 0; i < 300; ++i) emitted += matcher.push(std::string(1000, 'a')).emit.size();
  EXPECT_EQ(emitted, 300000u - 5000u);
  EXPECT_EQ(matcher.flush().size(), 5000u);
}

}  // namespace
}  // namespace sluice
