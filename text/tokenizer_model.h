#pragma once

#include <absl/functional/function_ref.h>

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "text/bpe.h"
#include "text/unigram.h"

namespace sluice {

struct At;  // text/json_reader.h

// What turns pieces of text into tokens.
using TextModel = std::variant<Bpe, Unigram>;

// The "model" of a tokenizer.json. `byte_level`: entries are written in the byte alphabet. Errors
// name the key.
absl::StatusOr<TextModel> read_text_model(const At& model, bool byte_level);

std::optional<TokenId> find_token(const TextModel& model, std::string_view content);
size_t num_entries(const TextModel& model);
// Content and id of each.
void for_each_entry(const TextModel& model,
                    absl::FunctionRef<void(const std::string&, TokenId)> visit);

}  // namespace sluice
