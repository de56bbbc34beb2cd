#pragma once

#include <string>
#include <vector>

#include "config/config.h"

namespace sluice {

struct BenchOpsOptions {
  Config::Device device;
  std::string shapes = "auto";    // of a model's layers: see bench_shapes(); auto: by the device
  std::vector<std::string> only;  // measure what has one of these in its name; empty: everything
  double seconds = 0.3;           // per line
  std::string json_path;          // also write the results here
};

std::vector<std::string> bench_shapes();

// A table on stdout: each op of a model's layers, its speed, and the share of the device's memory
// bandwidth or arithmetic peak, whichever is the nearer bound. 0, or 1 with an error on stderr.
int bench_ops(const BenchOpsOptions& options);

}  // namespace sluice
