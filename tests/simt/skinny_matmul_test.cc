// Products with few rows: on the emulator, against the same in double precision.
#include "kernels/cuda/launch.h"
#include "tests/simt/kernel_test.h"

namespace sluice::cuda {
namespace {

using simt::Array;
using simt::Bf16;
using simt::dtype_of;
using simt::F16;
using simt::to_float;

template <class T>
class SkinnyMatmul : public ::testing::Test {};
using Types = ::testing::Types<Bf16, F16>;
TYPED_TEST_SUITE(SkinnyMatmul, Types);

// Rows lie further apart than they are long, and what lies between them is NaN.
template <class T>
struct Product {
  static constexpr int64_t kGap = 8;
  int64_t n, m, k;
  Array<T> x, w;
  Array<T> bias;

  Product(int64_t n, int64_t m, int64_t k)
      : n(n), m(m), k(k), x(size_t(n * (k + kGap))), w(size_t(m * (k + kGap))), bias(size_t(m)) {
    fill_rows(x, n, 1), fill_rows(w, m, 2);
    for (size_t i = 0; i < bias.size(); ++i) simt::from_float(bias[i], float(i % 11) / 8 - 0.5f);
  }
  void fill_rows(Array<T>& to, int64_t rows, uint32_t seed) {
    Array<T> dense(size_t(rows * k));
    simt::fill(dense, seed);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < k; ++i) to[size_t(r * (k + kGap) + i)] = dense[size_t(r * k + i)];
  }
  Tensor rows_of(Array<T>& a, int64_t rows) const {
    return a.tensor(dtype_of<T>(), {rows, k + kGap}).cols(0, k);
  }
  Tensor tokens(int64_t first, int64_t count) { return rows_of(x, n).rows(first, count); }
  Tensor weights() { return rows_of(w, m); }
  Tensor biases() { return bias.tensor(dtype_of<T>(), {m}); }
  double exact(int64_t token, int64_t row) const {
    double sum = 0;
    for (int64_t i = 0; i < k; ++i)
      sum += double(to_float(x[size_t(token * (k + kGap) + i)])) *
             to_float(w[size_t(row * (k + kGap) + i)]);
    return sum;
  }
};

struct Shape {
  int64_t n, m, k;
};
// Every number of tiles; rows that fill blocks of 16 and of 32 and that do not; slices of k that
// are empty, of one step, uneven, and longer than what is read ahead.
constexpr Shape kShapes[] = {{1, 5, 32},     {3, 16, 64},   {8, 40, 96},   {9, 33, 256},
                             {16, 48, 1312}, {17, 16, 288}, {33, 20, 544}, {70, 17, 40},
                             {5, 7, 8},      {4, 18, 312},  {2, 4100, 64}, {9, 4100, 160}};

TYPED_TEST(SkinnyMatmul, IsTheProduct) {
  using T = TypeParam;
  for (const Shape& s : kShapes) {
    SCOPED_TRACE(testing::Message() << s.n << " x " << s.m << " x " << s.k);
    Product<T> p(s.n, s.m, s.k);
    Array<float> exact(size_t(s.n * s.m)), with_bias(size_t(s.n * s.m));
    Array<T> rounded(size_t(s.n * (s.m + 3)));
    const Tensor out = exact.tensor(DType::f32, {s.n, s.m});
    skinny_matmul(Stream{}, out, p.tokens(0, s.n), p.weights(), {});
    skinny_matmul(Stream{}, with_bias.tensor(DType::f32, {s.n, s.m}), p.tokens(0, s.n), p.weights(),
                  p.biases());
    skinny_matmul(Stream{}, rounded.tensor(dtype_of<T>(), {s.n, s.m + 3}).cols(0, s.m),
                  p.tokens(0, s.n), p.weights(), {});
    simt::Error error;
    for (int64_t t = 0; t < s.n; ++t) {
      for (int64_t r = 0; r < s.m; ++r) {
        const size_t at = size_t(t * s.m + r);
        error.add(exact[at], p.exact(t, r));
        ASSERT_EQ(with_bias[at], exact[at] + to_float(p.bias[size_t(r)]));
        T want;
        simt::from_float(want, exact[at]);
        ASSERT_EQ(rounded[size_t(t * (s.m + 3) + r)].bits, want.bits);
      }
      for (int64_t gap = s.m; gap < s.m + 3; ++gap)
        ASSERT_EQ(rounded[size_t(t * (s.m + 3) + gap)].bits, 0xffff);
    }
    EXPECT_LT(error.relative(), 1e-6);
  }
}

// A sum and its bias, once they are there, and rounded after that alone.
TYPED_TEST(SkinnyMatmul, ActivatesWhatIsWhole) {
  using T = TypeParam;
  Product<T> p(9, 40, 96);
  Array<float> whole(9 * 40);
  skinny_matmul(Stream{}, whole.tensor(DType::f32, {9, 40}), p.tokens(0, 9), p.weights(),
                p.biases());
  const std::pair<Activation, double (*)(double)> activations[] = {
      {Activation::silu, [](double x) { return x / (1 + std::exp(-x)); }},
      {Activation::gelu, [](double x) { return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5))); }},
      {Activation::gelu_tanh,
       [](double x) {
         return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
       }},
      {Activation::relu, [](double x) { return std::max(x, 0.0); }}};
  for (const auto& [activation, of] : activations) {
    Array<T> out(9 * 40);
    skinny_matmul(Stream{}, out.tensor(dtype_of<T>(), {9, 40}), p.tokens(0, 9), p.weights(),
                  p.biases(), activation);
    simt::Error error, rounding;
    for (size_t i = 0; i < out.size(); ++i) {
      const double want = of(whole[i]);
      T rounded;
      simt::from_float(rounded, float(want));
      error.add(to_float(out[i]), want);
      rounding.add(to_float(rounded), want);
    }
    EXPECT_LT(error.relative(), 1.01 * rounding.relative()) << int(activation);
  }
}

// The promise that batch-invariant mode is built on.
TYPED_TEST(SkinnyMatmul, ATokenHasTheSameBitsInAnyCompany) {
  using T = TypeParam;
  for (const Shape& s : {Shape{70, 33, 544}, Shape{20, 4100, 96}}) {
    Product<T> p(s.n, s.m, s.k);
    Array<float> all(size_t(s.n * s.m));
    skinny_matmul(Stream{}, all.tensor(DType::f32, {s.n, s.m}), p.tokens(0, s.n), p.weights(), {});
    for (const auto& [first, count] :
         {std::pair<int64_t, int64_t>{0, 1}, {s.n - 1, 1}, {3, 8}, {4, 15}, {2, 17}}) {
      Array<float> some(size_t(count * s.m));
      skinny_matmul(Stream{}, some.tensor(DType::f32, {count, s.m}), p.tokens(first, count),
                    p.weights(), {});
      for (size_t i = 0; i < some.size(); ++i)
        ASSERT_EQ(some[i], all[size_t(first * s.m) + i]) << first << " " << count << " " << i;
    }
  }
}

TYPED_TEST(SkinnyMatmul, ATokenThatIsNoNumberHarmsNobodyElse) {
  using T = TypeParam;
  Product<T> p(9, 40, 320);
  Array<float> before(9 * 40), after(9 * 40);
  skinny_matmul(Stream{}, before.tensor(DType::f32, {9, 40}), p.tokens(0, 9), p.weights(), {});
  for (int64_t i = 0; i < p.k; ++i)
    simt::from_float(p.x[size_t(4 * (p.k + p.kGap) + i)], i % 2 ? HUGE_VALF : std::nanf(""));
  skinny_matmul(Stream{}, after.tensor(DType::f32, {9, 40}), p.tokens(0, 9), p.weights(), {});
  for (size_t i = 0; i < after.size(); ++i) {
    if (i / 40 == 4) {
      EXPECT_TRUE(std::isnan(after[i]));
    } else {
      EXPECT_EQ(after[i], before[i]);
    }
  }
}

TYPED_TEST(SkinnyMatmul, GatedIsTheProductAndTheGate) {
  using T = TypeParam;
  for (const Shape& s :
       {Shape{1, 16, 64}, Shape{7, 40, 352}, Shape{16, 19, 96}, Shape{37, 33, 64}}) {
    Product<T> p(s.n, 2 * s.m, s.k);
    for (const Tensor& bias : {Tensor{}, p.biases()}) {
      const size_t size = size_t(s.n * s.m);
      Array<T> both(2 * size), apart(size), fused(size);
      const Tensor product = both.tensor(dtype_of<T>(), {s.n, 2 * s.m});
      skinny_matmul(Stream{}, product, p.tokens(0, s.n), p.weights(), bias);
      silu_mul(Stream{}, apart.tensor(dtype_of<T>(), {s.n, s.m}), product);
      skinny_silu_mul(Stream{}, fused.tensor(dtype_of<T>(), {s.n, s.m}), p.tokens(0, s.n),
                      p.weights(), bias);
      EXPECT_TRUE(fused.same_bits(apart)) << s.n << " " << s.m;
    }
  }
}

TYPED_TEST(SkinnyMatmul, WhateverTheOrderOfThreads) {
  using T = TypeParam;
  Product<T> p(11, 50, 608);
  Array<float> first(11 * 50), again(11 * 50);
  skinny_matmul(Stream{}, first.tensor(DType::f32, {11, 50}), p.tokens(0, 11), p.weights(), {});
  Array<T> gated(11 * 25), gated_again(11 * 25);
  skinny_silu_mul(Stream{}, gated.tensor(dtype_of<T>(), {11, 25}), p.tokens(0, 11), p.weights(),
                  {});
  simt::in_all_orders([&] {
    skinny_matmul(Stream{}, again.tensor(DType::f32, {11, 50}), p.tokens(0, 11), p.weights(), {});
    skinny_silu_mul(Stream{}, gated_again.tensor(dtype_of<T>(), {11, 25}), p.tokens(0, 11),
                    p.weights(), {});
    EXPECT_TRUE(again.same_bits(first));
    EXPECT_TRUE(gated_again.same_bits(gated));
  });
}

TEST(SkinnyMatmulShapes, WhatCannotBeReadBySixteenBytesIsRefused) {
  Array<Bf16> memory(64 * 64);
  const auto rows = [&](int64_t k, int64_t stride, int64_t offset) {
    return memory.tensor(DType::bf16, {8, stride}).cols(offset, k);
  };
  EXPECT_TRUE(skinny_can(rows(64, 64, 0), rows(64, 72, 0)));
  EXPECT_TRUE(skinny_can(rows(40, 64, 8), rows(40, 64, 0)));
  EXPECT_FALSE(skinny_can(rows(36, 64, 0), rows(36, 64, 0)));
  EXPECT_FALSE(skinny_can(rows(32, 36, 0), rows(32, 64, 0)));
  EXPECT_FALSE(skinny_can(rows(32, 64, 0), rows(32, 64, 4)));
}

}  // namespace
}  // namespace sluice::cuda
