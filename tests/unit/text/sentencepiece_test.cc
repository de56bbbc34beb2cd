#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/unit/text/golden.h"
#include "text/detokenizer.h"

namespace sluice {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// The wire format, for lengths and numbers below 128.
std::string number(int field, int value) {
  return {static_cast<char>(field << 3), static_cast<char>(value)};
}
std::string bytes(int field, const std::string& value) {
  return std::string{static_cast<char>(field << 3 | 2), static_cast<char>(value.size())} + value;
}
enum Type { normal = 1, unknown, control, user_defined, unused, byte };
std::string piece(const std::string& content, Type type = normal, float score = 0) {
  std::string bits(4, '\0');
  std::memcpy(bits.data(), &score, 4);
  return bytes(1, bytes(1, content) + "\x15" + bits + number(3, type));
}
std::string trainer(const std::string& fields) { return bytes(2, fields); }
std::string normalizer(const std::string& fields) { return bytes(3, fields); }

const std::string kBpe = trainer(number(3, 2)) + normalizer(number(4, 0));

std::string letters() {
  std::string out = piece("<unk>", unknown) + piece("<s>", control) + piece("</s>", control);
  for (const char* c : {"\u2581", "a", "b", "c"}) out += piece(c, normal, -9);
  return out;  // 3 is the space, 4 to 6 are letters
}

absl::StatusOr<std::unique_ptr<Tokenizer>> load(const std::string& model,
                                                const std::string& config = "") {
  const golden::ModelDir dir;
  dir.write("tokenizer.model", model);
  if (!config.empty()) dir.write("tokenizer_config.json", config);
  return Tokenizer::load(dir.path());
}

std::string refusal(const std::string& model, const std::string& config = "") {
  const auto tokenizer = load(model, config);
  EXPECT_FALSE(tokenizer.ok());
  const std::string message = tokenizer.ok() ? "" : std::string(message_of(tokenizer.status()));
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  return message;
}

TEST(SentencePiece, WhatIsNoModelIsRefusedInOneLine) {
  const std::string good = letters() + kBpe;
  ASSERT_TRUE(load(good).ok()) << load(good).status();
  EXPECT_THAT(refusal(""), HasSubstr("tokenizer.model: not a SentencePiece model: it has no pie"));
  EXPECT_THAT(refusal("version https://git-lfs.github.com/spec/v1\n"), HasSubstr("at byte 0"));
  EXPECT_THAT(refusal("{\"model\": 1}"), HasSubstr("not a SentencePiece model, or damaged"));
  EXPECT_THAT(refusal(good + bytes(1, "\x0a\x7f")), HasSubstr("damaged at byte"));
  EXPECT_THAT(refusal(good + number(1, 5)), HasSubstr("damaged before byte"));
  EXPECT_THAT(refusal(good + bytes(1, number(1, 5))), HasSubstr("\"piece\" before byte"));
  EXPECT_THAT(refusal(good + piece("")), HasSubstr("pieces[7]: a piece of 0 bytes"));
  EXPECT_THAT(refusal(good + piece("\xFF")), HasSubstr("pieces[7]: the piece is not UTF-8"));
  EXPECT_THAT(refusal(good + piece("a")), HasSubstr("'a' is there twice"));
  EXPECT_THAT(refusal(good + piece("ax")), HasSubstr("'ax' has the character 'x'"));
  EXPECT_THAT(refusal(good + piece("d", Type(7))), HasSubstr("pieces[7]: \"type\" is 7"));
  EXPECT_THAT(refusal(good + piece("d", normal, NAN)), HasSubstr("pieces[7]: the score of 'd'"));
  EXPECT_THAT(refusal(good + piece("ab", unused)), HasSubstr("'ab' is UNUSED"));
  EXPECT_THAT(refusal(good + piece("<0x0g>", byte)), HasSubstr("pieces[7]: '<0x0g>' is a byte"));
  EXPECT_THAT(refusal(good + piece("<0x0A>", byte)), HasSubstr("1 pieces are bytes, expected 0"));
  EXPECT_THAT(refusal(good + trainer("\x98\x02\x01")), HasSubstr("0 pieces are bytes, expected 2"));
  EXPECT_THAT(refusal(good + piece("<u>", unknown)), HasSubstr("2 pieces are of type UNKNOWN"));
  EXPECT_THAT(refusal(good + trainer(number(3, 3))), HasSubstr("\"model_type\" is WORD"));
  EXPECT_THAT(refusal(good + trainer(number(3, 9))), HasSubstr("\"model_type\" is 9"));
  EXPECT_THAT(refusal(good + trainer("\xC0\x01\x01")), HasSubstr("treat_whitespace_as_suffix"));
  EXPECT_THAT(refusal(good + bytes(5, bytes(2, "x"))), HasSubstr("denormalizer_spec"));
  EXPECT_THAT(refusal(good + normalizer(bytes(2, "x"))), HasSubstr("a character map of 1 bytes"));
}

TEST(SentencePiece, ATruncatedModelNeverLoads) {
  const std::string model = golden::read(golden::fixtures() / "spm_bpe.model");
  ASSERT_TRUE(load(model).ok());
  int whole_messages = 0;  // what is cut between two of them cannot be told from a smaller model
  for (size_t size = 0; size < model.size(); size += 97) {
    const auto tokenizer = load(model.substr(0, size));
    whole_messages += tokenizer.ok();
    if (tokenizer.ok()) continue;
    EXPECT_THAT(std::string(message_of(tokenizer.status())), HasSubstr("tokenizer.model: "));
  }
  EXPECT_EQ(whole_messages, 0);
}

TEST(SentencePiece, ABrokenConfigIsRefusedByName) {
  const std::string good = letters() + kBpe;
  EXPECT_THAT(refusal(good, "[]"), HasSubstr("tokenizer_config.json: must be a JSON object"));
  EXPECT_THAT(refusal(good, R"({"tokenizer_class": "T5Tokenizer"})"),
              HasSubstr("tokenizer_config.json: tokenizer_class: only LlamaTokenizer"));
  EXPECT_TRUE(load(good, R"({"tokenizer_class": "OwnTokenizer", "add_bos_token": true})").ok());
  EXPECT_THAT(refusal(good, R"({"sp_model_kwargs": {"nbest_size": 2}})"),
              HasSubstr("sp_model_kwargs"));
  EXPECT_THAT(refusal(good, R"({"added_tokens_decoder": {"5": {"content": "<x>"}}})"),
              HasSubstr("is the id of another token"));
  EXPECT_THAT(refusal(good, R"({"added_tokens_decoder": {"2": {"content": "<s>"}}})"),
              HasSubstr("is another id than in tokenizer.model"));
}

TEST(SentencePiece, OfEqualMergesTheLeftmostIsTaken) {
  // Two ways to write "abc": both pairs have one score, and whatever becomes "abc" has its score.
  const std::string model = letters() + piece("ab", normal, -1) + piece("bc", normal, -1) +
                            piece("abc", normal, -2) + kBpe;
  const auto tokenizer = load(model);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->encode("abcbc", false), ElementsAre(3, 9, 8));
  EXPECT_EQ((*tokenizer)->kind(), "BPE of characters");
  EXPECT_EQ((*tokenizer)->file(), "tokenizer.model");
}

TEST(SentencePiece, OfEqualMergesTheLeftmostIsTakenWhateverTheirIds) {
  const auto tokenizer = load(letters() + piece("bc", normal, -1) + piece("ab", normal, -1) + kBpe);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->encode("abc", false), ElementsAre(3, 8, 6));
}

TEST(SentencePiece, UnknownCharactersInARowAreOneToken) {
  const auto tokenizer = load(letters() + kBpe);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->encode("xyaz", false), ElementsAre(3, 0, 4, 0));
}

TEST(SentencePiece, SymbolsOfTheUserKeepTheirSpaces) {
  const std::string model = letters() + kBpe + normalizer(number(4, 1));
  const auto without = load(model), with = load(model + piece("a  b", user_defined));
  ASSERT_TRUE(without.ok() && with.ok());
  EXPECT_THAT((*without)->encode("a  b", false), ElementsAre(3, 4, 3, 5));
  EXPECT_THAT((*with)->encode("a  b", false), ElementsAre(3, 4, 3, 3, 5));
}

TEST(SentencePiece, SymbolsOfTheUserAreNeverMerged) {
  const std::string model = letters() + piece("ab", normal, -1) + piece("bc", user_defined) +
                            piece("\u2581a", normal, -1) + kBpe;
  const auto tokenizer = load(model);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->encode("abcab", false), ElementsAre(9, 8, 7));
  EXPECT_FALSE((*tokenizer)->is_special(8));
}

TEST(SentencePiece, ASpaceIsPutInFrontOfATextAndNotBehindASpecialToken) {
  const auto tokenizer = load(letters() + kBpe);
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_THAT((*tokenizer)->encode("a</s>b", true), ElementsAre(1, 3, 4, 2, 5));
  EXPECT_THAT((*tokenizer)->encode("<s>a", true), ElementsAre(1, 1, 4));
  const std::vector<TokenId> ids = {1, 3, 4, 3, 5, 2};
  EXPECT_EQ(decode(**tokenizer, ids, true), "a b");
  EXPECT_EQ(decode(**tokenizer, ids, false), "<s> a b</s>");
}

TEST(SentencePiece, ATokenThatAConfigNamesIsSpecial) {
  const std::string config = R"({"added_tokens_decoder": {"7": {"content": "<x>"}})";
  const auto plain = load(letters() + kBpe, config + "}");
  const auto named = load(letters() + kBpe, config + R"(, "pad_token": "<x>"})");
  ASSERT_TRUE(plain.ok() && named.ok());
  EXPECT_FALSE((*plain)->is_special(7));
  EXPECT_TRUE((*named)->is_special(7));
}

TEST(SentencePiece, TokenizerJsonIsPreferred) {
  const golden::ModelDir dir(golden::read(golden::fixtures() / "gpt2.json"));
  dir.write("tokenizer.model", "not read");
  const auto tokenizer = Tokenizer::load(dir.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->file(), "tokenizer.json");
}

}  // namespace
}  // namespace sluice
