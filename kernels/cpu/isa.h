#pragma once

#include <absl/status/statusor.h>

#include <string_view>
#include <vector>

#include "kernels/cpu/kernels.h"

// Which kernels a machine can run: found out once, when a device is made.
namespace sluice::cpu {

enum class Isa { portable, avx2, avx512, avx512bf16, amx };

std::string_view name_of(Isa);

// What this chip and its operating system support, each with all that those before it need.
std::vector<Isa> supported_isas();

// The fastest of them, which "auto" stands for.
Isa best_isa();

// "auto" or a name; an error that says what the chip lacks.
absl::StatusOr<Isa> choose_isa(std::string_view name);

// The table of a supported set.
Kernels kernels_for(Isa);

}  // namespace sluice::cpu
