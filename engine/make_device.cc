#include "engine/make_device.h"

#include "kernels/cpu/device.h"

namespace sluice {

absl::StatusOr<std::unique_ptr<Device>> make_device(const Config::Device& config) {
  if (config.kind == "cuda")
    return unimplemented("device.kind = cuda: this build has no CUDA engine; use cpu or auto");
  if (config.kind != "auto" && config.kind != "cpu")
    return invalid_argument("device.kind: '{}' is not one of auto, cpu", config.kind);
  return make_cpu_device({config.threads, config.isa});
}

}  // namespace sluice
