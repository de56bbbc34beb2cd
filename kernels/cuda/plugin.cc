#include "kernels/cuda/plugin.h"

#include <cstdio>
#include <string_view>

#include "base/version.h"
#include "kernels/cuda/device.h"

extern "C" __attribute__((visibility("default"))) sluice::Device* sluice_open_cuda(
    const sluice::cuda::PluginOptions* options, char* error, size_t error_size) {
  using namespace sluice;
  const auto refuse = [&](const std::string& why) {
    std::snprintf(error, error_size, "%s", why.c_str());
    return nullptr;
  };
  if (std::string_view(options->version) != kVersion)
    return refuse(fmt::format("it is of version {}, this is {}", kVersion, options->version));
  auto runtime = cuda::open_runtime(options->device_index, options->libraries);
  if (!runtime.ok()) return refuse(std::string(message_of(runtime.status())));
  const DType act = options->f16 ? DType::f16 : DType::bf16;
  cuda::PlanCache plans;
  if (*options->plan_cache != '\0') {
    const cuda::DeviceInfo& info = (*runtime)->info();
    plans = cuda::PlanCache(options->plan_cache,
                            fmt::format("{}, {}, Sluice {}", info.name, info.versions, kVersion),
                            [log = options->log](const std::string& line) { log(line.c_str()); });
  }
  return cuda::make_device(*std::move(runtime), act, options->batch_invariant, std::move(plans),
                           options->overlap_kernels)
      .release();
}
