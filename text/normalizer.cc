#include "text/normalizer.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "text/characters.h"
#include "text/utf8.h"

namespace sluice {
namespace {

// Put for what was `match` bytes at `begin`: is the text's first character still its first?
bool keeps_front(std::string_view text, size_t begin, size_t match, const std::string& content) {
  if (begin > 0 || match == 0) return true;
  // The reference counts the replacement to the last character that was replaced.
  return !content.empty() && utf8_step(text, 0).length == match;
}

}  // namespace

void Normalizer::add_replace(std::string text, std::string content) {
  CHECK(!text.empty());
  growth_ *= std::max(1.0, double(content.size()) / double(text.size()));
  steps_.emplace_back(ReplaceText{std::move(text), std::move(content)});
}

void Normalizer::add_replace(Regex regex, std::string content) {
  growth_ *= 1 + double(content.size());  // a match may be empty
  steps_.emplace_back(ReplaceRegex{std::move(regex), std::move(content)});
}

bool Normalizer::step(NormalForm form, std::string_view text, std::string& out, bool&) {
  if (surely_normal(text, form)) return false;
  out = to_normal_form(text, form);
  return true;
}

bool Normalizer::step(Lowercase, std::string_view text, std::string& out, bool&) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    append_lowercase(out, step.code);
    at += step.length;
  }
  return true;
}

bool Normalizer::step(Strip strip, std::string_view text, std::string& out, bool& front) {
  const size_t begin = strip.left ? skip_white_space(text, 0) : 0;
  const size_t end = strip.right ? back_over_white_space(text, text.size(), begin) : text.size();
  if (begin == 0 && end == text.size()) return false;
  if (begin > 0) front = false;
  out = text.substr(begin, end - begin);
  return true;
}

bool Normalizer::step(const ReplaceText& rule, std::string_view text, std::string& out,
                      bool& front) {
  size_t done = 0, at = text.find(rule.text);
  if (at == text.npos) return false;
  out.reserve(text.size() + text.size() / 2);
  for (; at != text.npos; at = text.find(rule.text, done)) {
    if (!keeps_front(text, at, rule.text.size(), rule.content)) front = false;
    out.append(text, done, at - done);
    out += rule.content;
    done = at + rule.text.size();
  }
  out.append(text, done);
  return true;
}

bool Normalizer::step(const ReplaceRegex& rule, std::string_view text, std::string& out,
                      bool& front) {
  Regex::Scratch scratch;
  Regex::Matches matches(rule.regex, text, scratch);
  size_t done = 0;
  bool any = false;
  while (const auto match = matches.next()) {
    any = true;
    if (!keeps_front(text, match->begin, match->end - match->begin, rule.content)) front = false;
    out.append(text, done, match->begin - done);
    out += rule.content;
    done = match->end;
  }
  out.append(text, done);
  return any;
}

bool Normalizer::step(const Prepend& rule, std::string_view text, std::string& out, bool&) {
  if (text.empty()) return false;
  out.reserve(rule.text.size() + text.size());
  out += rule.text;
  out += text;
  return true;
}

bool Normalizer::step(const Charsmap& map, std::string_view text, std::string& out, bool&) {
  map.rewrite_graphemes(text, out);
  return true;
}

bool Normalizer::step(const SentencePieceNormalizer& rule, std::string_view text, std::string& out,
                      bool& front) {
  rule.apply(text, front, out);
  return true;
}

bool Normalizer::keeps_text() const {
  constexpr std::string_view kMark = "\u2581";
  return std::all_of(steps_.begin(), steps_.end(), [&](const auto& any) {
    if (const auto* form = std::get_if<NormalForm>(&any)) return *form == NormalForm::nfc;
    if (const auto* rule = std::get_if<SentencePieceNormalizer>(&any)) return rule->keeps_text();
    if (const auto* rule = std::get_if<Prepend>(&any)) return rule->text == kMark;
    const auto* rule = std::get_if<ReplaceText>(&any);
    return rule && rule->text == " " && rule->content == kMark;
  });
}

std::string_view Normalizer::apply(std::string_view text, std::string& buffer, bool* front) const {
  bool still_front = !front || *front;
  std::string next;
  for (const auto& any : steps_) {
    next.clear();
    const bool changed =
        std::visit([&](const auto& rule) { return step(rule, text, next, still_front); }, any);
    if (!changed) continue;
    std::swap(buffer, next);
    text = buffer;
  }
  if (front && !still_front) *front = false;
  return text;
}

}  // namespace sluice
