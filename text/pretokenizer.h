#pragma once

#include <absl/functional/function_ref.h>

#include <string_view>
#include <vector>

#include "text/regex.h"

namespace sluice {

// What becomes of the matches of a pattern, as tokenizer.json names it.
enum class SplitBehavior : uint8_t {
  isolated,              // pieces of their own
  removed,               // dropped
  merged_with_previous,  // the end of the piece before
  merged_with_next,      // the beginning of the piece behind
  contiguous,            // neighbouring matches are one piece
};

// Cuts text into the pieces that BPE works on: a chain of stages, each cutting what the one before
// left. Immutable, thread-safe.
class PreTokenizer {
 public:
  // `invert`: what the pattern does not match is the match.
  void add_split(Regex regex, SplitBehavior behavior, bool invert);
  // A space in front of each piece that does not begin with one.
  void add_prefix_space();

  // Calls `emit` with the pieces in order; the views are valid during the call only.
  using Emit = absl::FunctionRef<void(std::string_view)>;
  void run(std::string_view text, Regex::Scratch& scratch, Emit emit) const {
    run_stage(0, text, scratch, emit);
  }

 private:
  struct Stage {
    std::optional<Regex> regex;  // none: prefix space
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;
  };
  struct Cut {
    size_t begin, end;
    bool match;
  };
  void run_stage(size_t stage, std::string_view text, Regex::Scratch& scratch, Emit emit) const;
  static std::vector<Cut> join(const std::vector<Cut>& cuts, SplitBehavior behavior);

  std::vector<Stage> stages_;
};

}  // namespace sluice
