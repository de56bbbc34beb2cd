// Tokenizes for scripts (compare_published.py): tokenize_lines MODEL_DIR. A line of stdin is
// {"text": TEXT, "ids": [further ids to decode]}, its line of stdout {"plain": [ids of the text],
// "special": [the same with special tokens added], "decoded": [of plain and of ids, each without
// and with special tokens]}.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

Json tokenize(const Tokenizer& tokenizer, const Json& request) {
  const auto text = request["text"].get<std::string>();
  const std::vector<TokenId> plain = tokenizer.encode(text, false);
  Json decoded = Json::array();
  for (const auto& ids : {plain, request["ids"].get<std::vector<TokenId>>()})
    for (const bool skip : {true, false}) decoded.push_back(decode(tokenizer, ids, skip));
  return {{"plain", plain}, {"special", tokenizer.encode(text, true)}, {"decoded", decoded}};
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto tokenizer = sluice::Tokenizer::load(argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", std::string(sluice::message_of(tokenizer.status())).c_str());
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);)
    std::cout << sluice::tokenize(**tokenizer, sluice::Json::parse(line)).dump() << std::endl;
}
