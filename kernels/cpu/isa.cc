#include "kernels/cpu/isa.h"

#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/check.h"
#include "base/status.h"

namespace sluice::cpu {
namespace {

constexpr Isa kAll[] = {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::amx};

#if defined(__x86_64__)
// Linux keeps tile registers for those who ask, once a process: asm/prctl.h has the numbers.
bool may_use_tiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}
#endif

// The compiler's run-time library checks cpuid and that the system saves the registers (xgetbv).
bool supported(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (isa) {
    case Isa::portable:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case Isa::avx512:
      return supported(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq");
    case Isa::avx512bf16:
      return supported(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
    case Isa::amx:
      return supported(Isa::avx512bf16) && __builtin_cpu_supports("amx-tile") &&
             __builtin_cpu_supports("amx-bf16") && may_use_tiles();
  }
#endif
  return isa == Isa::portable;
}

}  // namespace

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return "portable";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512bf16:
      return "avx512bf16";
    case Isa::amx:
      return "amx";
  }
  return "";
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> result;
  for (const Isa isa : kAll) {
    if (supported(isa)) result.push_back(isa);
  }
  return result;
}

// vdpbf16ps makes two products a lane, but Intel's chips start it half as often as one, or less:
// there f32 is faster (112 against 230 GFLOP/s where AMX reaches 2,300), and exact besides.
Isa best_isa() {
  const Isa last = supported_isas().back();
#if defined(__x86_64__)
  if (last == Isa::avx512bf16 && __builtin_cpu_is("intel")) return Isa::avx512;
#endif
  return last;
}

absl::StatusOr<Isa> choose_isa(std::string_view name) {
  if (name == "auto") return best_isa();
  for (const Isa isa : kAll) {
    if (name != name_of(isa)) continue;
    if (!supported(isa)) {
      return invalid_argument("this processor or its system does not support {} (best here: {})",
                              name, name_of(best_isa()));
    }
    return isa;
  }
  return invalid_argument(
      "unknown instruction set '{}' (auto, amx, avx512bf16, avx512, avx2 or portable)", name);
}

Kernels kernels_for(Isa isa) {
  CHECK(supported(isa));
  Kernels k{};
#if defined(__x86_64__)
  if (isa == Isa::avx2) {
    avx2::fill_gemm(&k);
    avx2::fill_rows(&k);
    avx2::fill_attention(&k);
    avx2::fill_vocabulary(&k);
    return k;
  }
  if (isa != Isa::portable) {
    isa == Isa::avx512       ? avx512::fill_gemm(&k)
    : isa == Isa::avx512bf16 ? avx512bf16::fill_gemm(&k)
                             : amx::fill_gemm(&k);
    avx512::fill_rows(&k);
    avx512::fill_attention(&k);
    avx512::fill_vocabulary(&k);
    return k;
  }
#endif
  portable::fill_gemm(&k);
  portable::fill_rows(&k);
  portable::fill_attention(&k);
  portable::fill_vocabulary(&k);
  return k;
}

}  // namespace sluice::cpu
