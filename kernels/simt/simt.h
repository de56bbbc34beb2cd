// What a portable CUDA kernel may call: one kernel source, two meanings.
//
//   nvcc: every call is an intrinsic or one line of PTX (simt_cuda.h).
//   g++:  every call goes to an emulator that is stricter than the chip (emulator.h): a block's
//         threads are fibers on one OS thread.
//
// Rules for a kernel written on it:
//  - A kernel is SIMT_KERNEL(threads, blocks) void f(Params): one struct by value, grids of one
//    dimension, whole warps. It is started by launch() (launch.h).
//  - Thread ids, collectives, atomics, asynchronous copies and mma come from here and nowhere else;
//    no `#ifdef`, no assembly, no `<<<>>>`.
//  - All shared memory is one struct, reached by shared<T>(). A `__shared__` variable would be
//    invisible to the emulator, which could neither poison it nor watch its bounds.
//  - Its first statement is wait_for_earlier(): it may be on the chip while the kernel before it
//    still runs (Stream::overlaps), and touches no memory, shared or global, until that has ended.
//  - Warp collectives are executed by all 32 lanes.
//  - Other blocks are talked to by atomic_add_acq_rel() alone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::simt {

struct LaunchConfig {
  int num_blocks = 1;
  int num_threads = 32;     // a multiple of 32, at most 1024
  size_t shared_bytes = 0;  // dynamic shared memory of a block
};

struct alignas(16) Vec4 {
  uint32_t x = 0, y = 0, z = 0, w = 0;
};
struct alignas(16) Float4 {
  float v[4] = {};
};

// Floats as they lie in memory, of 16 bits first. Arithmetic is in f32: to_float(), and back by
// rounding to nearest, ties to even.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
// An 8-bit float (OCP e4m3, base/float8.h). from_float() saturates; what reads it is
// widen_e4m3<i, j>(T{}, codes): bytes i and j of a register, exactly, as its low and its high T. A
// NaN is one on the emulator and may be a number on a GPU: nobody counts on it.
struct E4m3 {
  uint8_t bits;
};

}  // namespace sluice::simt

#ifdef __CUDACC__
#include "kernels/simt/simt_cuda.h"
#else
#include "kernels/simt/emulator.h"
#endif

namespace sluice::simt {

template <class To, class From>
SIMT_DEVICE To bit_cast(const From& v) {
  return __builtin_bit_cast(To, v);
}

SIMT_DEVICE Float4 load_float4(const void* p) { return bit_cast<Float4>(load_16(p)); }
SIMT_DEVICE void store_float4(void* p, const Float4& f) { store_16(p, bit_cast<Vec4>(f)); }

// exp(x), log(x), and tanh(x) = 1 - 2 / (1 + exp(2 x)), which is right to f32's rounding of 1 for
// every x.
SIMT_DEVICE float exp(float x) { return exp2_approx(x * 1.4426950408889634f); }
SIMT_DEVICE float log(float x) { return log2_approx(x) * 0.6931471805599453f; }
SIMT_DEVICE float tanh(float x) { return 1 - 2 * reciprocal(1 + exp(2 * x)); }

// Over the lanes of a warp, in one fixed order; every lane gets the result.
template <class T>
SIMT_DEVICE T warp_sum(T v) {
  SIMT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
  return v;
}
SIMT_DEVICE float warp_max(float v) {
  SIMT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) v = max(v, shuffle_xor(v, mask));
  return v;
}

}  // namespace sluice::simt
