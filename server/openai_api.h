#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"
#include "server/api_types.h"

// OpenAI-style JSON bodies into protocol-neutral requests. Types, names and unsupported values are
// checked here, ranges in Frontend::prepare. Bodies are hostile: depth is bounded, UTF-8 is
// checked.
namespace sluice {

inline constexpr int kMaxJsonDepth = 64;

MaybeError parse_completion(std::string_view body, ApiRequest* out);
MaybeError parse_chat(std::string_view body, ApiRequest* out);

// POST /tokenize: a completion request with one text prompt, or a chat request.
MaybeError parse_tokenize(std::string_view body, ApiRequest* out, bool* want_strings);
// POST /detokenize.
MaybeError parse_detokenize(std::string_view body, std::string* model, std::vector<TokenId>* ids);

// Checks a JSON array of chat messages (roles, content, parts) and rewrites it as templates expect
// it: text parts joined, developer as system, a call's arguments as an object.
MaybeError normalise_messages(std::string_view json, ApiRequest* out);
// Valid JSON with the keys of every object in order: for what comes from a map without one.
std::string sorted_json(std::string_view json);

}  // namespace sluice
