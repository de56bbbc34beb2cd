#include "text/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace sluice {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include) : include_(include) {
  for (std::string& text : stops) {
    CHECK(!text.empty());
    std::vector<size_t> border(text.size(), 0);
    for (size_t i = 1, length = 0; i < text.size(); ++i) {
      while (length > 0 && text[i] != text[length]) length = border[length - 1];
      if (text[i] == text[length]) ++length;
      border[i] = length;
    }
    stops_.push_back({std::move(text), std::move(border), 0});
  }
}

StopMatcher::Out StopMatcher::push(std::string_view text) {
  if (stopped_ >= 0) return {{}, stopped_};
  const size_t before = held_.size();
  held_ += text;
  for (size_t i = 0; i < text.size(); ++i) {
    size_t longest = 0;
    for (size_t s = 0; s < stops_.size(); ++s) {
      Stop& stop = stops_[s];
      while (stop.matched > 0 && stop.text[stop.matched] != text[i])
        stop.matched = stop.border[stop.matched - 1];
      if (stop.text[stop.matched] == text[i]) ++stop.matched;
      if (stop.matched == stop.text.size() && stop.matched > longest) {
        longest = stop.matched;
        stopped_ = static_cast<int>(s);
      }
    }
    if (stopped_ < 0) continue;
    held_.resize(before + i + 1 - (include_ ? 0 : longest));
    return {std::exchange(held_, {}), stopped_};
  }
  size_t keep = 0;
  for (const Stop& stop : stops_) keep = std::max(keep, stop.matched);
  Out out{held_.substr(0, held_.size() - keep), -1};
  held_.erase(0, out.emit.size());
  return out;
}

std::string StopMatcher::flush() {
  for (Stop& stop : stops_) stop.matched = 0;
  return std::exchange(held_, {});
}

}  // namespace sluice
