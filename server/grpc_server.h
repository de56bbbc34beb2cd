#pragma once

#include <memory>

#include "base/status.h"
#include "config/config.h"
#include "server/frontend.h"
#include "server/listener.h"

namespace sluice {

// The gRPC side: sluice.v1.Inference, grpc.health.v1 and reflection on one port. Everything but the
// wire is the front end's; tokens come from one shard of the hub with a thread of its own.
class GrpcServer {
 public:
  // `shard`: the hub's shard that this server delivers from; nobody else may use it.
  GrpcServer(const Config::Server&, Frontend&, int shard);
  ~GrpcServer();  // stop(), if it was not called

  // Listens and serves. Before the engine starts.
  absl::Status start(Listener);
  int port() const;

  // What grpc.health.v1 answers, for "" and "sluice.v1.Inference". Any thread.
  void set_serving(bool serving);
  // As HTTP's: health says no; a listener with other owners is left to them.
  void announce_drain();
  // Closes the listener, as HTTP's. Calls on open connections are still answered, those for new
  // work by the front end: UNAVAILABLE.
  void begin_drain();
  // Refuses new calls and ends the remaining ones. The engine must be idle: every stream has ended.
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
