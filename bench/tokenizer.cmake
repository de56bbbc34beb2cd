# How fast text becomes ids, and ids text.
sluice_library(bench_tokenizer SRCS tokenizer.cc DEPS text nlohmann_json::nlohmann_json)
