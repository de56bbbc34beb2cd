#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/charsmap.h"
#include "text/normal_form.h"
#include "text/regex.h"
#include "text/sentencepiece_normalizer.h"

namespace sluice {

// What happens to text before it is cut: a chain of rewritings. Immutable, thread-safe.
class Normalizer {
 public:
  void add(NormalForm form) { steps_.emplace_back(form); }
  void add_lowercase() { steps_.emplace_back(Lowercase{}); }
  void add_strip(bool left, bool right) { steps_.emplace_back(Strip{left, right}); }
  // `text` is not empty.
  void add_replace(std::string text, std::string content);
  void add_replace(Regex regex, std::string content);
  void add_prepend(std::string text) { steps_.emplace_back(Prepend{std::move(text)}); }
  void add_charsmap(Charsmap map) { steps_.emplace_back(std::move(map)); }
  void add(SentencePieceNormalizer rule) { steps_.emplace_back(std::move(rule)); }

  // `text` is valid UTF-8. Returns it unchanged (the same view) when no step changes it, otherwise
  // a view of `buffer`. `front`, if given, says whether this is what a whole text begins with, and
  // becomes false when the beginning was removed: what begins there is then not the text's any
  // more.
  std::string_view apply(std::string_view text, std::string& buffer, bool* front = nullptr) const;

  // How many times as long replacements may make a text, at most.
  double growth() const { return growth_; }
  // Nothing is lost but the difference between normal forms, and between a space and the letter
  // that SentencePiece writes for it.
  bool keeps_text() const;

 private:
  struct Lowercase {};
  struct Strip {
    bool left, right;
  };
  struct ReplaceText {
    std::string text, content;
  };
  struct ReplaceRegex {
    Regex regex;
    std::string content;
  };
  struct Prepend {
    std::string text;
  };
  // Each writes what `text` becomes to `out` and returns true, or false when it stays as it is.
  static bool step(NormalForm form, std::string_view text, std::string& out, bool& front);
  static bool step(Lowercase, std::string_view text, std::string& out, bool& front);
  static bool step(Strip strip, std::string_view text, std::string& out, bool& front);
  static bool step(const ReplaceText&, std::string_view text, std::string& out, bool& front);
  static bool step(const ReplaceRegex&, std::string_view text, std::string& out, bool& front);
  static bool step(const Prepend&, std::string_view text, std::string& out, bool& front);
  static bool step(const Charsmap&, std::string_view text, std::string& out, bool& front);
  static bool step(const SentencePieceNormalizer&, std::string_view text, std::string& out,
                   bool& front);

  std::vector<std::variant<NormalForm, Lowercase, Strip, ReplaceText, ReplaceRegex, Prepend,
                           Charsmap, SentencePieceNormalizer>>
      steps_;
  double growth_ = 1;
};

}  // namespace sluice
