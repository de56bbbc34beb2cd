#include "kernels/cuda/elementwise.h"

#include <algorithm>

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

int parts_of(int64_t dim, int vector) {
  return int(
      std::max<int64_t>((dim + kElementThreads * vector - 1) / (kElementThreads * vector), 1));
}

template <Gate kGate>
void gated(Stream stream, const Tensor& out, const Tensor& x) {
  const int64_t dim = out.shape[1];
  const bool by_8 = wide(dim, {&out, &x});
  dispatch(out.dtype, [&]<class T>(T) {
    GateMulParams<T> p;
    p.out = out.as<T>(), p.x = x.as<T>();
    p.out_stride = out.stride[0], p.x_stride = x.stride[0];
    p.dim = int32_t(dim);
    p.parts = parts_of(dim, by_8 ? 8 : 1);
    simt::launch<GateMulParams<T>>(
        by_8 ? gate_mul_kernel<T, kGate, 8> : gate_mul_kernel<T, kGate, 1>,
        {int(out.shape[0]) * p.parts, kElementThreads, 0}, stream, p);
  });
}

template <Gate kGate>
void activated(Stream stream, const Tensor& x) {
  const int64_t dim = x.shape[1];
  const bool by_8 = wide(dim, {&x});
  dispatch(x.dtype, [&]<class T>(T) {
    const ActivateParams<T> p{x.as<T>(), x.stride[0], int32_t(dim), parts_of(dim, by_8 ? 8 : 1)};
    simt::launch<ActivateParams<T>>(
        by_8 ? activate_kernel<T, kGate, 8> : activate_kernel<T, kGate, 1>,
        {int(x.shape[0]) * p.parts, kElementThreads, 0}, stream, p);
  });
}

}  // namespace

void add(Stream stream, Tensor out, Tensor a, Tensor b) {
  const int64_t dim = out.shape[1];
  const bool by_8 = wide(dim, {&out, &a, &b});
  dispatch(out.dtype, [&]<class T>(T) {
    AddParams<T> p;
    p.out = out.as<T>(), p.a = a.as<T>(), p.b = b.as<T>();
    p.out_stride = out.stride[0], p.a_stride = a.stride[0], p.b_stride = b.stride[0];
    p.dim = int32_t(dim);
    p.parts = parts_of(dim, by_8 ? 8 : 1);
    simt::launch<AddParams<T>>(by_8 ? add_kernel<T, 8> : add_kernel<T, 1>,
                               {int(out.shape[0]) * p.parts, kElementThreads, 0}, stream, p);
  });
}

void add_bias(Stream stream, Tensor out, Tensor bias) {
  const int64_t dim = out.shape[1];
  const bool by_8 = out.dtype != DType::f32 && wide(dim, {&out, &bias});
  const auto start = [&]<class Out, class T>(Out, T) {
    const AddBiasParams<Out, T> p{out.as<Out>(), bias.as<T>(), out.stride[0], int32_t(dim),
                                  parts_of(dim, by_8 ? 8 : 1)};
    simt::launch<AddBiasParams<Out, T>>(
        by_8 ? add_bias_kernel<Out, T, 8> : add_bias_kernel<Out, T, 1>,
        {int(out.shape[0]) * p.parts, kElementThreads, 0}, stream, p);
  };
  dispatch(bias.dtype, [&]<class T>(T t) {
    if (out.dtype == DType::f32) return start(0.0f, t);
    CHECK(out.dtype == bias.dtype);
    start(t, t);
  });
}

void silu_mul(Stream stream, Tensor out, Tensor gate_up) {
  gated<Gate::silu>(stream, out, gate_up);
}
void gelu_mul(Stream stream, Tensor out, Tensor gate_up) {
  gated<Gate::gelu_tanh>(stream, out, gate_up);
}

void activate(Stream stream, Tensor x, Activation activation) {
  switch (activation) {
    case Activation::silu:
      return activated<Gate::silu>(stream, x);
    case Activation::gelu:
      return activated<Gate::gelu>(stream, x);
    case Activation::gelu_tanh:
      return activated<Gate::gelu_tanh>(stream, x);
    case Activation::relu:
      return activated<Gate::relu>(stream, x);
  }
}

void scale(Stream stream, Tensor x, float factor, float softcap) {
  const auto start = [&]<class T>(T) {
    const ScaleParams<T> p{x.as<T>(), x.stride[0], int32_t(x.shape[1]), parts_of(x.shape[1], 1),
                           factor,    softcap};
    simt::launch<ScaleParams<T>>(scale_kernel<T>, {int(x.shape[0]) * p.parts, kElementThreads, 0},
                                 stream, p);
  };
  if (x.dtype == DType::f32) return start(0.0f);
  dispatch(x.dtype, start);
}

}  // namespace sluice::cuda
