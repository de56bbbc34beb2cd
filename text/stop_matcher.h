#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Finds stop strings across token borders: holds back text that may be the start of one.
class StopMatcher {
 public:
  // Empty strings are the caller's error and are refused before they come here.
  // `include`: the stop string itself is emitted too.
  StopMatcher(std::vector<std::string> stops, bool include);
  struct Out {
    std::string emit;  // certain not to be part of a stop string
    int stopped = -1;  // index of the stop string that was found: nothing after it is emitted
  };
  // Where several match, the one that begins first wins; at the same place, the first listed.
  Out push(std::string_view text);
  std::string flush();  // the end came without a match: what was held back

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool include_;
};

}  // namespace sluice
