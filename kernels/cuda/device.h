#pragma once

#include <memory>

#include "kernels/cuda/plan_cache.h"
#include "kernels/cuda/runtime.h"

namespace sluice::cuda {

// A GPU as a device, over the runtime's calls. act: of activations, weights, keys and values; bf16
// or f16. batch_invariant: see CudaOps. Plans: what was measured at an earlier start.
// overlap_kernels: see Stream; where they can. An event is good until 256 later ones.
std::unique_ptr<Device> make_device(std::unique_ptr<Runtime>, DType act,
                                    bool batch_invariant = false, PlanCache = {},
                                    bool overlap_kernels = true);

}  // namespace sluice::cuda
