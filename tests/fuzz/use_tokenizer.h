#pragma once

#include <vector>

#include "tests/fuzz/files.h"
#include "text/detokenizer.h"
#include "text/self_test.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

// What targets of tokenizers share.
namespace sluice {

inline void use(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    std::vector<TokenId> ids = tokenizer.encode(text, special);
    for (const TokenId id : ids) CHECK(id >= 0 && id < tokenizer.vocab_size());
    ids.push_back(tokenizer.vocab_size());  // a model may have more rows than there are tokens
    const std::string back = decode(tokenizer, ids, special);
    CHECK(utf8_valid_prefix(back) == back.size());
  }
}

// Loads what is in a directory; whatever loads makes ids of any text, and text of any ids.
inline void use_tokenizer(const std::filesystem::path& dir, std::string_view text) {
  const auto loaded = Tokenizer::load(dir);
  if (!loaded.ok()) return check_line(loaded.status());
  const Tokenizer& tokenizer = **loaded;
  if (const absl::Status tested = self_test(tokenizer); !tested.ok()) check_line(tested);
  use(tokenizer, "");
  use(tokenizer, " Hello,  wo\u0301rld's 1234\n\n<s>\xFF\u2581\U0001F600</s> ");
  use(tokenizer, std::string(300, 'a'));
  use(tokenizer, text);
}

}  // namespace sluice
