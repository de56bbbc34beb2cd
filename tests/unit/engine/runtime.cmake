sluice_test(kv_store_test SRCS kv_store_test.cc DEPS kv_store LABELS sanitized)
sluice_test(budget_test SRCS budget_test.cc DEPS budget)
sluice_test(step_inputs_test SRCS step_inputs_test.cc counting_new.cc DEPS runner LABELS sanitized)
sluice_test(engine_test SRCS engine_test.cc DEPS engine_loop LABELS sanitized)
