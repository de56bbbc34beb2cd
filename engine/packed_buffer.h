#pragma once

#include <initializer_list>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace sluice {

// The arrays of one step, side by side in pinned host memory: what a device with its own memory
// uploads with a single copy, and what a CPU reads in place. Reserved for the largest step at
// start-up; reset() grows it only for a step beyond what was foreseen.
class PackedBuffer {
 public:
  PackedBuffer(Device& device, size_t reserve_bytes) : device_(device) { reset(reserve_bytes); }

  // Forgets everything taken and makes room for `bytes`.
  void reset(size_t bytes) {
    used_ = 0;
    if (bytes <= capacity_) return;
    memory_.reset();
    memory_ = device_.allocate(bytes, Memory::pinned_host);
    capacity_ = bytes;
  }

  // A dense tensor on its own cache lines, with unspecified content.
  Tensor take(DType dtype, std::initializer_list<int64_t> dims) {
    Tensor t = Tensor::of(static_cast<char*>(memory_.get()) + used_, dtype, dims);
    used_ += bytes_of(dtype, t.size());
    CHECK(used_ <= capacity_);
    return t;
  }

  // What take() of so many elements uses.
  static size_t bytes_of(DType dtype, int64_t elements) {
    return (size_t(elements) * bits_of(dtype) / 8 + 63) & ~size_t{63};
  }

  size_t used() const { return used_; }
  size_t capacity() const { return capacity_; }

 private:
  Device& device_;
  Device::Buffer memory_;
  size_t capacity_ = 0, used_ = 0;
};

}  // namespace sluice
