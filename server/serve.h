#pragma once

#include "base/status.h"
#include "config/config.h"
#include "server/main_loop.h"

namespace sluice {

// The daemon: loads the model, serves it over HTTP and gRPC, drains on SIGTERM or SIGINT, returns
// when everything has ended. On the calling (main) thread; a second signal ends the drain early.
// `reload`: for SIGHUP. `environment`: what a service manager left there (see service_manager.h).
absl::Status serve(const Config& config, const Reload& reload, char** environment);

}  // namespace sluice
