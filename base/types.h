#pragma once

#include <chrono>
#include <cstdint>

// The few words every folder shares.
namespace sluice {

using TokenId = int32_t;
using RequestId = uint64_t;

// Time is monotonic and passed as an argument below the engine loop, never read.
using Nanos = std::chrono::nanoseconds;
using Instant = std::chrono::time_point<std::chrono::steady_clock, Nanos>;
inline constexpr Instant kNever = Instant::max();

inline double to_seconds(Nanos d) { return std::chrono::duration<double>(d).count(); }

// Stands for every sample of a request where a sample index is expected.
inline constexpr int kAllSamples = -1;

}  // namespace sluice
