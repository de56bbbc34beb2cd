#pragma once

#include "text/tokenizer_json.h"

// The stages of a tokenizer.json, each from its part of the file. Errors name the key; what is not
// known to be reproduced exactly is refused. A missing stage (null) does nothing.
namespace sluice {

struct At;  // text/json_reader.h

absl::Status read_normalizer(const At& at, Normalizer& normalizer);

// Sets `byte_level` when there is a ByteLevel stage.
absl::Status read_pretokenizer(const At& at, PreTokenizer& out, bool& byte_level);

// The template's ids: what comes before and behind a text.
absl::Status read_postprocessor(const At& at, TokenizerParts& parts);

// `byte_level`: the vocabulary is written in the byte alphabet.
absl::Status read_decoder(const At& at, bool byte_level, Decoder& out);

}  // namespace sluice
