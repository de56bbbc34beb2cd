#pragma once

#include "base/status.h"
#include "text/tokenizer.h"

namespace sluice {

// Whether a tokenizer does what every tokenizer must, so that a file that was cut, mixed up or
// edited is found when it is loaded and not in a client's answer: every id is some token's, each
// special token is found in text as itself, and text comes back: all of it where the tokenizer is
// lossless, elsewhere the letters of plain words. The error is one line.
absl::Status self_test(const Tokenizer& tokenizer);

// Whether a model with so many embeddings has one for every token.
absl::Status check_vocabulary(const Tokenizer& tokenizer, int model_vocab_size);

}  // namespace sluice
