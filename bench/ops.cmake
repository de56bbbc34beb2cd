# Kernel speeds and what the machine could do at most.
sluice_library(bench_ops SRCS ops.cc ceilings.cc DEPS cpu_device kernels base)
