#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/hash.h"
#include "tests/unit/text/golden.h"

namespace sluice {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

std::string refusal(const std::string& text) {
  const auto tokenizer = golden::load(text);
  EXPECT_FALSE(tokenizer.ok());
  const std::string message = tokenizer.ok() ? "" : std::string(message_of(tokenizer.status()));
  EXPECT_THAT(message, HasSubstr("tokenizer.json: "));
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 700u) << message;
  return message;
}

struct Broken {
  const char* names;  // what the message must say
  std::function<void(Json&)> change;
};

Json token(const Json& id, const Json& content) { return {{"id", id}, {"content", content}}; }
Json split(const Json& pattern) {
  return {{"type", "Split"}, {"pattern", pattern}, {"behavior", "Isolated"}, {"invert", false}};
}

const Broken kBroken[] = {
    {"must be a JSON object", [](Json& d) { d = Json::array(); }},
    {"version", [](Json& d) { d["version"] = "2.0"; }},
    {"model: must be an object", [](Json& d) { d.erase("model"); }},
    {"model: must be an object", [](Json& d) { d["model"] = "BPE"; }},
    {"model.type: must be BPE", [](Json& d) { d["model"]["type"] = "Unigram"; }},
    {"model.type", [](Json& d) { d["model"]["type"] = "WordPiece"; }},
    {"model.type", [](Json& d) { d["model"].erase("type"); }},
    {"model.dropout", [](Json& d) { d["model"]["dropout"] = 0.1; }},
    {"model.byte_fallback", [](Json& d) { d["model"]["byte_fallback"] = 1; }},
    {"model.fuse_unk", [](Json& d) { d["model"]["fuse_unk"] = "no"; }},
    {"model.continuing_subword_prefix",
     [](Json& d) { d["model"]["continuing_subword_prefix"] = "##"; }},
    {"model.end_of_word_suffix", [](Json& d) { d["model"]["end_of_word_suffix"] = "</w>"; }},
    {"model.unk_token", [](Json& d) { d["model"]["unk_token"] = 5; }},
    {"model.ignore_merges", [](Json& d) { d["model"]["ignore_merges"] = "yes"; }},
    {"model.vocab", [](Json& d) { d["model"]["vocab"] = Json::array(); }},
    {"no entry for byte", [](Json& d) { d["model"]["vocab"] = Json::object(); }},
    {"no entry for byte 0x20", [](Json& d) { d["model"]["vocab"].erase("\u0120"); }},
    {"model.vocab['a']", [](Json& d) { d["model"]["vocab"]["a"] = "5"; }},
    {"model.vocab['a']", [](Json& d) { d["model"]["vocab"]["a"] = -1; }},
    {"model.vocab['a']", [](Json& d) { d["model"]["vocab"]["a"] = 1.5; }},
    {"model.vocab['a']", [](Json& d) { d["model"]["vocab"]["a"] = 2147483648u; }},
    {"model.vocab['a']", [](Json& d) { d["model"]["vocab"]["a"] = 18446744073709551615ull; }},
    {"id of another", [](Json& d) { d["model"]["vocab"]["a"] = d["model"]["vocab"]["b"]; }},
    {"model.vocab: entry", [](Json& d) { d["model"]["vocab"][""] = 5000; }},
    {"model.merges", [](Json& d) { d["model"]["merges"] = nullptr; }},
    {"model.merges[0]", [](Json& d) { d["model"]["merges"][0] = "nospace"; }},
    {"model.merges[0]", [](Json& d) { d["model"]["merges"][0] = "too many words"; }},
    {"model.merges[1]", [](Json& d) { d["model"]["merges"][1] = {"a"}; }},
    {"model.merges[1]",
     [](Json& d) {
       d["model"]["merges"][1] = {"a", 5};
     }},
    {"model.merges[2]: token 'qqqq'",
     [](Json& d) {
       d["model"]["merges"][2] = {"qqqq", "a"};
     }},
    {"model.merges[2]: token '~~'", [](Json& d) { d["model"]["merges"][2] = "~ ~"; }},
    {"normalizer.type",
     [](Json& d) {
       d["normalizer"] = {{"type", "BertNormalizer"}};
     }},
    {"normalizer.strip_left",
     [](Json& d) {
       d["normalizer"] = {{"type", "Strip"}, {"strip_right", true}};
     }},
    {"normalizer.pattern",
     [](Json& d) {
       d["normalizer"] = {{"type", "Replace"}, {"pattern", "x"}, {"content", ""}};
     }},
    {"normalizer.pattern.String",
     [](Json& d) {
       d["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", ""}};
     }},
    {"normalizer.content",
     [](Json& d) {
       d["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}};
     }},
    {"normalizer.normalizers[3]: its replacements may make a text 4.1e+03 times as long",
     [](Json& d) {
       const Json doubling = {
           {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaaaaaa"}};
       d["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json(9, doubling)}};
     }},
    {"decoder.decoders[2]: its replacements may make a text 2.2e+03 times as long",
     [](Json& d) {
       const Json longer = {
           {"type", "Replace"}, {"pattern", {{"Regex", "a?"}}}, {"content", "aaaaaaaaaaaa"}};
       d["decoder"] = {{"type", "Sequence"}, {"decoders", Json(9, longer)}};
     }},
    {"normalizer.prepend",
     [](Json& d) {
       d["normalizer"] = {{"type", "Prepend"}};
     }},
    {"normalizer.precompiled_charsmap: must be base64",
     [](Json& d) {
       d["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "A*AA"}};
     }},
    {"normalizer.precompiled_charsmap: a character map",
     [](Json& d) {
       d["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}};
     }},
    {"normalizer.precompiled_charsmap: a character map whose trie has",
     [](Json& d) {
       d["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "/////wAA"}};
     }},
    {"normalizer", [](Json& d) { d["normalizer"] = "NFC"; }},
    {"normalizer.normalizers[1].type",
     [](Json& d) {
       d["normalizer"] = {{"type", "Sequence"},
                          {"normalizers", {{{"type", "NFC"}}, {{"type", "ByteLevel"}}}}};
     }},
    {"decoder.type",
     [](Json& d) {
       d["decoder"] = {{"type", "Fuse"}};
     }},
    {"pre_tokenizer.replacement",
     [](Json& d) {
       d["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "__"}};
     }},
    {"pre_tokenizer.prepend_scheme",
     [](Json& d) {
       d["pre_tokenizer"] = {
           {"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "sometimes"}};
     }},
    {"pre_tokenizer.add_prefix_space",
     [](Json& d) {
       d["pre_tokenizer"] = {{"type", "Metaspace"},
                             {"replacement", "_"},
                             {"prepend_scheme", "first"},
                             {"add_prefix_space", false}};
     }},
    {"pre_tokenizer.type: only",
     [](Json& d) {
       d["pre_tokenizer"] = {{"type", "UnicodeScripts"}};
     }},
    {"pre_tokenizer.behavior",
     [](Json& d) {
       d["pre_tokenizer"] = {{"type", "Punctuation"}, {"behavior", "Sideways"}};
     }},
    {"add_prefix_space",
     [](Json& d) {
       d["pre_tokenizer"] = {{"type", "ByteLevel"}};
     }},
    {"pre_tokenizer.pattern.Regex",
     [](Json& d) {
       d["pre_tokenizer"] = split({{"Regex", "(unclosed"}});
     }},
    {"pre_tokenizer.pattern.Regex",
     [](Json& d) {
       d["pre_tokenizer"] = split({{"Regex", 1}});
     }},
    {"pre_tokenizer.pattern", [](Json& d) { d["pre_tokenizer"] = split("x"); }},
    {"pre_tokenizer.behavior",
     [](Json& d) {
       d["pre_tokenizer"] = split({{"Regex", "x"}});
       d["pre_tokenizer"]["behavior"] = "Sideways";
     }},
    {"pre_tokenizer.individual_digits",
     [](Json& d) {
       d["pre_tokenizer"] = {{"type", "Digits"}};
     }},
    {"ByteLevel must be the last",
     [](Json& d) {
       const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
       d["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {byte_level, byte_level}}};
     }},
    {"nested too deep",
     [](Json& d) {
       Json stage = d["pre_tokenizer"];
       for (int i = 0; i < 100; ++i)
         stage = {{"type", "Sequence"}, {"pretokenizers", Json::array({stage})}};
       d["pre_tokenizer"] = stage;
     }},
    {"decoder.type",
     [](Json& d) {
       d["decoder"] = {{"type", "CTC"}};
     }},
    {"decoder.decoders[0].type",
     [](Json& d) {
       d["decoder"] = {{"type", "Sequence"}, {"decoders", {{{"type", "WordPiece"}}}}};
     }},
    {"decoder.start",
     [](Json& d) {
       d["decoder"] = {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}};
     }},
    {"decoder.decoders[1].type: only Strip and Replace",
     [](Json& d) {
       d["decoder"] = {{"type", "Sequence"},
                       {"decoders", {{{"type", "Fuse"}}, {{"type", "ByteFallback"}}}}};
     }},
    {"decoder.decoders[1].type: a Replace behind a Fuse",
     [](Json& d) {
       const Json replace = {
           {"type", "Replace"}, {"pattern", {{"String", "ab"}}}, {"content", "c"}};
       d["decoder"] = {{"type", "Sequence"}, {"decoders", {{{"type", "Fuse"}}, replace}}};
     }},
    {"decoder.suffix",
     [](Json& d) {
       d["decoder"] = {{"type", "BPEDecoder"}, {"suffix", ""}};
     }},
    {"post_processor.type",
     [](Json& d) {
       d["post_processor"] = {{"type", "WordPiece"}};
     }},
    {"post_processor.cls",
     [](Json& d) {
       d["post_processor"] = {{"type", "BertProcessing"}};
     }},
    {"post_processor.single",
     [](Json& d) {
       d["post_processor"] = {{"type", "TemplateProcessing"}};
     }},
    {"sequence A once",
     [](Json& d) {
       d["post_processor"] = {{"type", "TemplateProcessing"}, {"single", Json::array()}};
     }},
    {"post_processor.special_tokens.x.ids",
     [](Json& d) {
       d["post_processor"] = {{"type", "TemplateProcessing"},
                              {"single", {{{"SpecialToken", {{"id", "x"}}}}}}};
     }},
    {"post_processor: id 4000",
     [](Json& d) {
       d["post_processor"] = {
           {"type", "TemplateProcessing"},
           {"single", {{{"SpecialToken", {{"id", "x"}}}}, {{"Sequence", {{"id", "A"}}}}}},
           {"special_tokens", {{"x", {{"ids", {4000}}}}}}};
     }},
    {"added_tokens", [](Json& d) { d["added_tokens"] = 7; }},
    {"added_tokens[0].id", [](Json& d) { d["added_tokens"][0].erase("id"); }},
    {"added_tokens[0].id", [](Json& d) { d["added_tokens"][0]["id"] = 99999; }},
    {"added_tokens[0].id", [](Json& d) { d["added_tokens"][0]["id"] = -3; }},
    {"added_tokens[0].content", [](Json& d) { d["added_tokens"][0]["content"] = ""; }},
    {"added_tokens[0].content", [](Json& d) { d["added_tokens"][0]["content"] = nullptr; }},
    {"added_tokens[0].special", [](Json& d) { d["added_tokens"][0]["special"] = 1; }},
    {"added_tokens[1].content", [](Json& d) { d["added_tokens"].push_back(d["added_tokens"][0]); }},
    {"added_tokens[1].id",
     [](Json& d) { d["added_tokens"].push_back(token(d["added_tokens"][0]["id"], "<x>")); }},
    {"added_tokens[1].id", [](Json& d) { d["added_tokens"].push_back(token(3, "a")); }},
    {"added_tokens[1]", [](Json& d) { d["added_tokens"].push_back(nullptr); }},
    {"looks like another",
     [](Json& d) {
       d["normalizer"] = {{"type", "NFC"}};
       const int id = d["added_tokens"][0]["id"].get<int>();
       d["added_tokens"].push_back(token(id + 1, "e\u0301"));
       d["added_tokens"].push_back(token(id + 2, "\u00e9\u00e9"));
       d["added_tokens"].push_back(token(id + 3, "e\u0301e\u0301"));
     }},
};

TEST(TokenizerFile, WhatCannotBeReproducedIsRefusedByName) {
  const Json good = golden::fixture("gpt2.json");
  ASSERT_TRUE(golden::load(good.dump()).ok());
  for (const Broken& broken : kBroken) {
    Json doc = good;
    broken.change(doc);
    EXPECT_THAT(refusal(doc.dump()), HasSubstr(broken.names));
  }
}

const Broken kBrokenCharacters[] = {
    {"model.unk_token: 'nobody'", [](Json& d) { d["model"]["unk_token"] = "nobody"; }},
    {"model.merges[0]: 'a' must begin with '##'",
     [](Json& d) {
       d["model"]["continuing_subword_prefix"] = "##";
       d["model"]["merges"] = {"b a"};
     }},
    {"model.end_of_word_suffix", [](Json& d) { d["model"]["end_of_word_suffix"] = 1; }},
};

const Broken kBrokenUnigram[] = {
    {"model.unk_id", [](Json& d) { d["model"].erase("unk_id"); }},
    {"model.unk_id: 99999", [](Json& d) { d["model"]["unk_id"] = 99999; }},
    {"model.vocab: must be an array", [](Json& d) { d["model"]["vocab"] = Json::object(); }},
    {"model.vocab[3]", [](Json& d) { d["model"]["vocab"][3] = "a"; }},
    {"model.vocab[3]",
     [](Json& d) {
       d["model"]["vocab"][3] = {"a", "b"};
     }},
    {"model.byte_fallback", [](Json& d) { d["model"]["byte_fallback"] = 7; }},
};

TEST(TokenizerFile, OtherModelsAreHeldToTheirRules) {
  for (const Broken& broken : kBrokenCharacters) {
    Json doc = golden::fixture("llama2.json");
    broken.change(doc);
    EXPECT_THAT(refusal(doc.dump()), HasSubstr(broken.names));
  }
  for (const Broken& broken : kBrokenUnigram) {
    Json doc = golden::fixture("unigram.json");
    broken.change(doc);
    EXPECT_THAT(refusal(doc.dump()), HasSubstr(broken.names));
  }
}

TEST(TokenizerFile, TextThatIsNotJsonIsRefused) {
  const std::string good = golden::read(golden::fixtures() / "gpt2.json");
  EXPECT_THAT(refusal(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("{\"model\": \"\xFF\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("{\"model\": \"\\ud800\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(std::string(1000000, '[')), HasSubstr("not valid JSON"));
  refusal(std::string(100000, '[') + std::string(100000, ']'));
  for (size_t cut = 0; cut < good.size(); cut += 997)
    EXPECT_THAT(refusal(good.substr(0, cut)), HasSubstr("not valid JSON"));
}

// Whatever one byte becomes, load answers; where it accepts, the tokenizer works.
TEST(TokenizerFile, NoSingleWrongByteCrashesIt) {
  Json small = golden::fixture("gpt2.json");
  small["model"]["merges"] = Json::array();
  Json vocabulary = Json::object();
  for (const auto& [content, id] : small["model"]["vocab"].items())
    if (id < 256) vocabulary[content] = id;
  small["model"]["vocab"] = vocabulary;
  small["added_tokens"][0]["id"] = 256;
  const std::string good = small.dump();
  ASSERT_TRUE(golden::load(good).ok());
  uint64_t state = 5;
  const auto below = [&](uint64_t n) { return (state = mix64(state)) % n; };
  int accepted = 0;
  for (int round = 0; round < 1500; ++round) {
    std::string text = good;
    text[below(text.size())] =
        static_cast<char>(below(2) ? "0159,:[]{}\"-\\"[below(13)] : below(256));
    const auto tokenizer = golden::load(text);
    if (!tokenizer.ok()) continue;
    ++accepted;
    EXPECT_GT((*tokenizer)->encode("Hello, <|endoftext|> 123", true).size(), 0u);
  }
  EXPECT_GT(accepted, 10);
  EXPECT_LT(accepted, 1490);
}

TEST(TokenizerFile, AMissingFileIsSaid) {
  const auto tokenizer = Tokenizer::load("/nonexistent-model");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(message_of(tokenizer.status())), HasSubstr("tokenizer.json"));
}

TEST(TokenizerFile, ABrokenConfigIsRefusedByName) {
  const golden::ModelDir dir(golden::read(golden::fixtures() / "gpt2.json"));
  const auto refused = [&](const std::string& config) {
    dir.write("tokenizer_config.json", config);
    const auto tokenizer = Tokenizer::load(dir.path());
    EXPECT_FALSE(tokenizer.ok()) << config;
    return tokenizer.ok() ? "" : std::string(message_of(tokenizer.status()));
  };
  EXPECT_THAT(refused("{"), HasSubstr("tokenizer_config.json: not valid JSON"));
  EXPECT_THAT(refused("[]"), HasSubstr("must be a JSON object"));
  EXPECT_THAT(refused(R"({"added_tokens_decoder": []})"), HasSubstr("added_tokens_decoder"));
  EXPECT_THAT(refused(R"({"added_tokens_decoder": {"x": {}}})"), HasSubstr("'x'"));
  EXPECT_THAT(refused(R"({"added_tokens_decoder": {"9999999": {}}})"), HasSubstr("9999999"));
  EXPECT_THAT(refused(R"({"added_tokens_decoder": {"7": {"content": 1}}})"),
              HasSubstr("added_tokens_decoder.7.content"));
  EXPECT_THAT(refused(R"({"added_tokens_decoder": {"7": {"content": "<|endoftext|>"}}})"),
              HasSubstr("another id"));
}

}  // namespace
}  // namespace sluice
