#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "base/types.h"
#include "kernels/tensor.h"

namespace sluice {

class Ops;

enum class Memory { device, pinned_host };

// Opaque handles; null on a synchronous device, where every wait is a no-op.
struct Stream {
  void* handle = nullptr;
  // Kernels put here may be brought to the chip while the one before them runs; there they wait for
  // it before they touch memory.
  bool overlaps = false;
};
struct Event {
  void* handle = nullptr;
};

// A captured sequence of ops that can be replayed (CUDA graph).
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void replay(Stream) = 0;
  virtual int num_nodes() const = 0;  // kernels and copies
};

// Memory, ordering and capture for one accelerator. Ops live in ops.h.
// Two implementations: CpuDevice, CudaDevice. Not thread-safe: one owner thread, beside which one
// other may use the copy stream (copy, record, sync).
class Device {
 public:
  virtual ~Device() = default;

  virtual std::string name() const = 0;  // "cpu (avx512)", for logs and metrics

  using Buffer = std::unique_ptr<void, std::function<void(void*)>>;
  // Zeroed, aligned to 64 bytes at least. Fatal when memory runs out: the plan was checked before.
  virtual Buffer allocate(size_t bytes, Memory) = 0;
  virtual size_t free_bytes() const = 0;
  virtual size_t total_bytes() const = 0;  // free, or held by anybody
  // The processor reads and writes Memory::device like its own.
  virtual bool is_host() const = 0;
  // Puts real pages behind a part of a buffer, which keeps its contents. From any thread, also
  // while others use the memory; a no-op where memory is real from the start.
  virtual void populate(void*, size_t) {}

  // The instruction set on the compute stream. Lives as long as the device.
  virtual Ops& ops() = 0;

  virtual Stream compute_stream() = 0;
  virtual Stream copy_stream() = 0;  // swaps and uploads; never blocks compute
  virtual void copy(void* dst, const void* src, size_t bytes, Stream) = 0;

  virtual Event record(Stream) = 0;
  virtual void wait(Stream, Event) = 0;  // device-side ordering
  virtual void sync(Event) = 0;          // host-side wait
  // From one event to a later one of the same stream, both passed. 0 on a synchronous device.
  virtual Nanos between(Event, Event) = 0;

  // A device that fails says so on stderr, has this done, once and on any thread, and ends the
  // process. To be set while nothing is under way.
  virtual void on_failure(std::function<void()>) {}

  // Runs `body` once while recording it; nullptr if the device cannot capture.
  virtual std::unique_ptr<Graph> capture(Stream, const std::function<void()>& body) = 0;
  // What a node of a captured sequence is reckoned to take of the device's memory.
  virtual size_t bytes_per_node() const { return 0; }
};

}  // namespace sluice
