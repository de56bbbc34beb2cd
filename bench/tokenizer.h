#pragma once

#include <string>

namespace sluice {

struct BenchTokenizerOptions {
  std::string model_dir;
  std::string file;       // text to encode; empty: made-up English, and worse
  double seconds = 1;     // per line
  std::string json_path;  // also write the results here
};

// How fast a model's tokenizer makes ids of text and text of ids, in megabytes of UTF-8 a second on
// one core: of `file`, or of several kinds of text, a line of one letter among them, which a
// careless tokenizer takes quadratic time for. A table on stdout. 0, or 1 with an error on stderr.
int bench_tokenizer(const BenchTokenizerOptions& options);

}  // namespace sluice
