#pragma once

#include <atomic>

#include "config/config.h"

namespace sluice {

// The front end's knobs that SIGHUP changes while requests are served. Each is read on its own,
// whenever it matters, so nothing is locked.
struct Limits {
  explicit Limits(const Config& config) { set(config); }
  void set(const Config& c) {
    max_connections = c.server.max_connections;
    body_timeout_seconds = c.server.body_timeout_seconds;
    write_timeout_seconds = c.server.write_timeout_seconds;
    stall_seconds = c.server.stall_seconds;
    max_n = c.server.max_n;
    max_ttft_seconds = c.scheduler.max_ttft_seconds;
  }

  std::atomic<int> max_connections{0}, body_timeout_seconds{0}, write_timeout_seconds{0};
  std::atomic<int> stall_seconds{0}, max_n{0};
  std::atomic<double> max_ttft_seconds{0};
};

}  // namespace sluice
