# What a daemon served, as a file.
sluice_library(recording SRCS recording.cc read_recording.cc DEPS base block_pool scheduler nlohmann_json::nlohmann_json)
# The loop: threads and queues, no tensors.
sluice_library(engine_loop SRCS engine.cc engine_metrics.cc
               DEPS base metrics recording scheduler absl::flat_hash_map)
# Steps of a model, on arrays: no model files.
sluice_library(runner SRCS decode_captures.cc rank_runner.cc warm_up.cc sampler.cc step_inputs.cc
               DEPS base kernels kv_store scheduler)
# From a Config to an Engine.
sluice_library(engine SRCS build.cc make_device.cc
               DEPS base config budget block_pool engine_loop runner models cpu_device ${CMAKE_DL_LIBS})
