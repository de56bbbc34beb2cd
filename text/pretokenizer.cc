#include "text/pretokenizer.h"

#include <algorithm>
#include <string>
#include <utility>

namespace sluice {

void PreTokenizer::add_split(Regex regex, SplitBehavior behavior, bool invert) {
  stages_.emplace_back(Split{std::move(regex), behavior, invert});
}

void PreTokenizer::add_prefix_space() { stages_.emplace_back(PrefixSpace{}); }

void PreTokenizer::add_metaspace(std::string replacement, Prepend prepend, bool split) {
  stages_.emplace_back(Metaspace{std::move(replacement), prepend, split});
}

bool PreTokenizer::keeps_text() const {
  return std::none_of(stages_.begin(), stages_.end(), [](const auto& any) {
    const auto* stage = std::get_if<Split>(&any);
    return stage && stage->behavior == SplitBehavior::removed;
  });
}

void PreTokenizer::run_stage(size_t index, std::string_view text, bool first,
                             Regex::Scratch& scratch, Emit emit) const {
  if (text.empty()) return;
  if (index == stages_.size()) return emit(text);
  const auto descend = [&](std::string_view piece, bool is_first) {
    run_stage(index + 1, piece, is_first, scratch, emit);
  };
  std::visit([&](const auto& stage) { cut(stage, text, first, scratch, descend); }, stages_[index]);
}

void PreTokenizer::cut(PrefixSpace, std::string_view text, bool first, Regex::Scratch&,
                       Descend descend) {
  if (text.front() == ' ') return descend(text, first);
  descend(" " + std::string(text), first);
}

void PreTokenizer::cut(const Metaspace& stage, std::string_view text, bool first, Regex::Scratch&,
                       Descend descend) {
  const std::string& mark = stage.replacement;
  std::string out;
  out.reserve(text.size() + text.size() / 2 + mark.size());
  const bool prepend =
      stage.prepend == Prepend::always || (stage.prepend == Prepend::first && first);
  if (prepend && text.front() != ' ' && !text.starts_with(mark)) out += mark;
  for (size_t at = 0; at < text.size();) {
    const size_t space = std::min(text.find(' ', at), text.size());
    out.append(text, at, space - at);
    if (space < text.size()) out += mark;
    at = space + 1;
  }
  if (!stage.split) return descend(out, first);
  for (size_t at = 0; at < out.size();) {
    const size_t end = std::min(out.find(mark, at + 1), out.size());
    descend(std::string_view(out).substr(at, end - at), first && at == 0);
    at = end;
  }
}

void PreTokenizer::cut(const Split& stage, std::string_view text, bool first,
                       Regex::Scratch& scratch, Descend descend) {
  const auto piece = [&](size_t begin, size_t end) {
    descend(text.substr(begin, end - begin), first && begin == 0);
  };
  Regex::Matches matches(stage.regex, text, scratch);
  size_t done = 0;
  // Both sides of an isolated match are kept, whichever is called the match.
  if (stage.behavior == SplitBehavior::isolated) {
    while (const auto match = matches.next()) {
      piece(done, match->begin);
      piece(match->begin, match->end);
      done = match->end;
    }
    return piece(done, text.size());
  }
  std::vector<Cut> cuts;
  while (const auto match = matches.next()) {
    if (done != match->begin) cuts.push_back({done, match->begin, stage.invert});
    cuts.push_back({match->begin, match->end, !stage.invert});
    done = match->end;
  }
  if (done != text.size()) cuts.push_back({done, text.size(), stage.invert});
  for (const Cut& part : join(cuts, stage.behavior)) piece(part.begin, part.end);
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
