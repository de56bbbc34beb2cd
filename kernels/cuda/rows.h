// Rows by index: embedding, the rows that are sampled, blocks of the cache. One op, since all of
// them only move bytes.
#pragma once

#include "kernels/simt/simt.h"

namespace sluice::cuda {

// dst row to[i] = src row from[i], for i < num_rows.
struct CopyRowsParams {
  void* dst;
  const void* src;
  const int32_t* from;                        // [num_rows]; null: i
  const int32_t* to;                          // [num_rows]; null: i
  int64_t dst_stride, src_stride, row_bytes;  // bytes; multiples of 16 for copy_rows<16>, else of 2
  int32_t num_rows;
  int32_t parts;  // blocks of threads to a row
};

constexpr int kCopyThreads = 128;

// A block takes a part of a row. kBytes: of one access.
template <int kBytes>
SIMT_KERNEL(kCopyThreads, 1)
copy_rows_kernel(CopyRowsParams p) {
  simt::wait_for_earlier();
  const int row = simt::block_id() / p.parts, part = simt::block_id() % p.parts;
  const int64_t from = p.from != nullptr ? p.from[row] : row;
  const int64_t to = p.to != nullptr ? p.to[row] : row;
  const auto* src = static_cast<const unsigned char*>(p.src) + from * p.src_stride;
  auto* dst = static_cast<unsigned char*>(p.dst) + to * p.dst_stride;
  const int64_t step = int64_t{kCopyThreads} * p.parts * kBytes;
  for (int64_t at = int64_t(part * kCopyThreads + simt::thread_id()) * kBytes; at < p.row_bytes;
       at += step) {
    if constexpr (kBytes == 16) {
      simt::store_16(dst + at, simt::load_16(src + at));
    } else {
      *reinterpret_cast<uint16_t*>(dst + at) = *reinterpret_cast<const uint16_t*>(src + at);
    }
  }
}

}  // namespace sluice::cuda
