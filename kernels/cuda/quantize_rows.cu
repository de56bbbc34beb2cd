#include "kernels/cuda/quantize_rows.h"

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

template <class Rows>
void start(Stream stream, const Rows& rows, const Tensor& out, const Tensor& scale) {
  CHECK(out.shape[1] % kQuantizeStep == 0 && out.contiguous());
  const QuantizeRowsParams<Rows> p{rows, out.as<uint8_t>(), scale.as<float>(),
                                   int32_t(out.shape[1])};
  simt::launch<QuantizeRowsParams<Rows>>(
      quantize_rows_kernel<Rows>, {int(out.shape[0]), kQuantizeThreads, sizeof(QuantizeRowsShared)},
      stream, p);
}

template <Gate kGate>
void gated(Stream stream, const Tensor& out, const Tensor& scale, const Tensor& x) {
  CHECK(x.shape[1] == 2 * out.shape[1]);
  const bool by_8 = wide(out.shape[1], {&x});
  dispatch(x.dtype, [&]<class T>(T) {
    by_8 ? start(stream, GatedRows<T, kGate, 8>{x.as<T>(), x.stride[0], nullptr}, out, scale)
         : start(stream, GatedRows<T, kGate, 1>{x.as<T>(), x.stride[0], nullptr}, out, scale);
  });
}

}  // namespace

void quantize_rows(Stream stream, Tensor out, Tensor scale, Tensor x) {
  CHECK(out.shape == x.shape);
  const bool by_8 = wide(x.shape[1], {&x});
  dispatch(x.dtype, [&]<class T>(T) {
    by_8 ? start(stream, StoredRows<T, 8>{x.as<T>(), x.stride[0]}, out, scale)
         : start(stream, StoredRows<T, 1>{x.as<T>(), x.stride[0]}, out, scale);
  });
}

void quantize_normed(Stream stream, Tensor out, Tensor scale, Tensor residual, Tensor x,
                     Tensor weight, float eps) {
  CHECK(weight.dtype == DType::f32 && residual.rank == 2 && out.shape == residual.shape);
  const bool by_8 = wide(out.shape[1], {&residual, &x});
  dispatch(residual.dtype, [&]<class T>(T) {
    const auto rows = [&]<int kVector>() {
      return NormedRows<T, kVector>{
          residual.as<T>(), x.as<T>(), weight.as<float>(), residual.stride[0], x.stride[0], eps, 0};
    };
    by_8 ? start(stream, rows.template operator()<8>(), out, scale)
         : start(stream, rows.template operator()<1>(), out, scale);
  });
}

void quantize_gated(Stream stream, Tensor out, Tensor scale, Tensor gate_up, Activation gate) {
  CHECK(gate == Activation::silu || gate == Activation::gelu_tanh);
  gate == Activation::silu ? gated<Gate::silu>(stream, out, scale, gate_up)
                           : gated<Gate::gelu_tanh>(stream, out, scale, gate_up);
}

}  // namespace sluice::cuda
