#pragma once

#include <string>

#include "kernels/device.h"

namespace sluice {

// What a device can do at most, measured in this process: the yardsticks beside every speed that is
// reported. Other load lowers them; each is the best of several short runs.
struct Ceilings {
  int threads = 0;              // of the processor; 0 on a device of its own
  double read_gb_per_s = 0;     // memory; on a device of its own read and written, by a copy within
  double f32_gflop_per_s = 0;   // fused multiply-adds from registers, the chip's widest vectors
  double bf16_gflop_per_s = 0;  // AMX or vdpbf16ps; a device of its own: its matmul. 0: none
  double fp8_gflop_per_s = 0;   // of a device's matmul of fp8 by fp8; 0: it has none

  double peak_gflop_per_s(bool bf16) const {
    return bf16 && bf16_gflop_per_s > 0 ? bf16_gflop_per_s : f32_gflop_per_s;
  }
  // The least seconds that so much work takes: bytes or arithmetic, whichever takes longer.
  // fp8_flops: beside the others, of products in fp8 (at 16 bits where the device has none).
  double floor_seconds(double bytes, double flops, bool bf16, double fp8_flops = 0) const;
  std::string text() const;  // "read 26.0 GB/s, f32 283 GFLOP/s"
};

// Takes about a second. threads: of the CPU device; 0: as many as it would use.
Ceilings measure_ceilings(Device&, int threads);

}  // namespace sluice
