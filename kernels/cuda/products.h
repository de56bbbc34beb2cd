#pragma once

#include <map>
#include <span>
#include <vector>

#include "kernels/cuda/plan_cache.h"
#include "kernels/cuda/runtime.h"
#include "kernels/tensor.h"

namespace sluice::cuda {

// Matrix products with weights of the activations' type: by NVIDIA's library, or by our own kernel
// (skinny_matmul.h) where rows are few and it was seen to be faster, or always where results must
// not depend on what else is in a batch. One owner thread.
class Products {
 public:
  // invariant: always our own.
  Products(Runtime& runtime, Stream stream, bool invariant, PlanCache plans)
      : runtime_(runtime), stream_(stream), invariant_(invariant), plans_(std::move(plans)) {}

  bool invariant() const { return invariant_; }
  // Finds out, for each shape among `layers` that are of that type, up to how many rows our own
  // kernel is faster: from the file, or by trying. When nothing else runs.
  void measure(std::span<const Weight> layers);

  // out [n, m] = x [n, k] * w^T + bias (f32; may be absent); out: x's type or f32.
  void multiply(const Tensor& out, const Tensor& x, const Weight& w);
  // out [n, d] = silu(gate) * up of [gate | up] = x * w^T + bias, in one launch; false: nothing was
  // done, since our own kernel is not the one to take.
  bool multiply_silu_mul(const Tensor& out, const Tensor& x, const Weight& w);

 private:
  static PlanCache::Shape shape_of(const Tensor& w) { return {w.dtype, w.shape[0], w.shape[1]}; }
  bool own(const Tensor& x, const Weight& w) const;
  double seconds(const std::vector<Tensor>& layers, const Tensor& out, const Tensor& x, bool own,
                 int calls);
  int64_t fastest_rows(const std::vector<Tensor>& layers);

  Runtime& runtime_;
  const Stream stream_;
  const bool invariant_;
  PlanCache plans_;
  std::map<PlanCache::Shape, int64_t> own_rows_;  // up to so many
};

}  // namespace sluice::cuda
