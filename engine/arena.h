#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace sluice {

// Scratch of a step: a bump allocator over one device buffer. Owned by the runner, used by the
// engine thread. The runner calls reset() before every step; a model takes tensors and lets them
// go by scope. Ops run in order on one stream, so memory given back may be taken again at once.
//
// Sized at start-up: Model::scratch_bytes() replays a step's takes on an Arena without memory,
// which only counts, so the size and its use cannot drift apart.
class Arena {
 public:
  Arena() = default;  // counts only: every tensor taken has data == nullptr
  Arena(Device& device, size_t bytes)
      : memory_(device.allocate(bytes, Memory::device)), capacity_(bytes) {}

  // A dense tensor, 64-byte aligned, with unspecified content. Running out is a bug: the largest
  // step was counted.
  Tensor take(DType dtype, std::initializer_list<int64_t> dims) {
    int64_t elements = 1;
    for (const int64_t d : dims) elements *= d;
    const size_t begin = used_;
    used_ += rounded(static_cast<size_t>(elements) * bits_of(dtype) / 8);
    peak_ = std::max(peak_, used_);
    if (!memory_) return Tensor::of(nullptr, dtype, dims);
    CHECK(used_ <= capacity_);
    return Tensor::of(static_cast<char*>(memory_.get()) + begin, dtype, dims);
  }
  void reset() { used_ = 0; }

  size_t used() const { return used_; }
  size_t peak() const { return peak_; }  // most that was ever in use
  size_t capacity() const { return capacity_; }

  // What one tensor of `bytes` takes.
  static size_t rounded(size_t bytes) { return (bytes + 63) & ~size_t{63}; }

  // Gives back, at its end, all that was taken since its begin.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), mark_(arena.used_) {}
    ~Scope() { arena_.used_ = mark_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    const size_t mark_;
  };

 private:
  Device::Buffer memory_;
  size_t capacity_ = 0;
  size_t used_ = 0;
  size_t peak_ = 0;
};

}  // namespace sluice
