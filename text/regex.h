#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sluice {

// The pattern in PCRE2's language that matches what `pattern` does in Oniguruma's Ruby syntax, in
// which tokenizer.json files are written. What is not known to mean the same is refused.
absl::StatusOr<std::string> translate_regex(std::string_view pattern);

// A compiled pattern. Immutable, thread-safe; copies share it.
class Regex {
 public:
  static absl::StatusOr<Regex> compile(std::string_view pattern);

  struct Span {
    size_t begin, end;
  };
  // Buffers for matching; one per thread.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class Regex;
    struct Buffers;
    std::unique_ptr<Buffers> buffers_;
  };

  // Goes through the matches in `text` (valid UTF-8), left to right, not overlapping.
  class Matches {
   public:
    Matches(const Regex& regex, std::string_view text, Scratch& scratch)
        : regex_(regex), text_(text), scratch_(scratch) {}
    std::optional<Span> next();

   private:
    const Regex& regex_;
    std::string_view text_;
    Scratch& scratch_;
    size_t from_ = 0;
    size_t last_end_ = std::string_view::npos;
  };

 private:
  struct Code;
  // The leftmost match at or after `from`. A pattern that runs into the engine's limits is logged
  // and answers none: the text is then split less than it should be, and nothing of it is lost.
  std::optional<Span> search(std::string_view text, size_t from, Scratch& scratch) const;
  std::shared_ptr<const Code> code_;
};

}  // namespace sluice
