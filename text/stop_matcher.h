#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Finds stop strings across token borders: holds back text that may be the start of one.
// The result does not depend on how the text is cut into pushes. One per stream.
class StopMatcher {
 public:
  // Empty strings are the caller's error and are refused before they come here.
  // `include`: the stop string itself is emitted too.
  StopMatcher(std::vector<std::string> stops, bool include);
  struct Out {
    std::string emit;  // certain not to be part of a stop string
    int stopped = -1;  // index of the stop string that was found: nothing after it is emitted
  };
  // The stop string that is complete first wins, so that nothing has to be generated to decide;
  // where two end at the same place, the one that begins first; of equal ones, the first listed.
  // After a stop, further text is ignored.
  Out push(std::string_view text);
  std::string flush();  // the end came without a match: what was held back

 private:
  // One stop string and how far the text matches it (Knuth, Morris, Pratt 1977).
  struct Stop {
    std::string text;
    std::vector<size_t> border;  // [i]: longest proper border of text[0, i]
    size_t matched = 0;
  };
  std::vector<Stop> stops_;
  std::string held_;  // as long as the longest `matched`
  bool include_;
  int stopped_ = -1;
};

}  // namespace sluice
