#pragma once

#include "bench/simulate.h"
#include "server/cli.h"

namespace sluice {

// The flags of `sluice simulate`. Outlives the CLI::App it was added to.
class SimulateFlags {
 public:
  // Adds the subcommand; `result` gets its exit code.
  void add_to(CLI::App& app, char** environment, int& result);

 private:
  absl::Status run(char** environment);

  ConfigFlags config_;
  SimulateOptions options_;
  bool print_cost_ = false;
};

}  // namespace sluice
