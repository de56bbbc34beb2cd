# Model files, weights and architectures.
sluice_library(models DEPS base config kernels kv_store)
