#pragma once

#include <string>

namespace sluice {

struct BenchOpsOptions {
  int threads = 0;           // 0: automatic
  std::string isa = "auto";  // as CpuOptions
  double seconds = 0.3;      // per line
};

// A table on stdout: each op of a small model's layers, its speed, and the share of this machine's
// memory bandwidth or arithmetic peak, whichever is the nearer bound. 0, or 1 with an error on
// stderr.
int bench_ops(const BenchOpsOptions& options);

}  // namespace sluice
