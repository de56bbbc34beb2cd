#pragma once

#include <memory>

#include "base/status.h"
#include "config/config.h"
#include "server/frontend.h"

namespace sluice {

// The gRPC side: sluice.v1.Inference, grpc.health.v1 and reflection on one port. Everything but the
// wire is the front end's; tokens come from one shard of the hub with a thread of its own.
class GrpcServer {
 public:
  // `shard`: the hub's shard that this server delivers from; nobody else may use it.
  GrpcServer(const Config::Server&, Frontend&, int shard);
  ~GrpcServer();  // stop(), if it was not called

  // Binds and serves. Before the engine starts. The error names the address.
  absl::Status start();
  int port() const;

  // What grpc.health.v1 answers, for "" and "sluice.v1.Inference". Any thread.
  void set_serving(bool serving);
  // Refuses new calls and ends the remaining ones. The engine must be idle: every stream has ended.
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
