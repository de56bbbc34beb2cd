#pragma once

#include <atomic>

namespace sluice {

// Calls of the global operator new, by any thread. counting_new.cc replaces it in the test binaries
// that link it; it is a file of its own so that the compiler does not see through the replacement.
extern std::atomic<long> num_news;

}  // namespace sluice
