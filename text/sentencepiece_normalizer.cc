#include "text/sentencepiece_normalizer.h"

#include <utility>

#include "text/utf8.h"

namespace sluice {
namespace {

constexpr std::string_view kMark = "\u2581";

}  // namespace

SentencePieceNormalizer::SentencePieceNormalizer(Rules rules, AddedTokenMatcher symbols)
    : rules_(std::move(rules)), symbols_(std::move(symbols)) {
  for (int code = 0; code < 128; ++code) {
    const char byte = static_cast<char>(code);
    plain_[code] = byte != ' ' && !symbols_.has_beginning(byte) &&
                   !(rules_.map && rules_.map->has_beginning(byte));
  }
}

std::string_view SentencePieceNormalizer::next(std::string_view text, size_t& length) const {
  length = symbols_.prefix(text);
  if (length > 0) return text.substr(0, length);
  if (rules_.map)
    if (const auto entry = rules_.map->longest(text)) {
      length = entry->length;
      return entry->replacement;
    }
  length = utf8_step(text, 0).length;
  return text.substr(0, length);
}

void SentencePieceNormalizer::apply(std::string_view text, bool beginning, std::string& out) const {
  size_t length = 0;
  while (rules_.squeeze && !text.empty() && next(text, length) == " ") text.remove_prefix(length);
  if (text.empty()) return;
  out.reserve(text.size() + text.size() / 2 + kMark.size());
  const std::string_view space = rules_.mark ? kMark : " ";
  if (rules_.prefix == Prefix::always || (beginning && rules_.prefix == Prefix::at_beginning))
    out += space;
  bool behind_space = rules_.squeeze;
  while (!text.empty()) {
    size_t plain = 0;
    while (plain < text.size() && plain_[static_cast<uint8_t>(text[plain])]) ++plain;
    if (plain > 0) {
      out += text.substr(0, plain);
      text.remove_prefix(plain);
      behind_space = false;
      continue;
    }
    std::string_view part = next(text, length);
    while (behind_space && part.starts_with(' ')) part.remove_prefix(1);
    for (const char c : part)
      if (c == ' ')
        out += space;
      else
        out.push_back(c);
    if (!part.empty()) behind_space = rules_.squeeze && part.ends_with(' ');
    text.remove_prefix(length);
  }
  while (rules_.squeeze && out.ends_with(space)) out.resize(out.size() - space.size());
}

}  // namespace sluice
