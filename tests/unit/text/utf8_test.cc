#include "text/utf8.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

std::string valid(std::string_view text) {
  std::string out;
  append_valid_utf8(out, text);
  return out;
}

TEST(Utf8, EveryCodePointGoesThereAndBack) {
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(text, code);
    const Utf8Step step = utf8_step(text, 0);
    ASSERT_EQ(step.kind, Utf8Kind::character) << static_cast<uint32_t>(code);
    ASSERT_TRUE(step.code == code);
    ASSERT_EQ(step.length, text.size());
    ASSERT_EQ(utf8_valid_prefix(text), text.size());
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const Utf8Step part = utf8_step(std::string_view(text).substr(0, cut), 0);
      ASSERT_EQ(part.kind, Utf8Kind::cut_short) << static_cast<uint32_t>(code);
      ASSERT_EQ(part.length, cut);
    }
  }
}

// The answers are what Python's bytes.decode("utf-8", "replace") gives.
TEST(Utf8, IllFormedBytesAreReplacedByMaximalSubparts) {
  const std::string r(kReplacement);
  EXPECT_EQ(valid("abc"), "abc");
  EXPECT_EQ(valid("\x80"), r);
  EXPECT_EQ(valid("\xC0\xAF"), r + r);          // overlong
  EXPECT_EQ(valid("\xE0\x80\xAF"), r + r + r);  // overlong
  EXPECT_EQ(valid("\xED\xA0\x80"), r + r + r);  // surrogate
  EXPECT_EQ(valid("\xF4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(valid("\xF5\xFF"), r + r);
  EXPECT_EQ(valid("\xE2\x82"), r);
  EXPECT_EQ(valid("\xE2\x82g"), r + "g");
  EXPECT_EQ(valid("\xF0\x9F\x98"), r);
  EXPECT_EQ(valid("\xF0\x9F\xC3\xA9"), r + "\xC3\xA9");
  EXPECT_EQ(valid("a\xF1\x80\x80\xE1\x80\xC2"
                  "b\x80"
                  "c\x80\xBF"
                  "d"),
            "a" + r + r + r + "b" + r + "c" + r + r + "d");
  EXPECT_EQ(valid(std::string("\0x\0", 3)), std::string("\0x\0", 3));
}

TEST(Utf8, TheValidPrefixEndsBeforeTheFirstIllFormedByteWhereverItIs) {
  for (size_t at = 0; at < 40; ++at) {
    std::string text(40, 'x');
    text[at] = '\xFF';
    EXPECT_EQ(utf8_valid_prefix(text), at);
  }
}

}  // namespace
}  // namespace sluice
