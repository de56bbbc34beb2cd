#include "text/self_test.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/text.h"
#include "text/detokenizer.h"
#include "text/utf8.h"

namespace sluice {
namespace {

constexpr std::string_view kWords = "the quick brown fox jumps over a lazy dog";

// Characters of every length and lead byte, that NFC leaves alone.
std::string all_kinds() {
  std::string out(kWords);
  for (char32_t code = 0x21; code < 0x7F; ++code) append_utf8(out, code);
  for (char32_t code = 0xBF; code < 0x800; code += 0x40) append_utf8(out, code);
  for (char32_t code = 0x1000; code < 0xD000; code += 0x1000) append_utf8(out, code + 0x105);
  for (char32_t code = 0x10000; code < 0x110000; code += 0x10000) append_utf8(out, code + 0xFFFD);
  return out;
}

// Letters only, small ones.
std::string letters(std::string_view text) {
  std::string out;
  for (const char c : text)
    if ((c | 32) >= 'a' && (c | 32) <= 'z') out.push_back(static_cast<char>(c | 32));
  return out;
}

absl::Status comes_back(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<TokenId> ids = tokenizer.encode(text, false);
  for (const TokenId id : ids)
    if (id < 0 || id >= tokenizer.vocab_size() || tokenizer.content(id).empty())
      return invalid_argument("self-test: a text has id {}, which is no token's", id);
  std::string back = decode(tokenizer, ids, false);
  // Some vocabularies begin a text with a space, and some decoders leave it there.
  if (back.starts_with(' ')) back.erase(0, 1);
  if (tokenizer.lossless() ? back == text : letters(back) == letters(text)) return absl::OkStatus();
  const auto differ = std::mismatch(text.begin(), text.end(), back.begin(), back.end());
  const size_t at = differ.first - text.begin();
  return invalid_argument("self-test: text does not come back: from byte {} on '{}' is '{}'", at,
                          text.substr(at, 12),
                          std::string_view(back).substr(std::min(at, back.size()), 12));
}

absl::Status test(const Tokenizer& tokenizer) {
  absl::Status status = comes_back(tokenizer, kWords);
  if (status.ok() && tokenizer.lossless()) status = comes_back(tokenizer, all_kinds());
  if (!status.ok()) return status;
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_special(id)) continue;
    const std::string content(tokenizer.content(id));
    if (content.empty()) continue;  // no text can ask for it
    const std::vector<TokenId> ids = tokenizer.encode(content, false);
    if (ids.size() != 1 || tokenizer.content(ids[0]) != content)
      return invalid_argument("self-test: special token '{}' is {} tokens when it is read", content,
                              ids.size());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status self_test(const Tokenizer& tokenizer) { return one_line(test(tokenizer)); }

absl::Status check_vocabulary(const Tokenizer& tokenizer, int model_vocab_size) {
  if (tokenizer.vocab_size() <= model_vocab_size) return absl::OkStatus();
  return invalid_argument("{} has {} tokens, config.json says vocab_size {}", tokenizer.file(),
                          tokenizer.vocab_size(), model_vocab_size);
}

}  // namespace sluice
