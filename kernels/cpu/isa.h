#pragma once

#include <absl/status/statusor.h>

#include <string_view>
#include <vector>

#include "kernels/cpu/kernels.h"

// Which kernels a machine can run: found out once, when a device is made.
namespace sluice::cpu {

enum class Isa { portable, avx2, avx512, avx512bf16, amx };

std::string_view name_of(Isa);

// What this chip and its operating system support, best last.
std::vector<Isa> supported_isas();

// "auto" or a name; an error that says what the chip lacks.
absl::StatusOr<Isa> choose_isa(std::string_view name);

// The table of a supported set.
Kernels kernels_for(Isa);

}  // namespace sluice::cpu
