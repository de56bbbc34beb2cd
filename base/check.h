#pragma once

// CHECK is for bugs: conditions that no input can cause. What users can cause is an absl::Status.
namespace sluice {

[[noreturn]] void check_failed(const char* expression, const char* file, int line);

}  // namespace sluice

// Always on, in release builds too: a wrong block table is worse than an abort.
#define CHECK(expression)                               \
  (static_cast<bool>(expression) ? static_cast<void>(0) \
                                 : ::sluice::check_failed(#expression, __FILE__, __LINE__))
