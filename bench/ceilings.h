#pragma once

namespace sluice {

// What this machine can do at most, measured in this process: the yardsticks beside every speed
// that is reported. Other load lowers them; each is the best of several short runs.
struct Ceilings {
  int threads = 0;
  double read_gb_per_s = 0;     // memory, all threads reading
  double f32_gflop_per_s = 0;   // fused multiply-adds from registers, the chip's widest vectors
  double bf16_gflop_per_s = 0;  // vdpbf16ps; 0 where the chip has none
};

// Takes about a second. threads 0: as many as the CPU device would use.
Ceilings measure_ceilings(int threads);

}  // namespace sluice
