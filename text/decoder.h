#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/regex.h"

namespace sluice {

// How the contents of tokens become text: a decoder of tokenizer.json, taken apart so that a stream
// can follow it token by token. Immutable, thread-safe.
//
// What happens, in this order: rules rewrite each token on its own; then tokens that are written
// "<0x..>" are bytes, and what stands together is UTF-8; then more rules; then all is put together;
// then both ends of the whole text are stripped.
class Decoder {
 public:
  void add_replace(Regex regex, std::string content);
  void add_strip(std::string character, size_t start, size_t stop);
  // `mark` becomes a space; in the first token it is dropped, if `drop_first`.
  void add_metaspace(std::string mark, bool drop_first);
  // `suffix` becomes a space, in the last token nothing.
  void add_word_end(std::string suffix);
  void add_byte_fallback() { bytes_at_ = rules_.size(); }
  // Contents are written in the byte alphabet, and put together they are UTF-8.
  void set_byte_level() { byte_level_ = true; }
  void set_between(std::string text) { between_ = std::move(text); }
  struct Ends {
    std::string character;       // one; empty: none is stripped
    size_t start = 0, stop = 0;  // at most this many
    bool by_token = false;       // from the beginning: of a token one, and none of bytes
  };
  void set_ends(Ends ends) { ends_ = std::move(ends); }

  // Of a token that stands behind the first; `first`, `last`: it does not.
  std::string spell(std::string_view content, bool first, bool last) const;
  // The byte that a token is.
  std::optional<char> byte_of(std::string_view content) const;
  // What becomes of text that was written as bytes.
  std::string spell_bytes(std::string_view text, bool first) const;

  // In a run of tokens that are bytes each character stands for itself, whatever is beside it.
  void set_bytes_apart() { bytes_apart_ = true; }
  bool bytes_apart() const { return bytes_apart_; }

  // How many times as long replacements may make a token, at most.
  double growth() const { return growth_; }
  bool byte_level() const { return byte_level_; }
  bool byte_fallback() const { return bytes_at_.has_value(); }
  const std::string& between() const { return between_; }
  const Ends& ends() const { return ends_; }
  bool first_differs() const { return first_differs_; }
  bool last_differs() const { return last_differs_; }

 private:
  struct Replace {
    Regex regex;
    std::string content;
  };
  struct Strip {
    std::string character;
    size_t start, stop;
  };
  struct Metaspace {
    std::string mark;
    bool drop_first;
  };
  struct WordEnd {
    std::string suffix;
  };
  struct Place {
    bool first, last;
  };
  static std::string rewrite(const Replace& rule, std::string_view text, Place place);
  static std::string rewrite(const Strip& rule, std::string_view text, Place place);
  static std::string rewrite(const Metaspace& rule, std::string_view text, Place place);
  static std::string rewrite(const WordEnd& rule, std::string_view text, Place place);
  std::string rewrite(std::string_view text, size_t from, size_t to, Place place) const;

  std::vector<std::variant<Replace, Strip, Metaspace, WordEnd>> rules_;
  std::optional<size_t> bytes_at_;  // rules before this one see "<0x..>"
  std::string between_;
  Ends ends_;
  double growth_ = 1;
  bool byte_level_ = false, first_differs_ = false, last_differs_ = false, bytes_apart_ = false;
};

}  // namespace sluice
