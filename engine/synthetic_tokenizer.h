#pragma once

#include <string>

namespace sluice {

// Ids of the special tokens, the last of the vocabulary.
struct SyntheticSpecials {
  explicit SyntheticSpecials(int vocab_size) : first(vocab_size - kCount) {}
  static constexpr int kCount = 5;
  static constexpr const char* kNames[kCount] = {"<|begin_of_text|>", "<|end_of_text|>",
                                                 "<|start_header_id|>", "<|end_header_id|>",
                                                 "<|eot_id|>"};
  int first;
  int bos() const { return first; }
  int end_of_text() const { return first + 1; }
  int end_of_turn() const { return first + 4; }
};

// A byte-level BPE tokenizer.json of exactly this many tokens: the 256 bytes, words grown letter by
// letter in order of how common letters are in English (so English takes three to four characters
// a token), and the special tokens. Llama 3's pre-tokenizer.
std::string synthetic_tokenizer_json(int vocab_size);

// tokenizer_config.json with a chat template that gives every message a header and an end of turn.
std::string synthetic_tokenizer_config_json(int vocab_size, int max_len);

}  // namespace sluice
