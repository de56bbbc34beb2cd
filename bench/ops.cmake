# kernel benchmarks
