// tokenizer_config.json and, behind a zero byte, tokenizer.model: whatever loads makes ids of any
// text, and text of any ids.
#include "tests/fuzz/use_tokenizer.h"

namespace sluice {

void fuzz_one(std::string_view input) {
  static const FuzzDir dir;
  const TwoFiles files(input);
  dir.put("tokenizer_config.json", files.first);
  dir.put("tokenizer.model", files.second);
  use_tokenizer(dir.path(), files.second.substr(files.second.size() / 2, 200));
}

}  // namespace sluice
