#pragma once

#include "kernels/tensor.h"

namespace sluice {

// Between the ranks of one model.
class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void all_reduce(Tensor inout) = 0;
  virtual void all_gather(Tensor out, Tensor shard) = 0;
  virtual void broadcast(Tensor inout, int root) = 0;
  virtual void send(Tensor, int to) = 0;  // pipeline stages
  virtual void recv(Tensor, int from) = 0;
};

// One rank: nothing to exchange. all_gather is never reached, a shard is the whole.
class SingleRank final : public Comm {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(Tensor) override {}
  void all_gather(Tensor, Tensor) override { CHECK(false); }
  void broadcast(Tensor, int) override {}
  void send(Tensor, int) override { CHECK(false); }
  void recv(Tensor, int) override { CHECK(false); }
};

}  // namespace sluice
