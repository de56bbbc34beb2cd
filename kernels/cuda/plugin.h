// The CUDA engine is a plugin: it is built where there is an nvcc, and a daemon without it, or on a
// machine without a GPU, lacks nothing else. This is all that the two have in common beside
// kernels/device.h and what that includes; both come from one build.
#pragma once

#include <cstddef>

#include "kernels/device.h"

namespace sluice::cuda {

struct PluginOptions {
  const char* version = "";      // of the daemon; another one is refused
  int device_index = 0;          // among the GPUs that are visible
  bool f16 = false;              // what it computes in; else bf16
  bool batch_invariant = false;  // results do not depend on what else is in a batch
  bool overlap_kernels = true;   // see make_device()
  const char* libraries = "";    // the folder to look into for NVIDIA's libraries first
  const char* plan_cache = "";   // the folder for what is measured at the start; empty: none
  void (*log)(const char* line) = nullptr;  // the daemon's; not null with plan_cache
};

// null: `error` says why, in one line.
using OpenPlugin = Device*(const PluginOptions*, char* error, size_t error_size);
constexpr const char* kOpenPlugin = "sluice_open_cuda";

}  // namespace sluice::cuda
