#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>

#include "engine/arena.h"
#include "kernels/device.h"

namespace sluice {

// Steps of decodes alone, captured once for each of a few widths and replayed for any context:
// launching a layer's kernels one by one takes the host longer than a small batch takes the device.
// A step has the next greater width; the rows that fill it up compute something that nobody reads.
// Owned by a runner, for the arrays of one of its flights; engine thread only.
class DecodeCaptures {
 public:
  DecodeCaptures(Device& device, Arena& scratch) : device_(device), scratch_(scratch) {}

  // The width of a step of `rows`, at most `max_rows`.
  static int width_of(int rows, int max_rows);

  // What `forward` computes, for a step of this width whose arrays are where they were for every
  // other of that width since the last forget(). The first time it is called, as libraries choose
  // their algorithms then; the second time it is captured.
  Tensor run(int width, const std::function<Tensor()>& forward);
  bool has(int width) const {
    const auto at = captured_.find(width);
    return at != captured_.end() && at->second.graph != nullptr;
  }
  // The arrays have moved.
  void forget() { captured_.clear(); }

 private:
  struct Captured {
    Tensor hidden;
    std::unique_ptr<Graph> graph;
  };
  Device& device_;
  Arena& scratch_;
  std::map<int, Captured> captured_;
};

}  // namespace sluice
