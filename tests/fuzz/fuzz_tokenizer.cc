// tokenizer.json and, behind a zero byte, tokenizer_config.json: whatever loads makes ids of any
// text, and text of any ids.
#include "tests/fuzz/use_tokenizer.h"

namespace sluice {

void fuzz_one(std::string_view input) {
  static const FuzzDir dir;
  const TwoFiles files(input);
  dir.put("tokenizer.json", files.first);
  dir.put("tokenizer_config.json", files.second.empty() ? "{}" : files.second);
  use_tokenizer(dir.path(), files.first.substr(files.first.size() / 2, 200));
}

}  // namespace sluice
