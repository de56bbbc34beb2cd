#include "tests/unit/text/golden.h"

#include <gtest/gtest.h>

#include <sstream>

#include "text/characters.h"
#include "text/detokenizer.h"
#include "text/normalizer.h"
#include "text/regex.h"
#include "text/self_test.h"

namespace sluice::golden {
namespace {

using Json = nlohmann::json;

std::string stream(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool skip_special) {
  Detokenizer detokenizer(tokenizer, skip_special);
  std::string out;
  for (const TokenId id : ids) out += detokenizer.push(id);
  return out + detokenizer.flush();
}

std::string packed(const std::vector<TokenId>& ids) {
  std::string out;
  for (const TokenId id : ids)
    for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(id >> shift));
  return out + "\xff\xff\xff\xff";
}

// As everything() in make_fixtures.py.
std::string everything(const Tokenizer& tokenizer, Fuzz& fuzz, std::string& text, bool ids_only) {
  text = fuzz.string();
  const std::vector<TokenId> plain = tokenizer.encode(text, false);
  std::vector<TokenId> loose;
  for (uint64_t n = fuzz.below(12); n > 0; --n)
    loose.push_back(static_cast<TokenId>(fuzz.below(tokenizer.vocab_size() + 2)));
  std::string out = packed(plain) + packed(tokenizer.encode(text, true));
  if (ids_only) return out;
  // Of text's own tokens a stream shows the same, whenever it shows it.
  for (const bool skip : {true, false})
    EXPECT_EQ(stream(tokenizer, plain, skip), decode(tokenizer, plain, skip)) << text;
  for (const auto& ids : {plain, loose})
    for (const bool skip : {true, false}) out += decode(tokenizer, ids, skip) + "\xff";
  return out;
}

std::string hash(std::string_view bytes) {
  uint64_t h = 0xCBF29CE484222325ull;
  for (const char byte : bytes) h = (h ^ static_cast<uint8_t>(byte)) * 0x100000001B3ull;
  return fmt::format("{:08x}", static_cast<uint32_t>(h));
}

// Compares with all hashes of a list, and returns how many there were.
int compare(const std::string& name, const Tokenizer& tokenizer, const std::string& hashes,
            bool ids_only = false) {
  static const Json table = fixture("fragments.json");
  std::istringstream in(hashes);
  std::string expected, text;
  int count = 0, wrong = 0;
  for (; in >> expected; ++count) {
    Fuzz fuzz(table, count);
    if (hash(everything(tokenizer, fuzz, text, ids_only)) == expected) continue;
    if (++wrong <= 5)
      ADD_FAILURE() << name << ": string " << count << " differs: "
                    << Json(text).dump(-1, ' ', true, Json::error_handler_t::replace);
  }
  EXPECT_EQ(wrong, 0) << name;
  return count;
}

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, FiveThousandFuzzedStringsAreAsTheReferenceHasThem) {
  const std::string name = GetParam();
  auto tokenizer = load(read(fixtures() / (name + ".json")));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(compare(name, **tokenizer, read(fixtures() / (name + ".hashes"))), 5000);
}

TEST_P(Golden, ReadableCases) {
  const std::string name = GetParam();
  auto tokenizer = load(read(fixtures() / (name + ".json")));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const Json cases = fixture(name + ".cases.json");
  ASSERT_GT(cases.size(), 60u);
  for (const Json& c : cases) {
    const auto ids = c["ids"].get<std::vector<TokenId>>();
    EXPECT_EQ((*tokenizer)->encode(c["text"].get<std::string>(), true), ids) << c["text"];
    EXPECT_EQ(decode(**tokenizer, ids, true), c["decoded"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Golden,
                         testing::Values("gpt2", "llama3", "qwen2", "llama2", "gemma", "unigram",
                                         "words"),
                         [](const auto& info) { return std::string(info.param); });

TEST(GoldenVariants, EverySettingIsAsTheReferenceHasIt) {
  for (const Json& variant : fixture("variants.json")) {
    Json doc = fixture(variant["base"].get<std::string>() + ".json");
    doc.merge_patch(variant["patch"]);
    const auto name = variant["name"].get<std::string>();
    auto tokenizer = load(doc.dump());
    ASSERT_TRUE(tokenizer.ok()) << name << ": " << tokenizer.status();
    EXPECT_EQ(compare(name, **tokenizer, variant["hashes"], variant["ids_only"]), 300);
  }
}

// Of lower-case hexadecimal digits.
std::string from_hex(const std::string& digits) {
  std::string out;
  for (size_t at = 0; at + 1 < digits.size(); at += 2)
    out.push_back(static_cast<char>(std::stoi(digits.substr(at, 2), nullptr, 16)));
  return out;
}

TEST(GoldenSentencePiece, ModelsAndWhatLiesBesideThemAreAsTheReferenceHasThem) {
  int count = 0;
  for (const Json& row : fixture("sentencepiece.json")) {
    const auto name = row["name"].get<std::string>();
    const ModelDir dir;
    dir.write("tokenizer.model",
              read(fixtures() / ("spm_" + row["model"].get<std::string>() + ".model")) +
                  from_hex(row["change"]));
    for (const auto& [key, file] : {std::pair("config", "tokenizer_config.json"),
                                    std::pair("special_tokens", "special_tokens_map.json"),
                                    std::pair("added_tokens", "added_tokens.json")})
      if (row.contains(key)) dir.write(file, row[key].dump());
    const auto tokenizer = Tokenizer::load(dir.path());
    ASSERT_TRUE(tokenizer.ok()) << name << ": " << tokenizer.status();
    EXPECT_TRUE(self_test(**tokenizer).ok()) << name << ": " << self_test(**tokenizer);
    count += compare(name, **tokenizer, row["hashes"]);
  }
  EXPECT_EQ(count, 2 * 5000 + 10 * 300);
}

template <class Visit>
void for_each_character(Visit&& visit) {
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string character;
    append_utf8(character, code);
    visit(character, static_cast<uint32_t>(code));
  }
}

TEST(GoldenUnicode, ClassesHoldTheReferencesCodePoints) {
  const Json fixtures = fixture("classes.json");
  for (const auto& [pattern, expected] : fixtures["classes"].items()) {
    const auto regex = Regex::compile(pattern);
    ASSERT_TRUE(regex.ok()) << regex.status();
    Regex::Scratch scratch;
    std::vector<std::pair<uint32_t, uint32_t>> ranges;
    for_each_character([&](const std::string& character, uint32_t code) {
      if (!Regex::Matches(*regex, character, scratch).next()) return;
      if (!ranges.empty() && ranges.back().second == code - 1)
        ranges.back().second = code;
      else
        ranges.emplace_back(code, code);
    });
    std::string text;
    for (const auto& [first, last] : ranges) text += fmt::format("{:x}-{:x} ", first, last);
    EXPECT_EQ(hash(text), expected.get<std::string>()) << pattern;
  }
}

TEST(GoldenUnicode, NormalFormsAreTheReferences) {
  const Json fixtures = fixture("classes.json");
  const std::pair<const char*, NormalForm> forms[] = {{"NFC", NormalForm::nfc},
                                                      {"NFD", NormalForm::nfd},
                                                      {"NFKC", NormalForm::nfkc},
                                                      {"NFKD", NormalForm::nfkd}};
  for (const auto& [name, form] : forms) {
    Normalizer normalizer;
    normalizer.add(form);
    std::string all, buffer;
    for_each_character([&](const std::string& character, uint32_t) {
      for (const std::string& text : {character + "\n", "a" + character + "\u0334\n"}) {
        const std::string_view normal = normalizer.apply(text, buffer);
        if (normal != text) all += normal;
      }
    });
    EXPECT_EQ(hash(all), fixtures["forms"][name].get<std::string>()) << name;
  }
}

TEST(GoldenUnicode, StagesOfTheReferencesOwnTakeItsCharacters) {
  const Json fixtures = fixture("classes.json");
  const auto punctuation = Regex::compile(punctuation_pattern());
  const auto marks = Regex::compile(mark_pattern());
  ASSERT_TRUE(punctuation.ok() && marks.ok());
  Regex::Scratch scratch;
  std::string removed, lowercase, accents;
  for_each_character([&](const std::string& character, uint32_t code) {
    if (Regex::Matches(*punctuation, character, scratch).next()) removed += character;
    if (!Regex::Matches(*marks, character, scratch).next()) accents += character;
    append_lowercase(lowercase, code);
    lowercase += "\n";
    accents += "\n";
  });
  EXPECT_EQ(hash(removed), fixtures["punctuation"].get<std::string>());
  EXPECT_EQ(hash(lowercase), fixtures["lowercase"].get<std::string>());
  EXPECT_EQ(hash(accents), fixtures["accents"].get<std::string>());
}

}  // namespace
}  // namespace sluice::golden
