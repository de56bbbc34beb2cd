#pragma once

#include <map>
#include <optional>
#include <span>
#include <vector>

#include "kernels/cuda/plan_cache.h"
#include "kernels/cuda/runtime.h"
#include "kernels/tensor.h"

namespace sluice::cuda {

// Matrix products with the weights of a model: by NVIDIA's library, in the way that was seen to be
// the fastest, or, with weights of the activations' type, by our own kernel (skinny_matmul.h) where
// rows are few and that was faster, or always where results must not depend on what else is in a
// batch. One owner thread.
class Products {
 public:
  // invariant: always our own.
  Products(Runtime& runtime, Stream stream, bool invariant, PlanCache plans)
      : runtime_(runtime), stream_(stream), invariant_(invariant), plans_(std::move(plans)) {}

  bool invariant() const { return invariant_; }
  // Finds out, for each shape among `layers` and results of type `out`, which of the library's ways
  // is the fastest for a few numbers of rows, each of which stands for those below, and up to how
  // many rows our own kernel is faster: from the file, or by trying. When nothing else runs. What
  // is not tried when the device has been at it for kMostSeconds is as the library would have it,
  // until another start.
  static constexpr double kMostSeconds = 5;
  void measure(std::span<const Weight> layers, DType out);

  // out [n, m] = activation(x [n, k] * w^T + bias), without either where it is absent; out: x's
  // type, or f32 without activation. In one launch where the library or our own kernel can.
  void multiply(const Tensor& out, const Tensor& x, const Weight& w,
                std::optional<Activation> activation = std::nullopt);
  // The same of fp8_e4m3, where x has a scale for each row.
  void multiply_scaled(const Tensor& out, const Tensor& x, const Tensor& x_scale, const Weight& w,
                       std::optional<Activation> activation = std::nullopt);
  // out [n, d] = silu(gate) * up of [gate | up] = x * w^T + bias, in one launch; false: nothing was
  // done, since our own kernel is not the one to take.
  bool multiply_silu_mul(const Tensor& out, const Tensor& x, const Weight& w);

 private:
  class Trial;
  static PlanCache::Shape shape_of(const Tensor& w, DType out) {
    return {w.dtype, out, w.shape[0], w.shape[1]};
  }
  bool own(const Tensor& out, const Tensor& x, const Weight& w) const;
  Way way(const Tensor& out, const Tensor& w) const;
  void by_library(const Product&, const Epilogue&);
  void measure(Trial&);

  Runtime& runtime_;
  const Stream stream_;
  const bool invariant_;
  PlanCache plans_;
  std::map<PlanCache::Shape, int64_t> own_rows_;             // up to so many
  std::map<PlanCache::Shape, std::map<int64_t, int>> ways_;  // by rows; what lacks is the first
  double seconds_left_ = kMostSeconds;
};

}  // namespace sluice::cuda
