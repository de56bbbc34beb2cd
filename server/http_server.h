#pragma once

#include <memory>

#include "base/status.h"
#include "config/config.h"
#include "server/frontend.h"
#include "server/listener.h"

namespace sluice {

// HTTP/1.1 on `config.io_threads` event loops; thread i owns shard i of the hub, its connections
// and their streams, so nothing here is locked. One thread accepts and deals connections out in
// turn.
//
// Lifecycle: construct, start() before the engine delivers, announce_drain() and begin_drain() as
// the front end's, drain the engine, stop(). Destroyed before the front end.
class HttpServer {
 public:
  HttpServer(const Config::Server&, Frontend&);
  ~HttpServer();  // stop()

  absl::Status start(Listener);  // listens; an address in use is an error, not a crash
  int port() const;
  // Everything is answered as before, but with `Connection: close`. A listener with other owners is
  // left to them: who connects waits for a successor, or is its client already.
  void announce_drain();
  // Closes the listener: who connects now is refused before anything was sent, which everybody
  // retries elsewhere, and a successor may have the port. Requests for work on open connections get
  // a 503. Idle connections stay open until stop(): a balancer may be sending on one right now, and
  // a 503 tells it to go elsewhere where a closed socket tells it nothing.
  void begin_drain();
  // Waits a moment for the last bytes to leave, closes every connection, joins the threads.
  void stop();
  int num_connections() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
