#include "engine/make_device.h"

#include <dlfcn.h>

#include <filesystem>

#include "base/log.h"
#include "base/version.h"
#include "engine/model_config.h"
#include "kernels/cpu/device.h"
#include "kernels/cuda/plugin.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPlugin = "libsluice_cuda.so";

// The engine's file: the one named by the knob, or the one that came with this binary.
absl::StatusOr<fs::path> find_plugin(const std::string& named) {
  std::error_code error;
  if (!named.empty()) {
    if (fs::is_regular_file(named, error)) return fs::path(named);
    return not_found("device.plugin: {} is not a file", named);
  }
  const fs::path here = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (const fs::path& folder : {here, here / "../lib/sluice"})
    if (fs::is_regular_file(folder / kPlugin, error)) return folder / kPlugin;
  return not_found("{} is neither in {} nor in ../lib/sluice from there", kPlugin, here.string());
}

// What a GPU computes in, where nothing is asked for: what the checkpoint is said to be of.
// Whatever is wrong with it is for its loader to say.
bool is_f16(const Config::Model& model) {
  if (model.dtype != "auto" || model.path.empty()) return model.dtype == "f16";
  const auto config = read_model_config(model.path);
  return config.ok() && config->dtype == DType::f16;
}

absl::StatusOr<std::unique_ptr<Device>> make_cuda_device(const Config& config) {
  const auto file = find_plugin(config.device.plugin);
  if (!file.ok()) return file.status();
  // Never closed: the device's code is in it.
  void* plugin = dlopen(file->c_str(), RTLD_NOW | RTLD_LOCAL);
  if (plugin == nullptr) return unavailable("{}", dlerror());
  auto* open = reinterpret_cast<cuda::OpenPlugin*>(dlsym(plugin, cuda::kOpenPlugin));
  if (open == nullptr) return invalid_argument("{} is not a CUDA engine", file->string());
  cuda::PluginOptions options;
  options.version = kVersion;
  options.device_index = config.device.index;
  options.f16 = is_f16(config.model);
  options.batch_invariant = config.device.batch_invariant;
  options.overlap_kernels = config.device.overlap_kernels;
  options.libraries = config.device.libraries.c_str();
  options.plan_cache = config.device.plan_cache.c_str();
  options.log = [](const char* line) { log_info("{}", line); };
  char error[512] = "";
  Device* device = open(&options, error, sizeof error);
  if (device == nullptr) return unavailable("{}", error);
  return std::unique_ptr<Device>(device);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> make_device(const Config& config) {
  const std::string& kind = config.device.kind;
  if (kind == "cuda" || kind == "auto") {
    auto device = make_cuda_device(config);
    if (device.ok()) return device;
    if (kind == "cuda") return annotate(device.status(), "device.kind = cuda");
    log_info("no GPU is used: {}", message_of(device.status()));
  } else if (kind != "cpu") {
    return invalid_argument("device.kind: '{}' is not one of auto, cpu, cuda", kind);
  }
  return make_cpu_device({config.device.threads, config.device.isa});
}

}  // namespace sluice
