#include "text/detokenizer.h"

#include <utility>

#include "text/utf8.h"

namespace sluice {

std::string Detokenizer::push(TokenId token) {
  if (skip_special_ && tokenizer_.is_special(token)) return {};
  held_ += tokenizer_.piece(token);
  // Only the last three bytes can be the beginning of a character that is not complete yet.
  size_t end = held_.size();
  for (size_t tail = 1; tail <= 3 && tail <= held_.size(); ++tail) {
    const size_t at = held_.size() - tail;
    if ((held_[at] & 0xC0) == 0x80) continue;  // a continuation byte: look for its lead
    if (utf8_step(held_, at).kind == Utf8Kind::cut_short &&
        utf8_step(held_, at).length == held_.size() - at)
      end = at;
    break;
  }
  std::string out;
  append_valid_utf8(out, std::string_view(held_).substr(0, end));
  held_.erase(0, end);
  return out;
}

std::string Detokenizer::flush() {
  std::string out;
  append_valid_utf8(out, std::exchange(held_, {}));
  return out;
}

}  // namespace sluice
