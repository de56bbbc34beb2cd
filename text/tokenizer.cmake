sluice_library(tokenizer DEPS base)
