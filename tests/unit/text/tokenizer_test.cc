#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <thread>

#include "base/hash.h"
#include "tests/unit/text/golden.h"
#include "text/bpe.h"
#include "text/byte_alphabet.h"
#include "text/detokenizer.h"
#include "text/regex.h"
#include "text/self_test.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

std::unique_ptr<Tokenizer> load_fixture(const std::string& name) {
  auto tokenizer = golden::load(golden::read(golden::fixtures() / (name + ".json")));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::string bytes_of(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  std::string out;
  for (const TokenId id : ids) out += tokenizer.piece(id);
  return out;
}

// A model over all bytes, with entries and merges of its own.
Bpe make_bpe(const Bpe::Merges& merges, bool ignore_merges = false) {
  Bpe::Vocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    std::string letter;
    append_utf8(letter, byte_alphabet()[byte]);
    vocabulary.emplace_back(letter, byte);
  }
  for (const auto& [left, right] : merges)
    vocabulary.emplace_back(left + right, static_cast<TokenId>(vocabulary.size()));
  auto bpe = Bpe::make(vocabulary, merges, {.ignore_merges = ignore_merges});
  EXPECT_TRUE(bpe.ok()) << bpe.status();
  return *std::move(bpe);
}

using RankOf = std::function<uint32_t(const std::string& left, const std::string& right)>;

RankOf rank_in(const Bpe::Merges& merges) {
  return [&merges](const std::string& left, const std::string& right) {
    const auto at = std::find(merges.begin(), merges.end(), std::pair(left, right));
    return at == merges.end() ? Bpe::kNoRank : static_cast<uint32_t>(at - merges.begin());
  };
}

// By the definition: the best pair of all, the leftmost of those, again and again.
std::vector<TokenId> naive(const Bpe& bpe, const RankOf& rank_of, std::string_view text) {
  std::vector<std::string> parts;
  for (const char c : text) parts.emplace_back(1, c);
  for (;;) {
    uint32_t rank = Bpe::kNoRank;
    size_t at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i)
      if (const uint32_t r = rank_of(parts[i], parts[i + 1]); r < rank) rank = r, at = i;
    if (rank == Bpe::kNoRank) break;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + at + 1);
  }
  std::vector<TokenId> out;
  for (const std::string& part : parts) out.push_back(*bpe.find(part));
  return out;
}

TEST(Bpe, ShortAndLongPiecesMergeAsTheDefinitionSays) {
  uint64_t state = 1;
  const auto below = [&](uint64_t n) { return (state = mix64(state)) % n; };
  for (int round = 0; round < 60; ++round) {
    std::vector<std::string> known = {"a", "b", "c"};
    Bpe::Merges merges;
    for (int tries = 0; tries < 25; ++tries) {
      const std::string left = known[below(known.size())], right = known[below(known.size())];
      if (std::count(known.begin(), known.end(), left + right)) continue;
      known.push_back(left + right);
      merges.emplace_back(left, right);
    }
    // As learnt, or so that what a merge gives may come before that merge.
    for (size_t i = round % 2 ? merges.size() : 0; i > 1; --i)
      std::swap(merges[i - 1], merges[below(i)]);
    const Bpe bpe = make_bpe(merges);
    Bpe::Scratch scratch;
    for (int text = 0; text < 40; ++text) {
      std::string piece;
      // Both sides of the border between the two ways of merging.
      for (size_t length = 1 + below(120); piece.size() < length;) piece += "abc"[below(3)];
      std::vector<TokenId> out;
      bpe.encode(piece, scratch, out);
      ASSERT_EQ(out, naive(bpe, rank_in(merges), piece)) << piece;
    }
  }
}

TEST(Bpe, EntriesMayShareARank) {
  uint64_t state = 2;
  const auto below = [&](uint64_t n) { return (state = mix64(state)) % n; };
  for (int round = 0; round < 60; ++round) {
    Bpe::Vocabulary vocabulary = {{"a", 0}, {"b", 1}, {"c", 2}};
    std::vector<uint32_t> ranks(3, Bpe::kNoRank);
    for (int tries = 0; tries < 25; ++tries) {
      std::string entry;
      for (size_t length = 2 + below(5); entry.size() < length;) entry += "abc"[below(3)];
      if (std::any_of(vocabulary.begin(), vocabulary.end(),
                      [&](const auto& known) { return known.first == entry; }))
        continue;
      vocabulary.emplace_back(entry, static_cast<TokenId>(vocabulary.size()));
      ranks.push_back(static_cast<uint32_t>(below(4)));
    }
    const auto bpe = Bpe::make_ranked(vocabulary, ranks, {.byte_level = false});
    ASSERT_TRUE(bpe.ok()) << bpe.status();
    const RankOf rank_of = [&](const std::string& left, const std::string& right) {
      const auto id = bpe->find(left + right);
      return id ? ranks[*id] : Bpe::kNoRank;
    };
    Bpe::Scratch scratch;
    for (int text = 0; text < 40; ++text) {
      std::string piece;
      for (size_t length = 1 + below(120); piece.size() < length;) piece += "abc"[below(3)];
      std::vector<TokenId> out;
      bpe->encode(piece, scratch, out);
      ASSERT_EQ(out, naive(*bpe, rank_of, piece)) << piece;
    }
  }
}

TEST(Bpe, AMegabyteOfOneLetterIsNoTrouble) {
  Bpe::Merges merges;
  for (std::string unit = "a"; unit.size() <= 4096; unit += unit) merges.emplace_back(unit, unit);
  const Bpe bpe = make_bpe(merges);
  Bpe::Scratch scratch;
  std::vector<TokenId> out;
  bpe.encode(std::string(1 << 20, 'a'), scratch, out);
  EXPECT_EQ(out, std::vector<TokenId>(128, *bpe.find(std::string(8192, 'a'))));
}

TEST(Tokenizer, EncodesEveryByteStringToTokensWithTheSameBytes) {
  const auto tokenizer = load_fixture("llama3");
  for (const std::string& text :
       {std::string(), std::string("\0\1\2", 3), std::string(300000, ' '), std::string(300000, 'x'),
        std::string(200000, '\n') + "x", std::string("\xC2\xA0 \xE2\x80\xA8 \xF0\x9F\x98\x80")})
    EXPECT_EQ(bytes_of(*tokenizer, tokenizer->encode(text, false)), text);
  EXPECT_EQ(bytes_of(*tokenizer, tokenizer->encode("a\xFF\xE2\x82z", false)),
            "a\xEF\xBF\xBD\xEF\xBF\xBDz");
}

TEST(Tokenizer, RunsOfMarksAreNormalisedInReasonableTime) {
  const auto tokenizer = load_fixture("qwen2");
  // Below, above, above: those of one class keep their order.
  const std::string marks[] = {"\u0301", "\u0316", "\u0302"};
  std::string text, expected;
  for (int i = 0; i < 70000; ++i) text += marks[0] + marks[1] + marks[2];
  for (int i = 0; i < 70000; ++i) expected += marks[1];
  for (int i = 0; i < 70000; ++i) expected += marks[0] + marks[2];
  EXPECT_EQ(bytes_of(*tokenizer, tokenizer->encode(text, false)), expected);
}

TEST(Tokenizer, ALongLineOfAnythingTakesTimeInProportion) {
  for (const char* name : {"gpt2", "llama3", "qwen2", "llama2", "gemma", "unigram", "words"}) {
    const auto tokenizer = load_fixture(name);
    for (const std::string unit : {"a", " ", "\u2581", "\n", "\u4e2d", "\u0301", "ab ", "<s>"}) {
      std::string text;
      // The letter is the promise; the others would only take long.
      while (text.size() < (unit == "a" ? 1 << 20 : 1 << 17)) text += unit;
      const auto begin = std::chrono::steady_clock::now();
      const std::vector<TokenId> ids = tokenizer->encode(text, false);
      decode(*tokenizer, ids, true);
      // What is quadratic takes minutes; a machine under load or a sanitizer, seconds.
      EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30))
          << name << " " << unit;
    }
  }
}

std::string self_test_of(const Json& doc) {
  const auto tokenizer = golden::load(doc.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  const absl::Status status = self_test(**tokenizer);
  return status.ok() ? "" : std::string(message_of(status));
}

TEST(SelfTest, PassesWhereTextComesBack) {
  for (const char* name : {"gpt2", "llama3", "qwen2", "llama2", "gemma", "unigram", "words"})
    EXPECT_EQ(self_test_of(golden::fixture(std::string(name) + ".json")), "") << name;
  for (const char* name : {"gpt2", "llama3", "qwen2", "llama2", "gemma"})
    EXPECT_TRUE(load_fixture(name)->lossless()) << name;
  for (const char* name : {"unigram", "words"})
    EXPECT_FALSE(load_fixture(name)->lossless()) << name;
}

TEST(SelfTest, FindsWhatIsBroken) {
  using testing::HasSubstr;
  Json doc = golden::fixture("llama2.json");
  doc["decoder"] = nullptr;  // tokens with spaces between them
  EXPECT_THAT(self_test_of(doc), HasSubstr("does not come back"));
  doc = golden::fixture("llama2.json");
  doc["decoder"] = {{"type", "Fuse"}};  // bytes come back as "<0x..>", spaces as U+2581
  EXPECT_THAT(self_test_of(doc), HasSubstr("does not come back: from byte 0"));
  doc = golden::fixture("unigram.json");
  for (Json& entry : doc["model"]["vocab"])
    if (entry[0] == "x" || entry[0] == "q") entry[0] = entry[0].get<std::string>() + "\u4e2d";
  EXPECT_THAT(self_test_of(doc), HasSubstr("does not come back"));
  doc = golden::fixture("llama2.json");  // taken for part of a longer token
  doc["added_tokens"][1]["single_word"] = true;
  doc["added_tokens"].push_back({{"id", 1300}, {"content", "<s"}, {"normalized", false}});
  doc["added_tokens"][1]["content"] = "<s>";
  doc["added_tokens"][1]["normalized"] = true;
  EXPECT_THAT(self_test_of(doc), HasSubstr("special token '<s>'"));
}

TEST(Tokenizer, KnowsTheTokensOfCharacterVocabularies) {
  const auto tokenizer = load_fixture("llama2");
  const auto the = tokenizer->find("\u2581the"), newline = tokenizer->find("<0x0A>");
  ASSERT_TRUE(the && newline);
  EXPECT_EQ(tokenizer->piece(*the), " the");
  EXPECT_EQ(tokenizer->content(*the), "\u2581the");
  EXPECT_EQ(tokenizer->piece(*newline), "\n");
  EXPECT_TRUE(tokenizer->is_byte(*newline));
  EXPECT_FALSE(tokenizer->is_byte(*the));
  EXPECT_TRUE(tokenizer->is_special(*tokenizer->find("<unk>")));
}

TEST(Tokenizer, KnowsItsTokens) {
  const auto tokenizer = load_fixture("llama3");
  const auto bos = tokenizer->find("<|begin_of_text|>");
  ASSERT_TRUE(bos);
  EXPECT_TRUE(tokenizer->is_special(*bos));
  EXPECT_EQ(tokenizer->piece(*bos), "<|begin_of_text|>");
  EXPECT_EQ(tokenizer->encode("", true), std::vector<TokenId>{*bos});
  EXPECT_EQ(tokenizer->encode("<|begin_of_text|>", false), std::vector<TokenId>{*bos});
  const auto the = tokenizer->find("\u0120the");
  ASSERT_TRUE(the);
  EXPECT_FALSE(tokenizer->is_special(*the));
  EXPECT_EQ(tokenizer->piece(*the), " the");
  EXPECT_EQ(tokenizer->vocab_size(), 1505);
  EXPECT_FALSE(tokenizer->find("no such token"));
  for (const TokenId id : {-1, 1505, 1 << 30}) {
    EXPECT_EQ(tokenizer->piece(id), "");
    EXPECT_FALSE(tokenizer->is_special(id));
  }
  // Not special, so it stays in the text that a client sees.
  const auto qwen2 = load_fixture("qwen2");
  EXPECT_FALSE(qwen2->is_special(*qwen2->find("<tool_call>")));
}

TEST(Tokenizer, AnAddedTokenGivesItsContentBack) {
  Json doc = golden::fixture("gpt2.json");
  const int id = doc["added_tokens"].back()["id"].get<int>() + 1;
  doc["added_tokens"].push_back({{"id", id}, {"content", "\u00f6\u0120"}, {"normalized", false}});
  const auto tokenizer = golden::load(doc.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->encode("\u00f6\u0120", false), std::vector<TokenId>{id});
  EXPECT_EQ((*tokenizer)->piece(id), "\u00f6\u0120");
}

TEST(Tokenizer, TheConfigAddsAndOverridesAddedTokens) {
  const golden::ModelDir dir(golden::read(golden::fixtures() / "qwen2.json"));
  const auto before = Tokenizer::load(dir.path());
  ASSERT_TRUE(before.ok());
  const TokenId call = *(*before)->find("<tool_call>");
  const int next = (*before)->vocab_size();
  const Json decoder = {{std::to_string(call), {{"content", "<tool_call>"}, {"special", true}}},
                        {std::to_string(next), {{"content", "<new>"}, {"special", true}}},
                        {std::to_string(next + 1), {{"content", "<newer>"}}}};
  dir.write("tokenizer_config.json", Json{{"added_tokens_decoder", decoder}}.dump());
  const auto after = Tokenizer::load(dir.path());
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_TRUE((*after)->is_special(call));
  EXPECT_TRUE((*after)->is_special(next));
  EXPECT_FALSE((*after)->is_special(next + 1));
  EXPECT_EQ((*after)->encode("<new><newer>", false), (std::vector<TokenId>{next, next + 1}));
}

TEST(Tokenizer, ThreadsShareOne) {
  const auto tokenizer = load_fixture("qwen2");
  const Json table = golden::fixture("fragments.json");
  std::vector<std::string> texts;
  std::vector<std::vector<TokenId>> expected;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    texts.push_back(golden::Fuzz(table, seed).string());
    expected.push_back(tokenizer->encode(texts.back(), true));
  }
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i)
        wrong[t] += tokenizer->encode(texts[i], true) != expected[i];
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(Regex, WhatMayMeanSomethingElseIsRefused) {
  for (const char* pattern :
       {"(",      ")",       "[",         "[]",          "[a",          "a{",     "{2}",
        "*a",     "a**",     "a{2}?",     "a{3,2}",      "a{99999999}", "\\",     "\\1",
        "\\b",    "\\k<a>",  "\\p{Thai}", "\\p{L",       "\\pL",        "[\\D]",  "[a[b]]",
        "[a&&b]", "[b-a]",   "[\\d-z]",   "[a-\\d]",     "[[:alpha:]]", "(?m:a)", "(?<n>a)",
        "(?#x)",  "(?i)a",   "^*",        "\\x{110000}", "\\x{d800}",   "\\xff",  "\\u12",
        "\\q",    "(?<=a+)b"})
    EXPECT_FALSE(Regex::compile(pattern).ok()) << pattern;
  EXPECT_FALSE(Regex::compile(std::string(1 << 20, 'a')).ok());
  EXPECT_FALSE(Regex::compile(std::string(5000, '(') + "a" + std::string(5000, ')')).ok());
}

TEST(Regex, APatternThatExplodesLosesNoText) {
  const auto regex = Regex::compile("(?:(?:a|aa)+)+b|c");
  ASSERT_TRUE(regex.ok()) << regex.status();
  Regex::Scratch scratch;
  const std::string text = "c" + std::string(5000, 'a') + "c";
  Regex::Matches matches(*regex, text, scratch);
  const auto first = matches.next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->end, 1u);
  EXPECT_FALSE(matches.next());  // it gave up
}

}  // namespace
}  // namespace sluice
