#pragma once

#include <string>

#include "base/status.h"

namespace sluice {

// `sluice health`: asks a daemon whether it takes new work, for containers' health checks.
struct HealthOptions {
  std::string host;  // as in server.host: an address that listens everywhere is asked on loopback
  int port = 0;
  bool live = false;  // ask only whether the process answers
  double timeout_s = 5;
};

// OK when it does. The error says what it answered instead.
absl::Status check_health(const HealthOptions& options);

}  // namespace sluice
