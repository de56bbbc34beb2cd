#include "text/added_tokens.h"

#include <utility>

#include "base/check.h"
#include "text/characters.h"
#include "text/utf8.h"

namespace sluice {
namespace {

uint64_t edge(int32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

}  // namespace

bool AddedTokenMatcher::add(std::string_view pattern, const AddedToken& token) {
  CHECK(!pattern.empty());
  int32_t node = 0;
  for (const char byte : pattern) {
    const auto [next, is_new] = edges_.emplace(edge(node, byte), nodes_.size());
    node = next->second;
    if (is_new) nodes_.emplace_back();
  }
  if (nodes_[node].token >= 0) return false;
  nodes_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  begins_[static_cast<uint8_t>(pattern[0])] = true;
  if (token.single_word && !word_) {
    absl::StatusOr<Regex> word = Regex::compile("\\A" + word_pattern());
    CHECK(word.ok());
    word_ = *std::move(word);
  }
  return true;
}

const AddedToken* AddedTokenMatcher::match(std::string_view text, size_t& length) const {
  int32_t node = 0, token = -1;
  for (size_t at = 0; at < text.size(); ++at) {
    const auto next = edges_.find(edge(node, text[at]));
    if (next == edges_.end()) break;
    node = next->second;
    if (nodes_[node].token < 0) continue;
    token = nodes_[node].token;
    length = at + 1;
  }
  return token < 0 ? nullptr : &tokens_[token];
}

size_t AddedTokenMatcher::prefix(std::string_view text) const {
  size_t length = 0;
  if (!text.empty() && has_beginning(text[0])) match(text, length);
  return length;
}

bool AddedTokenMatcher::find(std::string_view text, size_t from, Found& found) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!has_beginning(text[begin])) continue;
    size_t length = 0;
    const AddedToken* token = match(text.substr(begin), length);
    if (!token) continue;
    found = {begin, begin + length, token};
    return true;
  }
  return false;
}

bool AddedTokenMatcher::stands_alone(std::string_view text, const Found& found,
                                     Regex::Scratch& scratch) const {
  const auto is_word = [&](size_t at) {
    const std::string_view character = text.substr(at, utf8_step(text, at).length);
    return Regex::Matches(*word_, character, scratch).next().has_value();
  };
  return (found.begin == 0 || !is_word(previous_character(text, found.begin))) &&
         (found.end == text.size() || !is_word(found.end));
}

void AddedTokenMatcher::split(std::string_view text, Regex::Scratch& scratch, EmitText emit_text,
                              EmitToken emit_token) const {
  size_t done = 0;
  Found found;
  for (size_t from = 0; !tokens_.empty() && find(text, from, found); from = found.end) {
    const AddedToken& token = *found.token;
    if (token.single_word && !stands_alone(text, found, scratch)) continue;
    // White space that an earlier token took along is not there any more.
    const size_t begin =
        token.lstrip ? back_over_white_space(text, found.begin, done) : found.begin;
    const size_t end = token.rstrip ? skip_white_space(text, found.end) : found.end;
    if (done < begin) emit_text(text.substr(done, begin - done));
    emit_token(token.id);
    done = end;
  }
  if (done < text.size()) emit_text(text.substr(done));
}

}  // namespace sluice
