#include "text/charsmap.h"

#include <utf8proc.h>

#include <cstring>

#include "text/utf8.h"

namespace sluice {
namespace {

// Longer graphemes are looked up by character only.
constexpr size_t kMaxGrapheme = 5;

uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
uint32_t label_of(uint32_t unit) { return unit & ((1u << 31) | 0xFF); }
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t value_of(uint32_t unit) { return unit & ((1u << 31) - 1); }

}  // namespace

absl::StatusOr<Charsmap> Charsmap::parse(std::string_view blob) {
  uint32_t size = 0;
  if (blob.size() < sizeof(size))
    return invalid_argument("a character map of {} bytes is too short", blob.size());
  std::memcpy(&size, blob.data(), sizeof(size));
  blob.remove_prefix(sizeof(size));
  if (size == 0 || size % sizeof(uint32_t) != 0 || size > blob.size())
    return invalid_argument("a character map whose trie has {} bytes of {}", size, blob.size());
  Charsmap map;
  map.units_.resize(size / sizeof(uint32_t));
  std::memcpy(map.units_.data(), blob.data(), size);
  map.replacements_ = blob.substr(size);
  if (map.replacements_.empty() || map.replacements_.back() != '\0')
    return invalid_argument("a character map whose replacements do not end with a zero byte");
  if (utf8_valid_prefix(map.replacements_) != map.replacements_.size())
    return invalid_argument("a character map with a replacement that is not UTF-8");
  for (size_t code = 0; code < map.plain_.size(); ++code) {
    const char character = static_cast<char>(code);
    map.plain_[code] = !map.find({&character, 1}, false);
  }
  return map;
}

bool Charsmap::has_beginning(char byte) const {
  const auto label = static_cast<uint8_t>(byte);
  const size_t node = offset_of(units_[0]) ^ label;
  return label != 0 && node < units_.size() && label_of(units_[node]) == label;
}

std::optional<Charsmap::Entry> Charsmap::find(std::string_view text, bool longest) const {
  std::optional<Entry> found;
  size_t node = offset_of(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    if (byte == 0) break;
    node ^= byte;
    // A file may say anything; the reference would stop the program here.
    if (node >= units_.size() || label_of(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= offset_of(unit);
    if (!has_leaf(unit)) continue;
    if (node >= units_.size()) break;
    const size_t value = value_of(units_[node]);
    if (value >= replacements_.size() || (replacements_[value] & 0xC0) == 0x80) break;
    found = Entry{i + 1, std::string_view(replacements_.c_str() + value)};
    if (!longest) break;
  }
  return found;
}

void Charsmap::rewrite_grapheme(std::string_view grapheme, std::string& out) const {
  if (grapheme.size() <= kMaxGrapheme) {
    if (const auto entry = find(grapheme, false)) {
      out += entry->replacement;
      return;
    }
  }
  for (size_t at = 0; at < grapheme.size();) {
    const std::string_view character = grapheme.substr(at, utf8_step(grapheme, at).length);
    const auto entry = find(character, false);
    out += entry ? entry->replacement : character;
    at += character.size();
  }
}

void Charsmap::rewrite_graphemes(std::string_view text, std::string& out) const {
  out.reserve(text.size() + 16);
  const auto ascii = [&](size_t at) { return at >= text.size() || (text[at] & 0x80) == 0; };
  for (size_t at = 0; at < text.size();) {
    // Most of most texts: between two ASCII characters a grapheme ends, but for CR and LF.
    if (ascii(at) && ascii(at + 1) && plain_[static_cast<uint8_t>(text[at])] && text[at] != '\r') {
      out.push_back(text[at++]);
      continue;
    }
    Utf8Step step = utf8_step(text, at);
    size_t end = at + step.length;
    utf8proc_int32_t state = 0;
    while (end < text.size()) {
      const Utf8Step next = utf8_step(text, end);
      if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(step.code),
                                           static_cast<utf8proc_int32_t>(next.code), &state))
        break;
      end += next.length;
      step = next;
    }
    rewrite_grapheme(text.substr(at, end - at), out);
    at = end;
  }
}

}  // namespace sluice
