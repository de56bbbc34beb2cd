sluice_test(block_copier_test SRCS block_copier_test.cc DEPS kv_store)
sluice_test(kv_store_test SRCS kv_store_test.cc DEPS kv_store)
sluice_test(budget_test SRCS budget_test.cc DEPS budget)
sluice_test(step_inputs_test SRCS step_inputs_test.cc counting_new.cc DEPS runner)
sluice_test(recording_test SRCS recording_test.cc DEPS recording)
sluice_test(engine_test SRCS engine_test.cc engine_end_test.cc engine_loop_test.cc engine_metrics_test.cc
            DEPS engine_loop)
sluice_test(rank_runner_test SRCS rank_runner_test.cc counting_new.cc DEPS engine)
sluice_test(exactness_test SRCS exactness_test.cc same_bits_test.cc DEPS engine)
