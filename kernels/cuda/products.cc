#include "kernels/cuda/products.h"

#include <algorithm>
#include <chrono>

#include "kernels/cuda/launch.h"

namespace sluice::cuda {
namespace {

constexpr int64_t kRows[] = {1, 2, 4, 8, 16};
constexpr int kRuns = 3, kCalls = 20;
constexpr double kHopeless = 4;   // times as slow as the library: not worth a closer look
constexpr double kMargin = 0.97;  // of the library's time: what is as fast is left to it

}  // namespace

bool Products::own(const Tensor& x, const Weight& w) const {
  if (x.dtype != w.data.dtype || !skinny_can(x, w.data)) return false;
  if (invariant_) return true;
  const auto found = own_rows_.find(shape_of(w.data));
  return found != own_rows_.end() && x.shape[0] <= found->second;
}

void Products::multiply(const Tensor& out, const Tensor& x, const Weight& w) {
  if (own(x, w)) return skinny_matmul(stream_, out, x, w.data, w.bias);
  runtime_.matmul(stream_, out, x, w.data);
  if (w.bias) add_bias(stream_, out, w.bias);
}

bool Products::multiply_silu_mul(const Tensor& out, const Tensor& x, const Weight& w) {
  if (!own(x, w)) return false;
  skinny_silu_mul(stream_, out, x, w.data, w.bias);
  return true;
}

// Of one call, the best of a few runs. Layers take turns, as in a step: a product whose weights lie
// in the chip's cache says nothing.
double Products::seconds(const std::vector<Tensor>& layers, const Tensor& out, const Tensor& x,
                         bool own, int calls) {
  const auto call = [&](int i) {
    const Tensor& w = layers[size_t(i) % layers.size()];
    own ? skinny_matmul(stream_, out, x, w, {}) : runtime_.matmul(stream_, out, x, w);
  };
  const Event begin = runtime_.make_event(), end = runtime_.make_event();
  double best = 1e30;
  for (int run = 0; run < (calls > 1 ? kRuns : 1); ++run) {
    call(run);
    runtime_.record(begin, stream_);
    for (int i = 0; i < calls; ++i) call(run + 1 + i);
    runtime_.record(end, stream_);
    runtime_.sync(end);
    const Nanos took = runtime_.between(begin, end);
    best = std::min(best, std::chrono::duration<double>(took).count() / calls);
  }
  return best;
}

int64_t Products::fastest_rows(const std::vector<Tensor>& layers) {
  const Tensor& w = layers[0];
  const int64_t most = std::end(kRows)[-1], m = w.shape[0], k = w.shape[1];
  const Device::Buffer x_memory = allocate(runtime_, size_t(most * k) * 2, Memory::device),
                       out_memory = allocate(runtime_, size_t(most * m) * 2, Memory::device);
  const Tensor x = Tensor::of(x_memory.get(), w.dtype, {most, k}),
               out = Tensor::of(out_memory.get(), w.dtype, {most, m});
  int64_t fastest = 0;
  if (!skinny_can(x, w)) return fastest;
  for (const int64_t rows : kRows) {
    const auto by = [&](bool own, int calls) {
      return seconds(layers, out.rows(0, rows), x.rows(0, rows), own, calls);
    };
    if (rows == kRows[0] && by(true, 1) > kHopeless * by(false, 1)) break;
    if (by(true, kCalls) > kMargin * by(false, kCalls)) break;
    fastest = rows;
  }
  return fastest;
}

void Products::measure(std::span<const Weight> layers) {
  if (invariant_) return;
  std::map<PlanCache::Shape, std::vector<Tensor>> by_shape;
  for (const Weight& w : layers)
    if (bits_of(w.data.dtype) == 16) by_shape[shape_of(w.data)].push_back(w.data);
  for (const auto& [shape, same] : by_shape) {
    const std::optional<int64_t> known = plans_.own_rows(shape);
    own_rows_[shape] = known ? *known : fastest_rows(same);
    if (!known) plans_.put(shape, own_rows_[shape]);
  }
  plans_.save();
}

}  // namespace sluice::cuda
