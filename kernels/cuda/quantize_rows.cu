#include "kernels/cuda/quantize_rows.h"

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {

void quantize_rows(Stream stream, Tensor out, Tensor scale, Tensor x) {
  const int64_t dim = x.shape[1];
  CHECK(dim % kQuantizeStep == 0 && out.contiguous() && out.shape == x.shape);
  const bool by_8 = wide(dim, {&x});
  dispatch(x.dtype, [&]<class T>(T) {
    QuantizeRowsParams<T> p;
    p.out = out.as<uint8_t>(), p.scale = scale.as<float>();
    p.x = x.as<T>(), p.x_stride = x.stride[0];
    p.dim = int32_t(dim);
    simt::launch<QuantizeRowsParams<T>>(
        by_8 ? quantize_rows_kernel<T, 8> : quantize_rows_kernel<T, 1>,
        {int(x.shape[0]), kQuantizeThreads, sizeof(QuantizeRowsShared)}, stream, p);
  });
}

}  // namespace sluice::cuda
