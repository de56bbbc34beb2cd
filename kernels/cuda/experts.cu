#include "kernels/cuda/experts.h"

#include <type_traits>

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

template <class T>
void mix(Stream stream, const MixParams<T>& p, int64_t rows) {
  simt::launch<MixParams<T>>(mix_rows_kernel<T>, {int(rows), kExpertThreads, 0}, stream, p);
}

}  // namespace

void route(Stream stream, Tensor experts, Tensor weights, Tensor logits, bool normed) {
  const RouteParams p{experts.as<int32_t>(),     weights.as<float>(),
                      logits.as<float>(),        logits.stride[0],
                      int32_t(logits.shape[0]),  int32_t(logits.shape[1]),
                      int32_t(experts.shape[1]), normed};
  CHECK(p.num_experts <= kMostExperts && p.k <= p.num_experts);
  simt::launch<RouteParams>(
      route_kernel, {(p.rows + kExpertWarps - 1) / kExpertWarps, kExpertThreads, 0}, stream, p);
}

// Blocks of experts that nobody chose leave as soon as they have seen that.
void expert_matmul(Stream stream, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor experts) {
  if (out.shape[0] == 0) return;
  const int64_t in = x.shape[1], width = out.shape[1];
  const bool by_16_bytes = wide(in, {&x, &w});
  dispatch(out.dtype, w.dtype, [&]<class T, class W>(T, W) {
    ExpertParams<T, W> p;
    p.out = out.as<T>(), p.x = x.as<T>(), p.w = w.as<W>();
    p.scale = scale.as<float>();
    p.experts = experts.as<int32_t>();
    p.out_stride = out.stride[0], p.x_stride = x.stride[0];
    p.rows = int32_t(out.shape[0]);
    p.per_x = int32_t(out.shape[0] / x.shape[0]);
    p.width = int32_t(width), p.in = int32_t(in);
    constexpr int kOutputs = kExpertWarps * kOutputsOfWarp;
    p.parts = int32_t((width + kOutputs - 1) / kOutputs);
    auto kernel = expert_matmul_kernel<T, W, 16 / sizeof(W)>;
    if constexpr (std::is_same_v<T, W>) {
      if (!by_16_bytes) kernel = expert_matmul_kernel<T, W, 1>;
    } else {
      CHECK(by_16_bytes && scale);
    }
    simt::launch<ExpertParams<T, W>>(kernel, {int(w.shape[0] / width) * p.parts, kExpertThreads, 0},
                                     stream, p);
  });
}

void mix_rows(Stream stream, Tensor out, Tensor x, Tensor weights) {
  dispatch(out.dtype, [&]<class T>(T) {
    mix(stream,
        MixParams<T>{out.as<T>(), x.as<T>(), weights.as<float>(), nullptr, out.stride[0],
                     x.stride[0], 0, int32_t(out.shape[1]), int32_t(weights.shape[1])},
        out.shape[0]);
  });
}

void add_gated(Stream stream, Tensor out, Tensor x, Tensor gate) {
  dispatch(out.dtype, [&]<class T>(T) {
    mix(stream,
        MixParams<T>{out.as<T>(), x.as<T>(), nullptr, gate.as<float>(), out.stride[0], x.stride[0],
                     gate.stride[0], int32_t(out.shape[1]), 1},
        out.shape[0]);
  });
}

}  // namespace sluice::cuda
