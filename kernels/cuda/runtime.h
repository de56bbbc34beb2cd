#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/status.h"
#include "kernels/device.h"
#include "kernels/ops.h"

namespace sluice::cuda {

class StepTrace;

struct DeviceInfo {
  std::string name;  // "NVIDIA H200"
  int num_multiprocessors = 0;
  bool has_fp8_products = false;
  size_t memory_bytes = 0;  // free or not
  std::string versions;     // of what computes, in a line: "compute 9.0, driver 13000, .."
};

// out [n, m] = x [n, k] * w [m, k]^T, summed up in f32. x, w: the same of bf16 and f16; out: that
// or f32. Or of fp8_e4m3 with scales: out[n][m] = x_scale[n] * w_scale[m] * sum; out: bf16, f16 or
// f32; then every dimension of w and the stride of x is a multiple of 16. Rows of x and out may be
// apart.
struct Product {
  Tensor out, x, w;
  Tensor x_scale, w_scale;  // f32 [n], [m]; absent but for fp8_e4m3
};
// What is done to a product's sums before they are rounded: a bias [m] of out's type (or, of
// results in f32, of x's) is added, then an activation is taken. Either may be absent.
struct Epilogue {
  Tensor bias;
  std::optional<Activation> activation;
  bool empty() const { return !bias && !activation; }
};
// The algorithm that the library takes: of those that it proposes for so many rows and no epilogue,
// that of this index, where it does for the product; else, and by default, the first that it
// proposes.
struct Way {
  int64_t rows = 0;
  int index = 0;
  bool operator==(const Way&) const = default;
};

// What the device and its ops ask of CUDA beside the kernels: memory, order, capture, and the
// library's matrix product. Two implementations: the GPU's (runtime_cuda.cc), and the emulator's
// (runtime_emulated.cc). A call that fails ends the process: behind an error of CUDA nothing on the
// device can be trusted.
//
// Any thread.
class Runtime {
 public:
  virtual ~Runtime() = default;

  // The one end of all failures. Prints `what`, and what the device was asked for of late, has
  // on_failure() done, and exits with kFailed, for whoever supervises to start another process.
  static constexpr int kFailed = 70;
  [[noreturn]] void fail(const std::string& what);
  void on_failure(std::function<void()> f) { on_failure_ = std::move(f); }
  // What was asked for; null: nobody keeps it. Outlives the use of this.
  void set_trace(const StepTrace* trace) { trace_ = trace; }

  virtual const DeviceInfo& info() const = 0;
  virtual size_t free_bytes() const = 0;
  // Zeroed, aligned to 256 bytes; null when there is no more.
  virtual void* allocate(size_t bytes, Memory) = 0;
  virtual void release(void*, Memory) = 0;

  // Streams and events live as long as this.
  virtual Stream make_stream() = 0;
  virtual Event make_event() = 0;
  // Fails where a kernel could not be launched since the last time: launches are not waited for.
  virtual void check_launches() = 0;
  // Between device and pinned memory in any direction. Both ends stay untouched until it is done.
  virtual void copy(void* dst, const void* src, size_t bytes, Stream) = 0;
  // From any memory to the device's; done when it returns.
  virtual void upload(void* dst, const void* src, size_t bytes) = 0;
  virtual void record(Event, Stream) = 0;  // forgets what it stood for before
  virtual void wait(Stream, Event) = 0;
  virtual void sync(Event) = 0;
  virtual Nanos between(Event, Event) = 0;  // as Device
  // Null: there is no memory for it.
  virtual std::unique_ptr<Graph> capture(Stream, const std::function<void()>& body) = 0;

  // By one thread. Returns what is left of the epilogue: what the library does not have for such a
  // product.
  virtual Epilogue matmul(Stream, const Product&, const Epilogue&, Way) = 0;
  // How many algorithms the library proposes: a Way's index is below that.
  virtual int num_ways(const Product&) = 0;

 private:
  std::mutex failing_;  // held for ever by the first thread to fail
  std::function<void()> on_failure_;
  const StepTrace* trace_ = nullptr;
};

// The runtime that this was linked with: of one GPU, by its index among those that are visible, or
// the emulator's. `libraries`: where to look for NVIDIA's libraries first; may be empty. Fails with
// one line that names what is missing.
absl::StatusOr<std::unique_ptr<Runtime>> open_runtime(int index, const std::string& libraries);

// Memory that goes back by itself. Fatal when there is no more: the plan was checked before.
Device::Buffer allocate(Runtime&, size_t bytes, Memory);

}  // namespace sluice::cuda
