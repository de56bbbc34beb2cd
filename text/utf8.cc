#include "text/utf8.h"

#include <cstring>

namespace sluice {
namespace {

uint8_t byte_at(std::string_view text, size_t at) { return static_cast<uint8_t>(text[at]); }

}  // namespace

Utf8Step utf8_step(std::string_view text, size_t at) {
  const uint8_t lead = byte_at(text, at);
  if (lead < 0x80) return {Utf8Kind::character, 1, lead};
  // Bounds of the second byte: table 3-7 of the Unicode standard.
  uint8_t low = 0x80, high = 0xBF;
  int length;
  char32_t code;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
    code = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    code = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    code = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Utf8Kind::ill_formed, 1, 0};
  }
  for (int i = 1; i < length; ++i) {
    if (at + i >= text.size()) return {Utf8Kind::cut_short, static_cast<uint8_t>(i), 0};
    const uint8_t next = byte_at(text, at + i);
    if (next < low || next > high) return {Utf8Kind::ill_formed, static_cast<uint8_t>(i), 0};
    code = code << 6 | (next & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Kind::character, static_cast<uint8_t>(length), code};
}

size_t utf8_valid_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t word;
    while (at + sizeof(word) <= text.size()) {
      std::memcpy(&word, text.data() + at, sizeof(word));
      if (word & 0x8080808080808080ull) break;
      at += sizeof(word);
    }
    if (at >= text.size()) break;
    const Utf8Step step = utf8_step(text, at);
    if (step.kind != Utf8Kind::character) return at;
    at += step.length;
  }
  return at;
}

void append_valid_utf8(std::string& out, std::string_view text) {
  while (!text.empty()) {
    const size_t valid = utf8_valid_prefix(text);
    out += text.substr(0, valid);
    text.remove_prefix(valid);
    if (text.empty()) return;
    out += kReplacement;
    text.remove_prefix(utf8_step(text, 0).length);
  }
}

void append_utf8(std::string& out, char32_t code) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

}  // namespace sluice
