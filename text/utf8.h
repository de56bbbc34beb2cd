#pragma once

#include <cstdint>
#include <string>
#include <string_view>

// UTF-8, one character at a time. Ill-formed bytes are grouped as Unicode recommends (a maximal
// subpart is one U+FFFD), which is also what Python's errors="replace" does.
namespace sluice {

enum class Utf8Kind : uint8_t {
  character,
  ill_formed,  // these bytes can never become a character
  cut_short,   // the text ends inside what may become a character
};

struct Utf8Step {
  Utf8Kind kind;
  uint8_t length;  // bytes, at least 1
  char32_t code;   // when kind is character
};

// `at` < text.size().
Utf8Step utf8_step(std::string_view text, size_t at);

// Length of the well-formed beginning of `text`.
size_t utf8_valid_prefix(std::string_view text);

// Appends `text`, with U+FFFD where it is ill-formed.
void append_valid_utf8(std::string& out, std::string_view text);

void append_utf8(std::string& out, char32_t code);

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace sluice
