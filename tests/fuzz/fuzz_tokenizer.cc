// tokenizer.json and, behind a zero byte, tokenizer_config.json: whatever loads makes ids of any
// text, and text of any ids.
#include <vector>

#include "tests/fuzz/files.h"
#include "text/detokenizer.h"
#include "text/self_test.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace sluice {
namespace {

void use(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    std::vector<TokenId> ids = tokenizer.encode(text, special);
    for (const TokenId id : ids) CHECK(id >= 0 && id < tokenizer.vocab_size());
    ids.push_back(tokenizer.vocab_size());  // a model may have more rows than there are tokens
    const std::string back = decode(tokenizer, ids, special);
    CHECK(utf8_valid_prefix(back) == back.size());
  }
}

}  // namespace

void fuzz_one(std::string_view input) {
  static const FuzzDir dir;
  const TwoFiles files(input);
  dir.put("tokenizer.json", files.first);
  dir.put("tokenizer_config.json", files.second.empty() ? "{}" : files.second);
  const auto loaded = Tokenizer::load(dir.path());
  if (!loaded.ok()) return check_line(loaded.status());
  const Tokenizer& tokenizer = **loaded;
  if (const absl::Status tested = self_test(tokenizer); !tested.ok()) check_line(tested);
  use(tokenizer, "");
  use(tokenizer, " Hello,  wo\u0301rld's 1234\n\n<s>\xFF\u2581\U0001F600</s> ");
  use(tokenizer, std::string(300, 'a'));
  use(tokenizer, files.first.substr(files.first.size() / 2, 200));
}

}  // namespace sluice
