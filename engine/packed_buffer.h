#pragma once

#include <initializer_list>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace sluice {

// The arrays of one step, side by side in pinned host memory and, on a device with memory of its
// own, in the same places there: one copy moves all of them. A device that is the host uses them in
// place. Reserved for the largest step at start-up; reset() grows it only for a step beyond what
// was foreseen, and nothing that was taken before may be in use then.
class PackedBuffer {
 public:
  PackedBuffer(Device& device, size_t reserve_bytes) : device_(device) { reset(reserve_bytes); }

  // Forgets everything taken and makes room for `bytes`.
  void reset(size_t bytes) {
    used_ = 0;
    if (bytes <= capacity_) return;
    host_.reset(), mirror_.reset();
    host_ = device_.allocate(bytes, Memory::pinned_host);
    if (!device_.is_host()) mirror_ = device_.allocate(bytes, Memory::device);
    capacity_ = bytes;
  }

  // A dense tensor on its own cache lines, with unspecified content, as the host sees it.
  Tensor take(DType dtype, std::initializer_list<int64_t> dims) {
    Tensor t = Tensor::of(static_cast<char*>(host_.get()) + used_, dtype, dims);
    used_ += bytes_of(dtype, t.size());
    CHECK(used_ <= capacity_);
    return t;
  }
  // The same, or a part of it, as the device sees it.
  Tensor on_device(Tensor t) const {
    if (mirror_ == nullptr || !t) return t;
    t.data = static_cast<char*>(mirror_.get()) + (t.as<char>() - static_cast<char*>(host_.get()));
    return t;
  }

  // Everything taken, on the compute stream: to the device, and from it.
  void upload() {
    if (mirror_ && used_ > 0)
      device_.copy(mirror_.get(), host_.get(), used_, device_.compute_stream());
  }
  void download() {
    if (mirror_ && used_ > 0)
      device_.copy(host_.get(), mirror_.get(), used_, device_.compute_stream());
  }

  // What take() of so many elements uses.
  static size_t bytes_of(DType dtype, int64_t elements) {
    return (size_t(elements) * bits_of(dtype) / 8 + 63) & ~size_t{63};
  }

  const void* base() const { return host_.get(); }
  size_t used() const { return used_; }
  size_t capacity() const { return capacity_; }

 private:
  Device& device_;
  Device::Buffer host_, mirror_;  // the latter null where the device is the host
  size_t capacity_ = 0, used_ = 0;
};

}  // namespace sluice
