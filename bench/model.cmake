# model benchmark
