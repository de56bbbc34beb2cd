// Matrices of noise, made where they will lie.
#pragma once

#include "base/random_weights.h"
#include "kernels/simt/simt.h"

namespace sluice::cuda {

constexpr int kRandomThreads = 256;
constexpr int kRandomRun = 16;  // elements of a thread, a block's width apart

// out [rows, columns], dense: see RandomRows.
template <class T>
struct RandomRowsParams {
  T* out;
  float* scale;  // [rows] of fp8; else null
  uint64_t stream;
  int64_t first, row_step, column_step;
  int64_t columns, size;        // of all elements
  float scales[kRandomScales];  // a row has that of its number in the tensor
};

template <class Stored>
SIMT_DEVICE float rounded_to(float x) {
  if constexpr (sizeof(Stored) == sizeof(float)) {
    return x;
  } else {
    Stored stored;
    simt::from_float(stored, x);
    return simt::to_float(stored);
  }
}

template <class T, class Stored>
SIMT_KERNEL(kRandomThreads, 1)
random_rows_kernel(RandomRowsParams<T> p) {
  simt::wait_for_earlier();
  int64_t i = int64_t{simt::block_id()} * kRandomThreads * kRandomRun + simt::thread_id();
  for (int run = 0; run < kRandomRun && i < p.size; ++run, i += kRandomThreads) {
    const int64_t row = p.first + i / p.columns, column = i % p.columns;
    const auto index = uint64_t(row * p.row_step + column * p.column_step);
    const float x = random_weight(p.stream, index, kWeightDeviation);
    if constexpr (sizeof(T) == 1) {
      const float scale = p.scales[row % kRandomScales];
      simt::from_float(p.out[i], x / scale);
      if (column == 0) p.scale[row - p.first] = scale;
    } else {
      simt::from_float(p.out[i], rounded_to<Stored>(x));
    }
  }
}

}  // namespace sluice::cuda
