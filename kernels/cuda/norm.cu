#include "kernels/cuda/norm.h"

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

template <class T, int kThreads, int kVector>
void start(Stream stream, const RmsNormParams<T>& p, int64_t rows) {
  simt::launch<RmsNormParams<T>>(rms_norm_kernel<T, kThreads, kVector>,
                                 {int(rows), kThreads, sizeof(BlockSum<kThreads>)}, stream, p);
}

template <class T, int kThreads, int kVector>
void start(Stream stream, const LayerNormParams<T>& p, int64_t rows) {
  simt::launch<LayerNormParams<T>>(layer_norm_kernel<T, kThreads, kVector>,
                                   {int(rows), kThreads, sizeof(LayerNormShared<kThreads>)}, stream,
                                   p);
}

// Strides over the outer and the inner rows of a tensor of rank 2 or 3.
int64_t outer_of(const Tensor& t) { return t.rank == 0 ? 0 : t.stride[0]; }
int64_t inner_of(const Tensor& t) { return t.rank == 3 ? t.stride[1] : 0; }

}  // namespace

void rms_norm(Stream stream, Tensor out, Tensor residual, Tensor x, Tensor weight, float eps) {
  CHECK(weight.dtype == DType::f32 && (out.rank == 2 || out.rank == 3));
  const bool by_8 = wide(out.shape[size_t(out.rank) - 1], {&out, &residual, &x});
  dispatch(out.dtype, [&]<class T>(T) {
    RmsNormParams<T> p;
    p.out = out.as<T>(), p.residual = residual.as<T>(), p.x = x.as<T>();
    p.weight = weight.as<float>();
    p.out_outer = outer_of(out), p.out_inner = inner_of(out);
    p.residual_outer = outer_of(residual), p.residual_inner = inner_of(residual);
    p.x_outer = outer_of(x), p.x_inner = inner_of(x);
    p.num_inner = out.rank == 3 ? int32_t(out.shape[1]) : 1;
    p.dim = int32_t(out.shape[size_t(out.rank) - 1]);
    p.eps = eps;
    const int64_t rows = out.shape[0] * p.num_inner;
    if (p.dim <= 256) {
      by_8 ? start<T, 32, 8>(stream, p, rows) : start<T, 32, 1>(stream, p, rows);
    } else {
      by_8 ? start<T, 256, 8>(stream, p, rows) : start<T, 256, 1>(stream, p, rows);
    }
  });
}

void layer_norm(Stream stream, Tensor out, Tensor x, Tensor weight, Tensor bias, float eps) {
  CHECK(weight.dtype == DType::f32 && out.rank == 2);
  const bool by_8 = wide(out.shape[1], {&out, &x});
  dispatch(out.dtype, [&]<class T>(T) {
    const LayerNormParams<T> p{out.as<T>(),   x.as<T>(),   weight.as<float>(),  bias.as<float>(),
                               out.stride[0], x.stride[0], int32_t(x.shape[1]), eps};
    if (p.dim <= 256) {
      by_8 ? start<T, 32, 8>(stream, p, out.shape[0]) : start<T, 32, 1>(stream, p, out.shape[0]);
    } else {
      by_8 ? start<T, 256, 8>(stream, p, out.shape[0]) : start<T, 256, 1>(stream, p, out.shape[0]);
    }
  });
}

}  // namespace sluice::cuda
