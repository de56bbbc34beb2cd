#pragma once

#include <signal.h>

#include <chrono>
#include <functional>

#include "base/status.h"
#include "config/config.h"
#include "server/frontend.h"
#include "server/grpc_server.h"
#include "server/http_server.h"
#include "server/service_manager.h"

namespace sluice {

// SIGTERM, SIGINT and SIGHUP, taken one at a time by the main thread. Blocked before any thread
// exists, so that every thread inherits it; a client's closed socket is an error code, not a
// SIGPIPE.
class Signals {
 public:
  Signals();
  // The signal, or 0 when none came in time.
  int wait(std::chrono::milliseconds timeout) const;

 private:
  sigset_t set_;
};

// Reads the configuration again, from where it came from.
using Reload = std::function<absl::StatusOr<Config>()>;

// What the main thread does once everything serves: lets gRPC's health follow readiness, feeds the
// watchdog while the engine makes progress, reloads on SIGHUP, and drains on SIGTERM or SIGINT.
class MainLoop {
 public:
  MainLoop(const Config&, Reload, const Signals&, ServiceManager&, Frontend&, HttpServer&,
           GrpcServer&, Engine&);
  // Returns once a drain is over and nothing runs any more.
  void run();

 private:
  void look();
  void reload();
  void drain(int signal);
  void await_balancers() const;

  Config config_;  // as it was read: presets are not applied
  const Reload reload_;
  const Signals& signals_;
  ServiceManager& service_;
  Frontend& frontend_;
  HttpServer& http_;
  GrpcServer& grpc_;
  Engine& engine_;
  bool serving_ = false;
};

}  // namespace sluice
