#pragma once

#include <memory>

#include "base/status.h"
#include "config/config.h"
#include "server/frontend.h"

namespace sluice {

// HTTP/1.1 on `config.io_threads` event loops; thread i owns shard i of the hub, its connections
// and their streams, so nothing here is locked. One thread accepts and deals connections out in
// turn.
//
// Lifecycle: construct, start() before the engine delivers, begin_drain() to refuse new work, drain
// the engine, stop(). Destroyed before the front end.
class HttpServer {
 public:
  HttpServer(const Config::Server&, Frontend&);
  ~HttpServer();  // stop()

  absl::Status start();  // binds and listens; an address in use is an error, not a crash
  int port() const;      // the one bound, when the configured one was 0
  // Answers what is under way and says `Connection: close`. New requests for work get 503; probes
  // and metrics still answer. Idle connections stay open until stop(): a balancer may be sending on
  // one right now, and a 503 tells it to go elsewhere where a closed socket tells it nothing.
  void begin_drain();
  // Waits a moment for the last bytes to leave, closes every connection, joins the threads.
  void stop();
  int num_connections() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
