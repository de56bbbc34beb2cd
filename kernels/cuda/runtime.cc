#include "kernels/cuda/runtime.h"

#include <cstdio>
#include <cstdlib>

#include "base/text.h"
#include "kernels/cuda/step_trace.h"

namespace sluice::cuda {

void Runtime::fail(const std::string& what) {
  failing_.lock();
  std::string text = fmt::format("{}: {}\n", info().name, what);
  if (trace_ != nullptr)
    text += fmt::format(
        "  What it was asked for of late. Where the error was seen need not be where it was made: "
        "with CUDA_LAUNCH_BLOCKING=1 in the environment the last op is the one.\n{}",
        trace_->to_text());
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
  if (on_failure_) on_failure_();
  std::_Exit(kFailed);
}

Device::Buffer allocate(Runtime& runtime, size_t bytes, Memory kind) {
  void* p = runtime.allocate(bytes, kind);
  if (p == nullptr) {
    runtime.set_trace(nullptr);  // memory is taken at the start: no step is to blame
    const std::string wanted = bytes_text(int64_t(bytes));
    if (kind == Memory::pinned_host)
      runtime.fail("out of memory: the host has no " + wanted + " that can be pinned");
    runtime.fail(
        fmt::format("out of memory: {} are wanted, {} are free (who shares the GPU may "
                    "have taken what there was)",
                    wanted, bytes_text(int64_t(runtime.free_bytes()))));
  }
  return {p, [&runtime, kind](void* q) { runtime.release(q, kind); }};
}

}  // namespace sluice::cuda
