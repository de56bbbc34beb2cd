#include "text/decoder.h"

#include <algorithm>
#include <utility>

#include "text/byte_alphabet.h"

namespace sluice {
namespace {

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string replaced(std::string_view text, std::string_view what, std::string_view with) {
  std::string out;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what)) {
    out += text.substr(0, at);
    out += with;
    text.remove_prefix(at + what.size());
  }
  out += text;
  return out;
}

}  // namespace

void Decoder::add_replace(Regex regex, std::string content) {
  growth_ *= 1 + double(content.size());  // a match may be empty
  rules_.emplace_back(Replace{std::move(regex), std::move(content)});
}
void Decoder::add_strip(std::string character, size_t start, size_t stop) {
  rules_.emplace_back(Strip{std::move(character), start, stop});
}
void Decoder::add_metaspace(std::string mark, bool drop_first) {
  first_differs_ = first_differs_ || drop_first;
  rules_.emplace_back(Metaspace{std::move(mark), drop_first});
}
void Decoder::add_word_end(std::string suffix) {
  last_differs_ = true;
  rules_.emplace_back(WordEnd{std::move(suffix)});
}

std::string Decoder::rewrite(const Replace& rule, std::string_view text, Place) {
  Regex::Scratch scratch;
  Regex::Matches matches(rule.regex, text, scratch);
  std::string out;
  size_t done = 0;
  while (const auto match = matches.next()) {
    out.append(text, done, match->begin - done);
    out += rule.content;
    done = match->end;
  }
  out.append(text, done);
  return out;
}

std::string Decoder::rewrite(const Strip& rule, std::string_view text, Place) {
  for (size_t i = 0; i < rule.start && text.starts_with(rule.character); ++i)
    text.remove_prefix(rule.character.size());
  for (size_t i = 0; i < rule.stop && text.ends_with(rule.character); ++i)
    text.remove_suffix(rule.character.size());
  return std::string(text);
}

std::string Decoder::rewrite(const Metaspace& rule, std::string_view text, Place place) {
  return replaced(text, rule.mark, place.first && rule.drop_first ? "" : " ");
}

std::string Decoder::rewrite(const WordEnd& rule, std::string_view text, Place place) {
  return replaced(text, rule.suffix, place.last ? "" : " ");
}

std::string Decoder::rewrite(std::string_view text, size_t from, size_t to, Place place) const {
  std::string out(text);
  for (size_t i = from; i < to; ++i)
    out = std::visit([&](const auto& rule) { return rewrite(rule, out, place); }, rules_[i]);
  return out;
}

std::string Decoder::spell(std::string_view content, bool first, bool last) const {
  std::string out = rewrite(content, 0, rules_.size(), {first, last});
  if (std::string bytes; byte_level_ && undo_byte_alphabet(out, bytes)) return bytes;
  return out;
}

std::optional<char> Decoder::byte_of(std::string_view content) const {
  if (!bytes_at_) return std::nullopt;
  const std::string text = rewrite(content, 0, *bytes_at_, {});
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  const int high = hex_value(text[3]), low = hex_value(text[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high << 4 | low);
}

std::string Decoder::spell_bytes(std::string_view text, bool first) const {
  return rewrite(text, bytes_at_.value_or(0), rules_.size(), {first, false});
}

}  // namespace sluice
