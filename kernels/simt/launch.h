// How host code starts a kernel: on a stream of the GPU, or on the emulator. A launch without a
// stream returns when all of it has run.
#pragma once

#include <type_traits>

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
  static_assert(std::is_trivially_copyable_v<Params>);
#ifdef __CUDACC__
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (config.shared_bytes > kWithoutAsking)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         int(config.shared_bytes));
  cudaLaunchAttribute overlaps{};
  overlaps.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlaps.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t how{};
  how.gridDim = dim3(unsigned(config.num_blocks));
  how.blockDim = dim3(unsigned(config.num_threads));
  how.dynamicSmemBytes = config.shared_bytes;
  how.stream = static_cast<cudaStream_t>(stream.handle);
  how.attrs = &overlaps;
  how.numAttrs = stream.overlaps ? 1 : 0;
  cudaLaunchKernelEx(&how, kernel, params);
  if (stream.handle == nullptr) cudaStreamSynchronize(nullptr);
#else
  const auto run = [=] {
    Params nowhere = params;
    std::memset(static_cast<void*>(&nowhere), 0xff, sizeof nowhere);
    emulate_until_wait(reinterpret_cast<const void*>(kernel), config, [&] { kernel(nowhere); });
    emulate(config, [&] { kernel(params); });
  };
  if (stream.handle == nullptr) return run();
  static_cast<EmulatedStream*>(stream.handle)->put(run);
#endif
}

// Whether the kernel waits for earlier ones as it was compiled for this device: code for older
// chips, which newer ones can run, does not.
template <class Params>
bool waits_for_earlier([[maybe_unused]] Kernel<Params> kernel) {
#ifdef __CUDACC__
  cudaFuncAttributes compiled{};
  const bool known = cudaFuncGetAttributes(&compiled, kernel) == cudaSuccess;
  return known && compiled.ptxVersion >= 90;
#else
  return true;
#endif
}

}  // namespace sluice::simt
