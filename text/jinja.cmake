sluice_library(jinja DEPS base)
