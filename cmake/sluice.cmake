# Targets of this project. A library may use only what its DEPS name: the dependency rule of
# docs/architecture.md, enforced by the linker (and by tests/arch).

add_library(sluice_options INTERFACE)
target_include_directories(sluice_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(sluice_options INTERFACE -Wall -Wextra -Wno-missing-field-initializers)
if(SLUICE_SANITIZE STREQUAL "address")
  target_compile_options(sluice_options INTERFACE -fsanitize=address,undefined
                         -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(sluice_options INTERFACE -fsanitize=address,undefined)
elseif(SLUICE_SANITIZE STREQUAL "fuzzer")
  target_compile_options(sluice_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined
                         -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(sluice_options INTERFACE -fsanitize=address,undefined)
elseif(SLUICE_SANITIZE STREQUAL "thread")
  target_compile_options(sluice_options INTERFACE -fsanitize=thread -Wno-tsan)
  target_link_options(sluice_options INTERFACE -fsanitize=thread)
endif()

# sluice_library(NAME SRCS a.cc ... DEPS lib ...)
function(sluice_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(${name} STATIC ${ARG_SRCS})
    target_link_libraries(${name} PUBLIC sluice_options ${ARG_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE sluice_options ${ARG_DEPS})
  endif()
endfunction()

# What tests/run.sh builds with sanitizers: files and text that strangers wrote (address), threads
# (thread), and CUDA kernels on the emulator (both: bounds, and races between a block's threads).
# tests/sanitize.sh builds and runs everything.
set(SLUICE_SIMT_TESTS simt_emulator_test simt_rows_test simt_attention_test simt_sample_test
                      simt_skinny_matmul_test simt_grouped_matmul_test)
set(SLUICE_SANITIZED_address parse_test stream_test model_files_test text_test jinja_bounds_test
                             fuzz_jinja fuzz_safetensors fuzz_config fuzz_tokenizer fuzz_sentencepiece
                             fuzz_request fuzz_http fuzz_grpc
                             scheduler_sim_test scheduler_preset_test scheduler_rules_test
                             simt_engine_test ${SLUICE_SIMT_TESTS})
set(SLUICE_SANITIZED_thread base_test block_copier_test engine_test http_server_test
                            ${SLUICE_SIMT_TESTS})

# sluice_test(NAME SRCS a_test.cc ... DEPS lib ...): one GoogleTest binary; every TEST in it is a test of
# its own for ctest.
function(sluice_test name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE sluice_options ${ARG_DEPS} GTest::gtest_main GTest::gmock)
  target_compile_definitions(${name} PRIVATE SLUICE_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  set(label all)
  if(name IN_LIST SLUICE_SANITIZED_${SLUICE_SANITIZE})
    set(label sanitized)
  endif()
  include(GoogleTest)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 120
                       PROPERTIES TIMEOUT 900 LABELS ${label})
endfunction()
