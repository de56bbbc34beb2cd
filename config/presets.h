#pragma once

#include <string_view>
#include <vector>

#include "base/status.h"
#include "config/config.h"

namespace sluice {

// The systems of the field, each one value for every choice of the scheduler. The only place that
// knows their names.
std::vector<std::string_view> preset_names();

// Replaces what `c` leaves to its preset ("auto", or 0 where a knob says so).
absl::Status apply_preset(Config::Scheduler& c);

}  // namespace sluice
