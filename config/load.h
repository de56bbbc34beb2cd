#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "config/config.h"

namespace sluice {

// Where settings come from. A later source wins: file, then environment, then flags.
struct ConfigSources {
  std::string file;                                        // TOML; empty: none
  std::vector<std::string> environment;                    // "NAME=value", whole
  std::vector<std::pair<std::string, std::string>> flags;  // field name, value
};

// Reads all sources. Unknown keys, unknown SLUICE_ variables and bad values are errors that name
// the source, the knob and the limit.
absl::StatusOr<Config> load_config(const ConfigSources& sources);

// The whole configuration as a TOML file that load_config reads back to the same values.
std::string print_config(Config config);

// A knob that two configurations do not agree on.
struct KnobChange {
  std::string name, from, to;
  bool live = false;  // `running` has the new value now; else it waits for a restart
};
// Takes over from `fresh` what may change in a running daemon, and lists every difference.
std::vector<KnobChange> take_live_knobs(Config& running, Config fresh);

// docs/configuration.md: a table of every knob.
std::string config_reference();

}  // namespace sluice
