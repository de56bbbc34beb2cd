#include "text/jinja/utf8.h"

#include <string.h>
#include <utf8proc.h>

#include <algorithm>

namespace sluice::jinja::utf8 {
namespace {

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

// The characters whose upper case is several: what utf8proc's one-to-one mapping leaves out.
const char* special_upper(char32_t c) {
  switch (c) {
    case 0xDF:
      return "SS";
    case 0x149:
      return "\u02BCN";
    case 0x1F0:
      return "J\u030C";
    case 0x390:
      return "\u0399\u0308\u0301";
    case 0x3B0:
      return "\u03A5\u0308\u0301";
    case 0x587:
      return "\u0535\u0552";
    case 0xFB00:
      return "FF";
    case 0xFB01:
      return "FI";
    case 0xFB02:
      return "FL";
    case 0xFB03:
      return "FFI";
    case 0xFB04:
      return "FFL";
    case 0xFB05:
    case 0xFB06:
      return "ST";
    default:
      return nullptr;
  }
}

void append_upper(std::string& out, char32_t c) {
  if (const char* special = special_upper(c)) {
    out += special;
  } else {
    append(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

void append_title(std::string& out, char32_t c) {
  if (const char* special = special_upper(c)) {
    const std::string_view upper_case = special;
    size_t pos = 0;
    append(out, next(upper_case, pos));
    out += lower(upper_case.substr(pos));
  } else {
    append(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
  }
}

bool is_cased(char32_t c) {
  return is_upper(c) || is_lower(c) || category(c) == UTF8PROC_CATEGORY_LT;
}

// Apostrophes, marks and the like do not end a word for the final-sigma rule.
bool is_case_ignorable(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2019 || c == 0x2018;
  }
}

bool is_final_sigma(const std::u32string& text, size_t at) {
  size_t i = at;
  while (i > 0 && is_case_ignorable(text[i - 1])) --i;
  if (i == 0 || !is_cased(text[i - 1])) return false;
  size_t j = at + 1;
  while (j < text.size() && is_case_ignorable(text[j])) ++j;
  return j == text.size() || !is_cased(text[j]);
}

void append_lower(std::string& out, const std::u32string& text, size_t at) {
  const char32_t c = text[at];
  if (c == 0x3A3) {
    append(out, is_final_sigma(text, at) ? 0x3C2 : 0x3C3);
  } else if (c == 0x130) {
    out += "i\u0307";
  } else {
    append(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

}  // namespace

bool valid(std::string_view s) {
  const auto* data = reinterpret_cast<const utf8proc_uint8_t*>(s.data());
  for (size_t pos = 0; pos < s.size();) {
    if (static_cast<unsigned char>(s[pos]) < 0x80) {
      ++pos;
      continue;
    }
    utf8proc_int32_t c;
    const auto used =
        utf8proc_iterate(data + pos, static_cast<utf8proc_ssize_t>(s.size() - pos), &c);
    if (used <= 0) return false;
    pos += static_cast<size_t>(used);
  }
  return true;
}

size_t length(std::string_view s) {
  return static_cast<size_t>(
      std::count_if(s.begin(), s.end(), [](char c) { return !is_continuation(c); }));
}

size_t offset(std::string_view s, size_t index) {
  size_t pos = 0;
  for (; pos < s.size(); ++pos)
    if (!is_continuation(s[pos]) && index-- == 0) return pos;
  return pos;
}

char32_t next(std::string_view s, size_t& pos) {
  const auto first = static_cast<unsigned char>(s[pos++]);
  if (first < 0x80) return first;
  const int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
  char32_t c = first & (0x3F >> more);
  for (int i = 0; i < more && pos < s.size(); ++i)
    c = c << 6 | (static_cast<unsigned char>(s[pos++]) & 0x3F);
  return c;
}

size_t previous(std::string_view s, size_t pos) {
  --pos;
  while (pos > 0 && is_continuation(s[pos])) --pos;
  return pos;
}

void append(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

std::u32string decode(std::string_view s) {
  std::u32string out;
  out.reserve(s.size());
  for (size_t pos = 0; pos < s.size();) out += next(s, pos);
  return out;
}

std::string encode(std::u32string_view s) {
  std::string out;
  out.reserve(s.size());
  for (char32_t c : s) append(out, c);
  return out;
}

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_line_break(char32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

bool is_alpha(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
bool is_decimal(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_digit(char32_t c) {
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
         (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
         (c >= 0x2460 && c <= 0x2468);
}
bool is_numeric(char32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}
bool is_word(char32_t c) { return c == '_' || is_alpha(c) || is_numeric(c); }
bool is_upper(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU; }
bool is_lower(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA; }

bool is_printable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  const auto k = category(c);
  return !(k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CS ||
           k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_CN || k == UTF8PROC_CATEGORY_ZL ||
           k == UTF8PROC_CATEGORY_ZP || k == UTF8PROC_CATEGORY_ZS);
}

std::string upper(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (size_t pos = 0; pos < s.size();) append_upper(out, next(s, pos));
  return out;
}

std::string lower(std::string_view s) {
  const std::u32string text = decode(s);
  std::string out;
  out.reserve(s.size());
  for (size_t i = 0; i < text.size(); ++i) append_lower(out, text, i);
  return out;
}

std::string casefold(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (size_t pos = 0; pos < s.size();) {
    const auto c = static_cast<utf8proc_int32_t>(next(s, pos));
    utf8proc_int32_t folded[8];
    const auto count =
        utf8proc_decompose_char(c, folded, std::size(folded), UTF8PROC_CASEFOLD, nullptr);
    for (utf8proc_ssize_t i = 0; i < count; ++i) append(out, static_cast<char32_t>(folded[i]));
  }
  return out;
}

std::string title(std::string_view s) {
  const std::u32string text = decode(s);
  std::string out;
  out.reserve(s.size());
  bool in_word = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_word) {
      append_lower(out, text, i);
    } else {
      append_title(out, text[i]);
    }
    in_word = is_cased(text[i]);
  }
  return out;
}

std::string capitalize(std::string_view s) {
  const std::u32string text = decode(s);
  std::string out;
  out.reserve(s.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (i == 0) {
      append_title(out, text[i]);
    } else {
      append_lower(out, text, i);
    }
  }
  return out;
}

std::string swapcase(std::string_view s) {
  const std::u32string text = decode(s);
  std::string out;
  out.reserve(s.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (is_upper(text[i])) {
      append_lower(out, text, i);
    } else if (is_lower(text[i])) {
      append_upper(out, text[i]);
    } else {
      append(out, text[i]);
    }
  }
  return out;
}

size_t find(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  // memmem, because std::string_view::find is quadratic on texts made for it.
  const void* hit = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  if (hit == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(hit) - text.data());
}

size_t rfind(std::string_view text, std::string_view needle) {
  const std::string reversed_text(text.rbegin(), text.rend());
  const std::string reversed_needle(needle.rbegin(), needle.rend());
  const size_t at = find(reversed_text, reversed_needle);
  if (at == std::string_view::npos) return at;
  return text.size() - at - needle.size();
}

std::string_view strip(std::string_view s, bool left, bool right) {
  size_t begin = 0;
  size_t end = s.size();
  while (left && begin < end) {
    size_t pos = begin;
    if (!is_space(next(s, pos))) break;
    begin = pos;
  }
  while (right && end > begin) {
    const size_t start = previous(s, end);
    size_t pos = start;
    if (!is_space(next(s, pos))) break;
    end = start;
  }
  return s.substr(begin, end - begin);
}

}  // namespace sluice::jinja::utf8
