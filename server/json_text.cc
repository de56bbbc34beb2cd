#include "server/json_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "text/utf8.h"

namespace sluice {
namespace {

constexpr std::array<char, 256> make_escapes() {
  std::array<char, 256> table{};
  for (int i = 0; i < 0x20; ++i) table[i] = 'u';
  table['\n'] = 'n';
  table['\r'] = 'r';
  table['\t'] = 't';
  table['\b'] = 'b';
  table['\f'] = 'f';
  table['"'] = '"';
  table['\\'] = '\\';
  table[0x7f] = 'u';
  return table;
}
constexpr std::array<char, 256> kEscapes = make_escapes();

}  // namespace

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const char escape = kEscapes[c];
    if (escape == 0) continue;
    out.append(text, begin, i - begin);
    begin = i + 1;
    out += '\\';
    out += escape;
    if (escape == 'u') {
      constexpr char kHex[] = "0123456789abcdef";
      out += "00";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    }
  }
  out.append(text, begin, text.size() - begin);
  out += '"';
}

void append_json_lossy(std::string& out, std::string_view bytes) {
  if (is_utf8(bytes)) {
    append_json_string(out, bytes);
  } else {
    append_json_string(out, to_utf8(bytes));
  }
}

void append_int(std::string& out, int64_t value) {
  const fmt::format_int text(value);
  out.append(text.data(), text.size());
}

void append_logprob(std::string& out, float value) {
  if (!(value > -9999.0f)) {  // also NaN
    out += "-9999.0";
    return;
  }
  fmt::format_to(std::back_inserter(out), "{}", std::min(value, 0.0f) + 0.0f);
}

bool is_utf8(std::string_view bytes) { return utf8_valid_prefix(bytes) == bytes.size(); }

std::string to_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  append_valid_utf8(out, bytes);
  return out;
}

int count_chars(std::string_view bytes) {
  int count = 0;
  for (const char c : bytes) count += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return count;
}

}  // namespace sluice
