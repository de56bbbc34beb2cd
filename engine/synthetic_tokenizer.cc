#include "engine/synthetic_tokenizer.h"

#include <vector>

#include "base/check.h"
#include "engine/json_util.h"

namespace sluice {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string utf8(int code_point) {  // below U+0800
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3f))};
}

// The printable character that stands for a byte in a byte-level vocabulary: itself where it is
// printable Latin-1, else the next one from U+0100.
std::vector<std::string> byte_symbols() {
  std::vector<std::string> symbols;
  int next = 0x100;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    symbols.push_back(utf8(printable ? b : next++));
  }
  return symbols;
}

constexpr const char* kPattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

constexpr const char* kTemplate =
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

OrderedJson byte_level() {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", false}};
}

OrderedJson template_processing(const SyntheticSpecials& specials) {
  const char* bos = SyntheticSpecials::kNames[0];
  const auto special = OrderedJson{{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const auto text = [](const char* id, int type) {
    return OrderedJson{{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  OrderedJson json = {{"type", "TemplateProcessing"}};
  json["single"] = OrderedJson::array({special, text("A", 0)});
  json["pair"] = OrderedJson::array({special, text("A", 0), text("B", 1)});
  json["special_tokens"][bos] = {{"id", bos},
                                 {"ids", OrderedJson::array({specials.bos()})},
                                 {"tokens", OrderedJson::array({bos})}};
  return json;
}

OrderedJson added_token(int index) {
  return {{"content", SyntheticSpecials::kNames[index]},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", true}};
}

}  // namespace

std::string synthetic_tokenizer_json(int vocab_size) {
  const SyntheticSpecials specials(vocab_size);
  CHECK(specials.first >= 256);
  std::vector<std::string> tokens = byte_symbols();
  std::string merges;
  const std::string space = tokens[' '];
  std::vector<std::string> stems = {space};
  const std::string letters = "etaoinshrdlucmfwygpbvkxqjz";
  for (const char c : letters) stems.emplace_back(1, c);
  // Breadth first: every token is one known token and one letter, so its two halves come before it.
  for (size_t i = 0; static_cast<int>(tokens.size()) < specials.first; ++i) {
    const std::string stem = stems[i];
    for (const char c : letters) {
      if (static_cast<int>(tokens.size()) == specials.first) break;
      stems.push_back(stem + c);
      tokens.push_back(stem + c);
      merges += fmt::format("{}\"{} {}\"", merges.empty() ? "" : ",\n", stem, c);
    }
  }
  std::string vocabulary;
  for (size_t id = 0; id < tokens.size(); ++id)
    vocabulary += fmt::format("{}{}: {}", id ? ",\n" : "", OrderedJson(tokens[id]).dump(), id);

  OrderedJson added = OrderedJson::array();
  for (int i = 0; i < SyntheticSpecials::kCount; ++i) {
    added.push_back({{"id", specials.first + i}});
    added.back().update(added_token(i));
  }
  OrderedJson split = {{"type", "Split"},
                       {"pattern", {{"Regex", kPattern}}},
                       {"behavior", "Isolated"},
                       {"invert", false}};
  OrderedJson pre = {{"type", "Sequence"}};
  pre["pretokenizers"] = OrderedJson::array({split, byte_level()});
  OrderedJson post = {{"type", "Sequence"}};
  post["processors"] = OrderedJson::array({byte_level(), template_processing(specials)});
  // The two long lists are written as text: an ordered object of 150,000 keys is quadratic.
  return fmt::format(
      "{{\n\"version\": \"1.0\",\n\"truncation\": null,\n\"padding\": null,\n\"added_tokens\": "
      "{},\n"
      "\"normalizer\": null,\n\"pre_tokenizer\": {},\n\"post_processor\": {},\n\"decoder\": {},\n"
      "\"model\": {{\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null,\n"
      "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false,\n"
      "\"byte_fallback\": false, \"ignore_merges\": false,\n\"vocab\": {{{}}},\n"
      "\"merges\": [{}]}}\n}}\n",
      added.dump(), pre.dump(), post.dump(), byte_level().dump(), vocabulary, merges);
}

std::string synthetic_tokenizer_config_json(int vocab_size, int max_len) {
  const SyntheticSpecials specials(vocab_size);
  OrderedJson json = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                      {"bos_token", SyntheticSpecials::kNames[0]},
                      {"eos_token", SyntheticSpecials::kNames[4]},
                      {"clean_up_tokenization_spaces", false},
                      {"model_max_length", max_len},
                      {"chat_template", kTemplate}};
  for (int i = 0; i < SyntheticSpecials::kCount; ++i)
    json["added_tokens_decoder"][std::to_string(specials.first + i)] = added_token(i);
  return json.dump(2) + "\n";
}

}  // namespace sluice
