#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/unit/text/golden.h"
#include "text/utf8.h"

namespace sluice {
namespace {

// Tokens with any bytes.
class Pieces final : public Tokenizer {
 public:
  TokenId add(std::string bytes, bool special = false) {
    pieces_.push_back(std::move(bytes));
    special_.push_back(special);
    return vocab_size() - 1;
  }
  std::vector<TokenId> encode(std::string_view, bool) const override { return {}; }
  std::string_view piece(TokenId id) const override {
    return id >= 0 && id < vocab_size() ? std::string_view(pieces_[id]) : std::string_view();
  }
  bool is_special(TokenId id) const override {
    return id >= 0 && id < vocab_size() && special_[id];
  }
  std::optional<TokenId> find(std::string_view) const override { return std::nullopt; }
  int vocab_size() const override { return static_cast<int>(pieces_.size()); }

 private:
  std::vector<std::string> pieces_;
  std::vector<bool> special_;
};

std::string random_bytes(std::mt19937& random) {
  constexpr char32_t kCodes[] = {'a',    ' ',    0x7F,   0x80,    0xE9,    0x7FF,   0x800,
                                 0x20AC, 0xFFFD, 0xFFFF, 0x10000, 0x1F600, 0x10FFFF};
  std::string out;
  for (int n = random() % 8; n > 0; --n) {
    if (random() % 3) {
      append_utf8(out, kCodes[random() % std::size(kCodes)]);
    } else {
      out.push_back(static_cast<char>(random() % 4 ? 0x80 + random() % 0x80 : random() % 0x80));
    }
    if (random() % 6 == 0) out.pop_back();
  }
  return out;
}

TEST(Detokenizer, NeverEmitsPartOfACharacterWhereverTheTokensEnd) {
  std::mt19937 random(3);
  for (int round = 0; round < 50000; ++round) {
    const std::string bytes = random_bytes(random);
    Pieces pieces;
    std::vector<TokenId> tokens;
    for (size_t at = 0; at < bytes.size();) {
      const size_t count = random() % 4;
      tokens.push_back(pieces.add(bytes.substr(at, count)));
      at += count;
    }
    Detokenizer detokenizer(pieces, false);
    std::string text, seen;
    for (const TokenId token : tokens) {
      seen += pieces.piece(token);
      const std::string part = detokenizer.push(token);
      ASSERT_EQ(utf8_valid_prefix(part), part.size());
      text += part;
      // All that is certain is out: at most the beginning of one character is missing.
      std::string whole;
      append_valid_utf8(whole, seen);
      ASSERT_TRUE(whole == text || whole == text + std::string(kReplacement));
    }
    text += detokenizer.flush();
    std::string whole;
    append_valid_utf8(whole, bytes);
    ASSERT_EQ(text, whole);
    ASSERT_EQ(detokenizer.flush(), "");
  }
}

TEST(Detokenizer, EmitsACharacterWithItsLastByte) {
  Pieces pieces;
  const TokenId bytes[] = {pieces.add("x\xF0"), pieces.add("\x9F"), pieces.add("\x98"),
                           pieces.add("\x80y")};
  Detokenizer detokenizer(pieces, false);
  EXPECT_EQ(detokenizer.push(bytes[0]), "x");
  EXPECT_EQ(detokenizer.push(bytes[1]), "");
  EXPECT_EQ(detokenizer.push(bytes[2]), "");
  EXPECT_EQ(detokenizer.push(bytes[3]), "\U0001F600y");
}

TEST(Detokenizer, BytesThatCannotBecomeACharacterDoNotWait) {
  Pieces pieces;
  const TokenId lone = pieces.add("\x80"), surrogate = pieces.add("\xED\xA0");
  Detokenizer detokenizer(pieces, false);
  EXPECT_EQ(detokenizer.push(lone), kReplacement);
  EXPECT_EQ(detokenizer.push(surrogate), std::string(kReplacement) + std::string(kReplacement));
}

TEST(Detokenizer, SkipsSpecialTokensAndUnknownIds) {
  Pieces pieces;
  const TokenId first = pieces.add("\xC3"), special = pieces.add("<end>", true),
                second = pieces.add("\xA9");
  Detokenizer skipping(pieces, true), keeping(pieces, false);
  EXPECT_EQ(skipping.push(first), "");
  EXPECT_EQ(skipping.push(special), "");
  EXPECT_EQ(skipping.push(99), "");
  EXPECT_EQ(skipping.push(-1), "");
  EXPECT_EQ(skipping.push(second), "\xC3\xA9");
  EXPECT_EQ(keeping.push(first), "");
  EXPECT_EQ(keeping.push(special), std::string(kReplacement) + "<end>");
  EXPECT_EQ(keeping.push(second), kReplacement);
}

class Characters : public testing::Test {
 protected:
  std::unique_ptr<Tokenizer> load(const nlohmann::json& patch = nlohmann::json::object()) {
    nlohmann::json doc = golden::fixture("llama2.json");
    doc.merge_patch(patch);
    auto tokenizer = golden::load(doc.dump());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *std::move(tokenizer);
  }
  static TokenId id(const Tokenizer& tokenizer, std::string_view content) {
    const auto found = tokenizer.find(content);
    EXPECT_TRUE(found) << content;
    return found.value_or(-1);
  }
};

TEST_F(Characters, ATextLosesItsFirstSpaceAndAContinuationKeepsIt) {
  const auto t = load();
  const TokenId the = id(*t, "\u2581the"), bos = id(*t, "<s>");
  Detokenizer text(*t, true), shown(*t, false), continuation(*t, true, Beginning::continues);
  EXPECT_EQ(text.push(bos), "");
  EXPECT_EQ(text.push(the), "the");
  EXPECT_EQ(text.push(the), " the");
  EXPECT_EQ(shown.push(bos), "<s>");
  EXPECT_EQ(shown.push(the), " the");
  EXPECT_EQ(continuation.push(the), " the");
  // One space of several, and not a later one.
  Detokenizer spaces(*t, true);
  const TokenId space = id(*t, "\u2581");
  EXPECT_EQ(spaces.push(space), "");
  EXPECT_EQ(spaces.push(space), " ");
}

TEST_F(Characters, BytesAreACharacterWithTheLastOfThem) {
  const auto t = load();
  const auto byte = [&](int value) { return id(*t, fmt::format("<0x{:02X}>", value)); };
  Detokenizer stream(*t, true);
  EXPECT_EQ(stream.push(byte(0xF0)), "");
  EXPECT_EQ(stream.push(byte(0x9F)), "");
  EXPECT_EQ(stream.push(byte(0x98)), "");
  EXPECT_EQ(stream.push(byte(0x80)), "\U0001F600");
  EXPECT_EQ(stream.push(byte('\n')), "\n");
  EXPECT_EQ(stream.push(byte(0xE4)), "");
  EXPECT_EQ(stream.push(byte(0xBD)), "");
  // What can become no character is one U+FFFD a byte, as soon as that is known.
  EXPECT_EQ(stream.push(id(*t, "\u2581the")),
            std::string(kReplacement) + std::string(kReplacement) + " the");
  EXPECT_EQ(stream.push(byte(0xE4)), "");
  EXPECT_EQ(stream.flush(), kReplacement);
  EXPECT_EQ(stream.flush(), "");
}

TEST_F(Characters, AWholeTextIsDecodedAsTheReferenceDoes) {
  const auto t = load();
  std::vector<TokenId> ids;
  for (const int value : {0x61, 0xE4, 0xBD, 0x62})
    ids.push_back(id(*t, fmt::format("<0x{:02X}>", value)));
  std::string four;
  for (int i = 0; i < 4; ++i) four += kReplacement;
  EXPECT_EQ(decode(*t, ids, true), four);
  Detokenizer stream(*t, true);
  std::string shown;
  for (const TokenId token : ids) shown += stream.push(token);
  EXPECT_EQ(shown + stream.flush(),
            "a" + std::string(kReplacement) + std::string(kReplacement) + "b");
}

TEST_F(Characters, BothEndsOfATextAreStrippedWhereverTheTokensEnd) {
  const nlohmann::json strip = {{"type", "Strip"}, {"content", "="}, {"start", 2}, {"stop", 3}};
  const auto t =
      load({{"decoder", {{"type", "Sequence"}, {"decoders", {{{"type", "Fuse"}}, strip}}}}});
  const TokenId equals = id(*t, "="), e = id(*t, "e");
  const auto text = [&](int before, int between, int behind) {
    Detokenizer stream(*t, true);
    std::string out;
    for (int i = 0; i < before; ++i) out += stream.push(equals);
    out += stream.push(e);
    for (int i = 0; i < between; ++i) out += stream.push(equals);
    out += stream.push(e);
    for (int i = 0; i < behind; ++i) out += stream.push(equals);
    return out + stream.flush();
  };
  EXPECT_EQ(text(1, 5, 2), "e=====e");
  EXPECT_EQ(text(3, 3, 5), "=e===e==");
}

TEST_F(Characters, TheLastTokenOfAWordVocabularyHasNoSpaceBehindIt) {
  auto words = golden::load(golden::read(golden::fixtures() / "words.json"));
  ASSERT_TRUE(words.ok()) << words.status();
  const TokenId the = id(**words, "the</w>");
  Detokenizer stream(**words, true);
  EXPECT_EQ(stream.push(the), "");
  EXPECT_EQ(stream.push(the), "the ");
  EXPECT_EQ(stream.flush(), "the");
  EXPECT_EQ(stream.flush(), "");
}

}  // namespace
}  // namespace sluice
