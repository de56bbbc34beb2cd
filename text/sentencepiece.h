#pragma once

#include <string>
#include <string_view>

#include "text/tokenizer_json.h"

namespace sluice {

// A file's text, and what errors call it.
struct NamedText {
  std::string name, text;  // text: empty where there is no such file
};

// A model directory's tokenizer.model and what Hugging Face's tokenizers read beside it.
struct SentencePieceTexts {
  NamedText model;   // tokenizer.model
  NamedText config;  // tokenizer_config.json
  NamedText
      special_tokens;      // special_tokens_map.json, where the config has no added_tokens_decoder
  NamedText added_tokens;  // added_tokens.json, likewise
};

// Tokens are SentencePiece's own; special and added tokens are those of Hugging Face's
// LlamaTokenizer (and GemmaTokenizer) that is not `legacy`: a space is put in front of a text, not
// behind each of its special tokens. Control pieces written out in text are recognised, named in a
// config or not.
absl::StatusOr<TokenizerParts> parse_sentencepiece(const SentencePieceTexts& texts);

}  // namespace sluice
