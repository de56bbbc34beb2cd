#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "config/config.h"

namespace CLI {
class App;
}

namespace sluice {

// Collects settings for load_config from the command line: every knob as --section.name, the common
// ones under a short flag too. Lives as long as the CLI::App it was added to.
class ConfigFlags {
 public:
  // Adds DIR (the model directory), --config FILE and every knob of config/fields.h to `command`.
  void add_to(CLI::App& command);
  // Reads file, environment (`environ`-style, null-terminated) and the flags that were given.
  absl::StatusOr<Config> load(char** environment) const;

 private:
  struct Given {
    std::string name, value;
  };
  std::vector<Given> given_;
  std::string directory_, file_;
};

// Runs the program: parses `argv`, dispatches to a subcommand, returns the exit code.
// 0: done; 1: it failed, with one line on stderr; 2: the command line is wrong.
int run_command_line(int argc, char** argv, char** environment);

}  // namespace sluice
