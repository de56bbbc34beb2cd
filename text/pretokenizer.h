#pragma once

#include <absl/functional/function_ref.h>

#include <string>
#include <string_view>
#include <variant>
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

// Cuts text into the pieces that the model works on: a chain of stages, each cutting what the one
// before left. Immutable, thread-safe.
class PreTokenizer {
 public:
  // `invert`: what the pattern does not match is the match.
  void add_split(Regex regex, SplitBehavior behavior, bool invert);
  // A space in front of each piece that does not begin with one.
  void add_prefix_space();
  // Spaces become `replacement`, one character; one more is put in front of pieces that do not
  // begin with it, as `prepend` says; and with `split` each begins a piece of its own.
  enum class Prepend : uint8_t { always, first, never };
  void add_metaspace(std::string replacement, Prepend prepend, bool split);

  // Calls `emit` with the pieces in order; the views are valid during the call only. `first`: the
  // text is what the whole begins with.
  using Emit = absl::FunctionRef<void(std::string_view)>;
  void run(std::string_view text, bool first, Regex::Scratch& scratch, Emit emit) const {
    run_stage(0, text, first, scratch, emit);
  }

  // No stage removes anything.
  bool keeps_text() const;

 private:
  struct Split {
    Regex regex;
    SplitBehavior behavior;
    bool invert;
  };
  struct PrefixSpace {};
  struct Metaspace {
    std::string replacement;
    Prepend prepend;
    bool split;
  };
  struct Cut {
    size_t begin, end;
    bool match;
  };
  // What a stage hands on: a piece, and whether the whole begins with it.
  using Descend = absl::FunctionRef<void(std::string_view, bool)>;
  void run_stage(size_t index, std::string_view text, bool first, Regex::Scratch& scratch,
                 Emit emit) const;
  static void cut(const Split& stage, std::string_view text, bool first, Regex::Scratch& scratch,
                  Descend descend);
  static void cut(PrefixSpace, std::string_view text, bool first, Regex::Scratch& scratch,
                  Descend descend);
  static void cut(const Metaspace& stage, std::string_view text, bool first,
                  Regex::Scratch& scratch, Descend descend);
  static std::vector<Cut> join(const std::vector<Cut>& cuts, SplitBehavior behavior);

  std::vector<std::variant<Split, PrefixSpace, Metaspace>> stages_;
};

}  // namespace sluice
