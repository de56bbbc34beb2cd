// How host code starts a kernel: on a stream of the GPU, or on the emulator. A launch without a
// stream returns when all of it has run.
#pragma once

#include "kernels/device.h"
#include "kernels/simt/simt.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "kernels/simt/stream.h"
#endif

namespace sluice::simt {

template <class Params>
using Kernel = void (*)(Params);

// An error is left for the device's next check: launches are not waited for.
template <class Params>
void launch(Kernel<Params> kernel, const LaunchConfig& config, Stream stream,
            const Params& params) {
  if (config.num_blocks == 0) return;
#ifdef __CUDACC__
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (config.shared_bytes > kWithoutAsking)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         int(config.shared_bytes));
  kernel<<<unsigned(config.num_blocks), unsigned(config.num_threads), config.shared_bytes,
           static_cast<cudaStream_t>(stream.handle)>>>(params);
  if (stream.handle == nullptr) cudaStreamSynchronize(nullptr);
#else
  const auto run = [=] { emulate(config, [&] { kernel(params); }); };
  if (stream.handle == nullptr) return run();
  static_cast<EmulatedStream*>(stream.handle)->put(run);
#endif
}

}  // namespace sluice::simt
