#include "text/pretokenizer.h"

#include <algorithm>
#include <string>
#include <utility>

namespace sluice {

void PreTokenizer::add_split(Regex regex, SplitBehavior behavior, bool invert) {
  stages_.push_back({std::move(regex), behavior, invert});
}

void PreTokenizer::add_prefix_space() { stages_.push_back({}); }

void PreTokenizer::run_stage(size_t index, std::string_view text, Regex::Scratch& scratch,
                             Emit emit) const {
  if (text.empty()) return;
  if (index == stages_.size()) return emit(text);
  const Stage& stage = stages_[index];
  if (!stage.regex) {
    if (text.front() == ' ') return run_stage(index + 1, text, scratch, emit);
    return run_stage(index + 1, " " + std::string(text), scratch, emit);
  }
  const auto descend = [&](size_t begin, size_t end) {
    run_stage(index + 1, text.substr(begin, end - begin), scratch, emit);
  };
  Regex::Matches matches(*stage.regex, text, scratch);
  size_t done = 0;
  // Both sides of an isolated match are kept, whichever is called the match.
  if (stage.behavior == SplitBehavior::isolated) {
    while (const auto match = matches.next()) {
      descend(done, match->begin);
      descend(match->begin, match->end);
      done = match->end;
    }
    return descend(done, text.size());
  }
  std::vector<Cut> cuts;
  while (const auto match = matches.next()) {
    if (done != match->begin) cuts.push_back({done, match->begin, stage.invert});
    cuts.push_back({match->begin, match->end, !stage.invert});
    done = match->end;
  }
  if (done != text.size()) cuts.push_back({done, text.size(), stage.invert});
  for (const Cut& cut : join(cuts, stage.behavior)) descend(cut.begin, cut.end);
}

// The reference's rules to the letter, also for empty matches and neighbouring ones.
std::vector<PreTokenizer::Cut> PreTokenizer::join(const std::vector<Cut>& cuts,
                                                  SplitBehavior behavior) {
  std::vector<Cut> out;
  bool previous = false;
  switch (behavior) {
    case SplitBehavior::isolated:
      return cuts;
    case SplitBehavior::removed:
      for (const Cut& cut : cuts)
        if (!cut.match) out.push_back(cut);
      return out;
    case SplitBehavior::contiguous:
    case SplitBehavior::merged_with_previous:
      for (const Cut& cut : cuts) {
        const bool joins =
            behavior == SplitBehavior::contiguous ? cut.match == previous : cut.match && !previous;
        if (joins && !out.empty())
          out.back().end = cut.end;
        else
          out.push_back(cut);
        previous = cut.match;
      }
      return out;
    case SplitBehavior::merged_with_next:
      for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) {
        if (cut->match && !previous && !out.empty())
          out.back().begin = cut->begin;
        else
          out.push_back(*cut);
        previous = cut->match;
      }
      std::reverse(out.begin(), out.end());
      return out;
  }
  return out;
}

}  // namespace sluice
