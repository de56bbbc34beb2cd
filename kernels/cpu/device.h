#pragma once

#include <absl/status/statusor.h>

#include <memory>
#include <string>

#include "kernels/device.h"

namespace sluice {

struct CpuOptions {
  int threads = 0;           // 0: what the cgroup's quota and the affinity mask allow
  std::string isa = "auto";  // "amx", "avx512bf16", "avx512", "avx2", "portable"
};

// The machine's processors as a device. Synchronous: every op is done when its call returns, the
// streams and events are null. Fails where the chip lacks the instruction set asked for.
absl::StatusOr<std::unique_ptr<Device>> make_cpu_device(const CpuOptions& options);

}  // namespace sluice
