# Prefill and decode speed of a model.
sluice_library(bench_model SRCS model.cc DEPS engine bench_ops nlohmann_json::nlohmann_json)
