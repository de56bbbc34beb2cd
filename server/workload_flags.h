#pragma once

#include "bench/workload.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace sluice {

struct WorkloadFlags {
  CLI::Option *name, *lengths;
};
// The flags that say which requests come. `sluice simulate` and `sluice bench serve` play the same.
WorkloadFlags add_workload_flags(CLI::App&, WorkloadOptions&);

}  // namespace sluice
