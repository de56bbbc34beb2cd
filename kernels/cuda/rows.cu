#include "kernels/cuda/rows.h"

#include <algorithm>

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {

// One of them speaks for all: they are compiled together.
bool can_overlap() { return simt::waits_for_earlier<CopyRowsParams>(copy_rows_kernel<16>); }

void copy_rows(Stream stream, Tensor dst, Tensor src, Tensor from, Tensor to, int64_t count) {
  constexpr int64_t kPartBytes = 16 * 1024;
  const int64_t element = bits_of(src.dtype) / 8;
  CopyRowsParams p;
  p.dst = dst.data, p.src = src.data;
  p.from = from.as<int32_t>(), p.to = to.as<int32_t>();
  p.dst_stride = dst.stride[0] * element, p.src_stride = src.stride[0] * element;
  p.row_bytes = src.shape[1] * element;
  p.num_rows = int32_t(count);
  p.parts = int32_t(std::clamp<int64_t>(p.row_bytes / kPartBytes, 1, 64));
  const bool by_16 = wide(src.shape[1], {&dst, &src});
  CHECK(by_16 || element % 2 == 0);
  simt::launch<CopyRowsParams>(by_16 ? copy_rows_kernel<16> : copy_rows_kernel<2>,
                               {int(count) * p.parts, kCopyThreads, 0}, stream, p);
}

}  // namespace sluice::cuda
