#pragma once

namespace sluice {

// Kept in step with the project version by a check in CMake.
inline constexpr const char* kVersion = "0.1.0";

}  // namespace sluice
