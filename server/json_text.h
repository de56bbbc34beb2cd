#pragma once

#include <cstdint>
#include <string>
#include <string_view>

// Appending JSON by hand: one response chunk per token is built this way, without a document.
namespace sluice {

// `text` quoted and escaped. It must be valid UTF-8: what the detokeniser emits is.
void append_json_string(std::string& out, std::string_view text);
// Of unknown origin: bytes that are not UTF-8 become U+FFFD.
void append_json_lossy(std::string& out, std::string_view bytes);
void append_int(std::string& out, int64_t value);
// A log-probability: finite, at least -9999.0 (JSON has no infinity).
void append_logprob(std::string& out, float value);

bool is_utf8(std::string_view bytes);
std::string to_utf8(std::string_view bytes);  // invalid bytes become U+FFFD
int count_chars(std::string_view bytes);      // bytes that begin a character

}  // namespace sluice
