sluice_test(model_files_test
            SRCS safetensors_test.cc model_config_test.cc quantization_config_test.cc published_configs_test.cc layer_sizes_test.cc
                 weights_test.cc
                 make_model_test.cc
            DEPS models cpu_device text)
