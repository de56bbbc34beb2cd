#include "text/characters.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include "text/unicode_delta.h"
#include "text/utf8.h"

namespace sluice {

bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::string word_pattern() {
  return R"((?:(?![\u00b2\u00b3\u00b9\u00bc-\u00be])[\w\u200c\u200d]))";
}

std::string mark_pattern() {
  return fmt::format(R"((?:(?![{}])[\p{{M}}{}]))", kNotMarks, kMoreMarks);
}

std::string punctuation_pattern() {
  return fmt::format(R"((?:(?![{}])[!-/:-@\[-`{{-~\p{{P}}{}]))", kNotPunctuation, kMorePunctuation);
}

std::string number_pattern() { return fmt::format(R"([\p{{N}}{}])", kMoreNumbers); }

void append_lowercase(std::string& out, char32_t code) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code >= 'A' && code <= 'Z' ? code + 32 : code));
    return;
  }
  if (code == 0x130) {  // the one character whose lowercase is two
    out += "i\u0307";
    return;
  }
  for (const LowercaseRange& range : kNewLowercase)
    if (code >= range.first && code <= range.last) return append_utf8(out, code + range.shift);
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))));
}

size_t previous_character(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (text[at] & 0xC0) == 0x80) --at;
  return at;
}

size_t skip_white_space(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Step step = utf8_step(text, at);
    if (!is_white_space(step.code)) break;
    at += step.length;
  }
  return at;
}

size_t back_over_white_space(std::string_view text, size_t end, size_t floor) {
  while (end > floor) {
    const size_t at = previous_character(text, end);
    if (!is_white_space(utf8_step(text, at).code)) break;
    end = at;
  }
  return end;
}

}  // namespace sluice
