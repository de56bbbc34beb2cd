#pragma once

#include "base/status.h"
#include "config/config.h"

namespace sluice {

// The daemon: loads the model, serves it over HTTP and gRPC, drains on SIGTERM or SIGINT, returns
// when everything has ended. On the calling (main) thread; a second signal ends the drain early.
absl::Status serve(const Config& config);

}  // namespace sluice
