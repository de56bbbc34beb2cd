#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "engine/arena.h"
#include "kernels/device.h"

namespace sluice {

// What a step's forward pass leaves in the scratch.
struct Forward {
  Tensor hidden;  // [tokens, hidden]
  Tensor logits;  // f32 [width, vocab], of StepInputs::padded_sample_rows(); absent with them
};

// Steps of decodes alone, captured once for each of a few widths and replayed for any context:
// launching a layer's kernels one by one takes the host longer than a small batch takes the device.
// A step has the next greater width; the rows that fill it up compute something that nobody reads.
// Owned by a runner, for the arrays of one of its flights; engine thread only.
class DecodeCaptures {
 public:
  DecodeCaptures(Device& device, Arena& scratch) : device_(device), scratch_(scratch) {}

  // The width of a step of `rows`, at most `max_rows`; and all widths there are.
  static int width_of(int rows, int max_rows);
  static std::vector<int> widths(int max_rows);

  bool has(int width) const { return captured_.contains(width); }
  // What the captured step computes, put on the compute stream. The scratch was reset.
  const Forward& replay(int width);
  // Captures what `forward` computes, for a step of this width whose arrays are where they were for
  // every other of that width since the last forget(). It has run before, as libraries choose their
  // algorithms then. False: the device has no memory left for it.
  bool capture(int width, const std::function<Forward()>& forward);
  void drop(int width) { captured_.erase(width); }
  // The arrays have moved.
  void forget() { captured_.clear(); }

  // How often steps of a width were not replayed.
  void note_eager(int width) { ++num_eager_[width]; }
  int num_eager(int width) const;
  // Of all captured steps.
  int64_t num_nodes() const;

 private:
  struct Captured {
    Forward forward;
    size_t scratch = 0;  // in use behind it
    std::unique_ptr<Graph> graph;
  };
  Device& device_;
  Arena& scratch_;
  std::map<int, Captured> captured_;
  std::map<int, int> num_eager_;
};

}  // namespace sluice
