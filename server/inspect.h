#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/status.h"

namespace sluice {

// A model directory for people, and for programs.
struct Inspection {
  std::string text;                   // tables
  std::string json;                   // one object
  std::vector<std::string> problems;  // why the daemon would refuse it; none: it would not
};

// Looks at every file of a model directory that the daemon would read, by the daemon's own rules:
// every problem that can be found, not the first alone. Of the weights it reads headers only. Fails
// where there is no directory.
absl::StatusOr<Inspection> inspect_model(const std::filesystem::path& dir);

}  // namespace sluice
