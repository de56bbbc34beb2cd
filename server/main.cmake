# The gRPC side, and the binary. ThreadSanitizer builds have neither (see proto/CMakeLists.txt).
if(SLUICE_SANITIZE STREQUAL "thread")
  return()
endif()

sluice_library(grpc_convert SRCS grpc_convert.cc DEPS server_core sluice_proto)
sluice_library(grpc_server SRCS grpc_server.cc grpc_client.cc
               DEPS grpc_convert listener gRPC::grpc++ gRPC::grpc++_reflection)

add_executable(sluice main.cc cli.cc cli_manual.cc health.cc main_loop.cc manual.cc serve.cc simulate_flags.cc
                      workload_flags.cc)
target_link_libraries(sluice PRIVATE sluice_options http_server grpc_server engine text bench_ops
                      bench_model bench_serve bench_tokenizer inspect simulate CLI11::CLI11)

# The CUDA engine is loaded at run time, so nothing links it: whoever builds the daemon wants both.
if(SLUICE_HAVE_CUDA)
  add_dependencies(sluice sluice_cuda)
endif()
