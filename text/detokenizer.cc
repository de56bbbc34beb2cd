#include "text/detokenizer.h"

#include <utility>

#include "text/utf8.h"

namespace sluice {
namespace {

// Length of the beginning of `text` that no further byte can change.
size_t certain_prefix(std::string_view text) {
  // Only the last three bytes can be the beginning of a character that is not complete yet.
  for (size_t tail = 1; tail <= 3 && tail <= text.size(); ++tail) {
    const size_t at = text.size() - tail;
    if ((text[at] & 0xC0) == 0x80) continue;  // a continuation byte: look for its lead
    const Utf8Step step = utf8_step(text, at);
    if (step.kind == Utf8Kind::cut_short && step.length == tail) return at;
    break;
  }
  return text.size();
}

// `text` with U+FFFD for each byte that is no part of a character.
std::string replaced_bytes(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t valid = utf8_valid_prefix(text);
    out += text.substr(0, valid);
    text.remove_prefix(valid);
    if (text.empty()) break;
    const size_t length = utf8_step(text, 0).length;
    for (size_t i = 0; i < length; ++i) out += kReplacement;
    text.remove_prefix(length);
  }
  return out;
}

}  // namespace

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special, Beginning beginning)
    : tokenizer_(tokenizer),
      decoder_(tokenizer.decoder()),
      skip_special_(skip_special),
      first_(beginning == Beginning::of_text),
      any_(beginning == Beginning::continues),
      to_strip_(first_ ? decoder_.ends().start : 0) {}

// Text that is certain but for what is stripped from both ends.
void Detokenizer::add(const std::string& text, std::string& out) {
  const Decoder::Ends& ends = decoder_.ends();
  if (ends.character.empty()) {
    out += text;
    return;
  }
  std::string_view rest = text;
  while (to_strip_ > 0 && !rest.empty()) {
    if (!rest.starts_with(ends.character)) {
      to_strip_ = 0;
    } else {
      rest.remove_prefix(ends.character.size());
      --to_strip_;
      if (ends.by_token && !rest.empty()) to_strip_ = 0;
    }
  }
  if (ends.stop == 0) {
    out += rest;
    return;
  }
  end_ += rest;
  size_t keep = 0, end = end_.size();
  while (keep < ends.stop && std::string_view(end_).substr(0, end).ends_with(ends.character)) {
    end -= ends.character.size();
    ++keep;
  }
  out.append(end_, 0, end);
  end_.erase(0, end);
}

// Of a run of tokens that are bytes: what is complete, or at its end what is left.
void Detokenizer::show_bytes(bool ended, std::string& out) {
  const size_t end = ended ? held_.size() : whole_runs_ ? 0 : certain_prefix(held_);
  if (end == 0) return;
  std::string text = replaced_bytes(std::string_view(held_).substr(0, end));
  if (whole_runs_ && text != held_) {
    text.clear();
    for (size_t i = 0; i < end; ++i) text += kReplacement;
  }
  held_.erase(0, end);
  if (decoder_.ends().by_token) to_strip_ = 0;
  add(decoder_.spell_bytes(text, first_), out);
}

void Detokenizer::end_run(std::string& out) {
  if (!std::exchange(in_run_, false)) return;
  show_bytes(true, out);
  first_ = false;
}

// A token that is not a byte.
void Detokenizer::add_token(TokenId token, bool last, std::string& out) {
  if (std::exchange(any_, true)) add(decoder_.between(), out);
  const bool own = (first_ && decoder_.first_differs()) || (last && decoder_.last_differs());
  add(own ? decoder_.spell(tokenizer_.content(token), first_, last)
          : std::string(tokenizer_.piece(token)),
      out);
  first_ = false;
}

std::string Detokenizer::push(TokenId token) {
  std::string out;
  if (skip_special_ && tokenizer_.is_special(token)) return out;
  if (decoder_.byte_level()) {
    held_ += tokenizer_.piece(token);
    const size_t end = certain_prefix(held_);
    std::string text;
    append_valid_utf8(text, std::string_view(held_).substr(0, end));
    held_.erase(0, end);
    add(text, out);
    return out;
  }
  if (tokenizer_.content(token).empty()) return out;  // no such token
  if (tokenizer_.is_byte(token)) {
    in_run_ = true;
    held_ += tokenizer_.piece(token);
    show_bytes(false, out);
    return out;
  }
  end_run(out);
  if (decoder_.last_differs()) std::swap(token, waiting_);
  if (token >= 0) add_token(token, false, out);
  return out;
}

std::string Detokenizer::flush() {
  std::string out;
  end_run(out);
  if (waiting_ >= 0) add_token(std::exchange(waiting_, -1), true, out);
  std::string text;
  append_valid_utf8(text, std::exchange(held_, {}));
  add(text, out);
  end_.clear();
  return out;
}

std::string decode(const Tokenizer& tokenizer, std::span<const TokenId> ids, bool skip_special) {
  Detokenizer detokenizer(tokenizer, skip_special);
  detokenizer.whole_runs_ = !tokenizer.decoder().bytes_apart();
  std::string text;
  for (const TokenId id : ids) text += detokenizer.push(id);
  return text + detokenizer.flush();
}

}  // namespace sluice
