# Kernel speeds and what the device could do at most.
sluice_library(bench_ops SRCS ops.cc mixture.cc swaps.cc on_device.cc ceilings.cc
               DEPS engine cpu_device kernels base nlohmann_json::nlohmann_json)
