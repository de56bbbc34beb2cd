#include "kernels/cuda/products.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "kernels/cuda/launch.h"

namespace sluice::cuda {
namespace {

constexpr int64_t kOwnRows[] = {1, 2, 4, 8, 16};
// Beyond the last arithmetic is the limit, and the library's first choice near it.
constexpr int64_t kWayRows[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
constexpr size_t kMostBytes = size_t{64} << 20;  // of what a trial takes beside the weights
constexpr int kRuns = 3, kCalls = 20;            // at most
constexpr double kRunSeconds = 0.01;             // then fewer calls will do
constexpr double kHopeless = 4;     // times as slow as the library: not worth a closer look
constexpr double kPromising = 1.2;  // times as slow as the best at first sight: worth one
constexpr double kMargin = 0.97;    // of the other's time: what is as fast is left to it

}  // namespace

bool Products::own(const Tensor& out, const Tensor& x, const Weight& w) const {
  if (x.dtype != w.data.dtype || !skinny_can(x, w.data)) return false;
  if (invariant_) return true;
  const auto found = own_rows_.find(shape_of(w.data, out.dtype));
  return found != own_rows_.end() && x.shape[0] <= found->second;
}

Way Products::way(const Tensor& out, const Tensor& w) const {
  const auto shape = ways_.find(shape_of(w, out.dtype));
  if (shape == ways_.end()) return {};
  const auto way = shape->second.lower_bound(out.shape[0]);
  return way == shape->second.end() ? Way{} : Way{way->first, way->second};
}

void Products::by_library(const Product& product, const Epilogue& epilogue) {
  Epilogue left = runtime_.matmul(stream_, product, epilogue, way(product.out, product.w));
  if (left.bias) add_bias(stream_, product.out, left.bias);
  if (left.activation) activate(stream_, product.out, *left.activation);
}

void Products::multiply(const Tensor& out, const Tensor& x, const Weight& w,
                        std::optional<Activation> activation) {
  if (own(out, x, w)) return skinny_matmul(stream_, out, x, w.data, w.bias, activation);
  by_library({out, x, w.data, {}, {}}, {w.bias, activation});
}

void Products::multiply_scaled(const Tensor& out, const Tensor& x, const Tensor& x_scale,
                               const Weight& w, std::optional<Activation> activation) {
  by_library({out, x, w.data, x_scale, w.scale}, {w.bias, activation});
}

bool Products::multiply_silu_mul(const Tensor& out, const Tensor& x, const Weight& w) {
  if (!own(out, x, w)) return false;
  skinny_silu_mul(stream_, out, x, w.data, w.bias);
  return true;
}

// Products with the weights of one shape. Layers take turns, as in a step: one whose weights lie in
// the chip's cache says nothing.
class Products::Trial {
 public:
  Trial(Runtime& runtime, Stream stream, std::vector<Weight> layers, DType out)
      : runtime_(runtime), stream_(stream), layers_(std::move(layers)) {
    const Tensor& w = layers_[0].data;
    const int64_t m = w.shape[0], k = w.shape[1];
    const size_t row_bytes = size_t(k * bits_of(w.dtype) + m * bits_of(out)) / 8 + sizeof(float);
    most_rows_ = std::end(kWayRows)[-1];
    while (most_rows_ > std::end(kOwnRows)[-1] && size_t(most_rows_) * row_bytes > kMostBytes)
      most_rows_ /= 2;
    const auto take = [&](size_t i, DType type, std::initializer_list<int64_t> shape) {
      Tensor t = Tensor::of(nullptr, type, shape);
      memory_[i] = allocate(runtime_, size_t(t.size()) * size_t(bits_of(type)) / 8, Memory::device);
      t.data = memory_[i].get();
      return t;
    };
    x_ = take(0, w.dtype, {most_rows_, k}), out_ = take(1, out, {most_rows_, m});
    if (w.dtype == DType::fp8_e4m3) x_scale_ = take(2, DType::f32, {most_rows_});
  }

  int64_t most_rows() const { return most_rows_; }
  PlanCache::Shape shape() const { return shape_of(layers_[0].data, out_.dtype); }
  bool own_can() const { return bits_of(x_.dtype) == 16 && skinny_can(x_, layers_[0].data); }
  double seconds_spent() const { return spent_; }

  // The way that is the fastest; -1: there is no choice.
  int fastest_way(int64_t rows) {
    const int num = runtime_.num_ways(product(0, rows));
    if (num < 2) return -1;
    std::vector<double> at_first(static_cast<size_t>(num));
    for (int i = 0; i < num; ++i) at_first[size_t(i)] = library(rows, {rows, i}, 1);
    const double bound = kPromising * *std::min_element(at_first.begin(), at_first.end());
    const int calls = int(std::clamp(kRunSeconds / bound, 3.0, double{kCalls}));
    double best = kMargin * library(rows, {rows, 0}, calls);
    int way = 0;
    for (int i = 1; i < num; ++i) {
      if (at_first[size_t(i)] > bound) continue;
      const double seconds = library(rows, {rows, i}, calls);
      if (seconds < best) best = seconds, way = i;
    }
    return way;
  }

  // `way`: the library's for so many rows.
  template <class F>
  int64_t fastest_own_rows(const F& way) {
    int64_t fastest = 0;
    for (const int64_t rows : kOwnRows) {
      if (rows == kOwnRows[0] && own(rows, 1) > kHopeless * library(rows, way(rows), 1)) break;
      if (own(rows, kCalls) > kMargin * library(rows, way(rows), kCalls)) break;
      fastest = rows;
    }
    return fastest;
  }

 private:
  Product product(int i, int64_t rows) const {
    const Weight& w = layers_[size_t(i) % layers_.size()];
    return {out_.rows(0, rows), x_.rows(0, rows), w.data,
            x_scale_ ? x_scale_.rows(0, rows) : Tensor(), w.scale};
  }
  double library(int64_t rows, Way way, int calls) {
    return seconds(calls, [&](int i) { runtime_.matmul(stream_, product(i, rows), {}, way); });
  }
  double own(int64_t rows, int calls) {
    return seconds(calls, [&](int i) {
      const Product p = product(i, rows);
      skinny_matmul(stream_, p.out, p.x, p.w, {});
    });
  }
  // Of one call, the best of a few runs.
  template <class F>
  double seconds(int calls, const F& call) {
    double best = 1e30;
    for (int run = 0; run < (calls > 1 ? kRuns : 1); ++run) {
      call(run);
      runtime_.record(begin_, stream_);
      for (int i = 0; i < calls; ++i) call(run + 1 + i);
      runtime_.record(end_, stream_);
      runtime_.sync(end_);
      const Nanos took = runtime_.between(begin_, end_);
      const double one = std::chrono::duration<double>(took).count() / calls;
      spent_ += one * (calls + 1);
      best = std::min(best, one);
    }
    return best;
  }

  Runtime& runtime_;
  const Stream stream_;
  const std::vector<Weight> layers_;
  const Event begin_ = runtime_.make_event(), end_ = runtime_.make_event();
  Device::Buffer memory_[3];
  Tensor x_, out_, x_scale_;
  int64_t most_rows_ = 0;
  double spent_ = 0;
};

void Products::measure(Trial& trial) {
  const PlanCache::Shape shape = trial.shape();
  const double left = seconds_left_;
  for (const int64_t rows : kWayRows) {
    std::optional<int> way = plans_.way(shape, rows);
    if (!way && rows <= trial.most_rows() && trial.seconds_spent() < left) {
      way = trial.fastest_way(rows);
      if (*way >= 0) plans_.put_way(shape, rows, *way);
    }
    if (way && *way >= 0) ways_[shape][rows] = *way;
  }
  if (trial.own_can()) {
    const std::optional<int64_t> known = plans_.own_rows(shape);
    const auto way = [&](int64_t rows) {
      const auto found = ways_[shape].find(rows);
      return found == ways_[shape].end() ? Way{} : Way{rows, found->second};
    };
    own_rows_[shape] = known ? *known : trial.fastest_own_rows(way);
    if (!known) plans_.put_own_rows(shape, own_rows_[shape]);
  }
  seconds_left_ = left - trial.seconds_spent();
}

void Products::measure(std::span<const Weight> layers, DType out) {
  if (invariant_) return;
  std::map<PlanCache::Shape, std::vector<Weight>> by_shape;
  for (const Weight& w : layers) by_shape[shape_of(w.data, out)].push_back(w);
  for (const auto& [shape, same] : by_shape) {
    Trial trial(runtime_, stream_, same, out);
    measure(trial);
  }
  plans_.save();
}

}  // namespace sluice::cuda
