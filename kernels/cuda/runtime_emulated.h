#pragma once

#include <memory>

#include "kernels/cuda/runtime.h"

namespace sluice::cuda {

// A GPU without a GPU, for tests: the host's memory, streams that run at the last moment
// (kernels/simt/stream.h), launches on the emulator, and a plain matrix product.
std::unique_ptr<Runtime> make_emulated_runtime();

}  // namespace sluice::cuda
