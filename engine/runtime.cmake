# The loop, and the runner that drives a model.
sluice_library(engine DEPS base metrics config kernels kv_store scheduler models)
