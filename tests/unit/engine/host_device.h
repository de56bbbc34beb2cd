#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels/device.h"

namespace sluice {

// Plain host memory behind the Device contract, for code that moves bytes and runs no op.
class HostDevice final : public Device {
 public:
  std::string name() const override { return "host"; }
  Buffer allocate(size_t bytes, Memory) override {
    ++num_allocations;
    void* p = std::aligned_alloc(64, (bytes + 64) & ~size_t{63});
    std::memset(p, 0, bytes);
    return Buffer(p, [](void* q) { std::free(q); });
  }
  size_t free_bytes() const override { return size_t{1} << 40; }
  size_t total_bytes() const override { return size_t{1} << 40; }
  bool is_host() const override { return true; }
  void populate(void*, size_t bytes) override { populated += bytes; }
  Ops& ops() override { std::abort(); }
  Stream compute_stream() override { return {}; }
  Stream copy_stream() override { return {}; }
  void copy(void* dst, const void* src, size_t bytes, Stream) override {
    ++num_copies;
    std::memcpy(dst, src, bytes);
  }
  Event record(Stream) override { return {}; }
  void wait(Stream, Event) override {}
  void sync(Event) override {}
  Nanos between(Event, Event) override { return {}; }
  std::unique_ptr<Graph> capture(Stream, const std::function<void()>&) override { return nullptr; }

  int num_allocations = 0;
  std::atomic<int> num_copies = 0;
  std::atomic<size_t> populated = 0;
};

}  // namespace sluice
