#pragma once

#include <string>
#include <string_view>
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
  // Adds --config FILE and the knobs that `wanted` picks.
  void add_knobs_to(CLI::App& command, bool (*wanted)(std::string_view knob));
  // Reads file, environment (`environ`-style, null-terminated) and the flags that were given.
  absl::StatusOr<Config> load(char** environment) const;
  // Likewise, without asking for a model. Where there is no file, `defaults` ("NAME=value", as in
  // the environment) stand for what neither the environment nor a flag says.
  absl::StatusOr<Config> load_knobs(char** environment, std::vector<std::string> defaults) const;

 private:
  struct Given {
    std::string name, value;
  };
  std::vector<Given> given_;
  std::string directory_, file_;
};

// Runs the program: parses `argv`, dispatches to a subcommand, returns the exit code.
// 0: done; 1: it failed, with one line on stderr; 2: the command line is wrong. `serve` ends with
// 78 (EX_CONFIG) where starting it again as it is cannot help: docs/operations.md.
int run_command_line(int argc, char** argv, char** environment);

}  // namespace sluice
