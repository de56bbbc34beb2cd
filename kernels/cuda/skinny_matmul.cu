#include "kernels/cuda/skinny_matmul.h"

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

// From so many weight rows on a block takes 32 of them and not 16: tokens are read half as often,
// and there are still enough blocks for every multiprocessor. Of the weights' shape alone.
constexpr int64_t kManyRows = 4096;

template <class T, class Out>
SkinnyParams<T, Out> params_of(const Tensor& out, const Tensor& x, const Tensor& w,
                               const Tensor& bias, Gate activation = Gate::none) {
  CHECK(!bias || bias.dtype == x.dtype);
  SkinnyParams<T, Out> p;
  p.out = out.as<Out>(), p.x = x.as<T>(), p.w = w.as<T>(), p.bias = bias.as<T>();
  p.activation = activation;
  p.out_stride = out.stride[0], p.x_stride = x.stride[0], p.w_stride = w.stride[0];
  p.n = int32_t(out.shape[0]), p.m = int32_t(out.shape[1]), p.k = int32_t(w.shape[1]);
  return p;
}

Gate gate_of(Activation activation) {
  switch (activation) {
    case Activation::silu:
      return Gate::silu;
    case Activation::gelu:
      return Gate::gelu;
    case Activation::gelu_tanh:
      return Gate::gelu_tanh;
    case Activation::relu:
      break;
  }
  return Gate::relu;
}

int blocks_of(int64_t rows, int rows_of_block, int64_t tokens, int tiles) {
  return int((rows + rows_of_block - 1) / rows_of_block * ((tokens + 8 * tiles - 1) / (8 * tiles)));
}

// f.operator()<kTiles>() for as few tiles as hold the tokens; from 16 on several blocks share them.
template <class F>
void with_tiles(int64_t tokens, F&& f) {
  if (tokens <= 8) {
    f.template operator()<1>();
  } else if (tokens <= 16) {
    f.template operator()<2>();
  } else {
    f.template operator()<4>();
  }
}

template <class T, class Out, int kGroups>
void start(Stream stream, const SkinnyParams<T, Out>& p) {
  with_tiles(p.n, [&]<int kTiles>() {
    using Shared = SkinnyShared<kGroups, kTiles>;
    simt::launch<SkinnyParams<T, Out>>(
        skinny_matmul_kernel<T, Out, kGroups, kTiles>,
        {blocks_of(p.m, Shared::kRows, p.n, kTiles), kSkinnyThreads, sizeof(Shared)}, stream, p);
  });
}

template <class T, class Out>
void start_by_shape(Stream stream, const SkinnyParams<T, Out>& p) {
  p.m >= kManyRows ? start<T, Out, 2>(stream, p) : start<T, Out, 1>(stream, p);
}

}  // namespace

bool skinny_can(const Tensor& x, const Tensor& w) { return wide(w.shape[1], {&x, &w}); }

void skinny_matmul(Stream stream, Tensor out, Tensor x, Tensor w, Tensor bias,
                   std::optional<Activation> activation) {
  CHECK(skinny_can(x, w) && x.dtype == w.dtype && x.shape[1] == w.shape[1]);
  CHECK(out.shape[0] == x.shape[0] && out.shape[1] == w.shape[0]);
  const Gate gate = activation ? gate_of(*activation) : Gate::none;
  dispatch(x.dtype, [&]<class T>(T) {
    if (out.dtype == DType::f32) {
      start_by_shape(stream, params_of<T, float>(out, x, w, bias, gate));
    } else {
      CHECK(out.dtype == x.dtype);
      start_by_shape(stream, params_of<T, T>(out, x, w, bias, gate));
    }
  });
}

void skinny_silu_mul(Stream stream, Tensor out, Tensor x, Tensor w, Tensor bias) {
  CHECK(skinny_can(x, w) && x.dtype == w.dtype && x.shape[1] == w.shape[1]);
  CHECK(out.shape[0] == x.shape[0] && 2 * out.shape[1] == w.shape[0] && out.dtype == x.dtype);
  dispatch(x.dtype, [&]<class T>(T) {
    const auto p = params_of<T, T>(out, x, w, bias);
    with_tiles(p.n, [&]<int kTiles>() {
      simt::launch<SkinnyParams<T, T>>(
          skinny_silu_mul_kernel<T, kTiles>,
          {blocks_of(p.m, 16, p.n, kTiles), kSkinnyThreads, sizeof(SkinnyShared<2, kTiles>)},
          stream, p);
    });
  });
}

}  // namespace sluice::cuda
