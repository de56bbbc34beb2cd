// Products of mixtures of experts with many rows: on the emulator, against the same in double
// precision and against the kernel for few rows.
#include "base/float8.h"
#include "kernels/cuda/launch.h"
#include "tests/simt/kernel_test.h"

namespace sluice::cuda {
namespace {

using simt::Array;
using simt::Bf16;
using simt::dtype_of;
using simt::F16;
using simt::to_float;

// Of activations and of weights.
template <class Activation, class Weight>
struct Pair {
  using T = Activation;
  using W = Weight;
};
template <class P>
class GroupedMatmul : public ::testing::Test {};
using Types = ::testing::Types<Pair<Bf16, Bf16>, Pair<F16, F16>, Pair<Bf16, simt::E4m3>,
                               Pair<F16, simt::E4m3>>;
TYPED_TEST_SUITE(GroupedMatmul, Types);

constexpr double kTolerance = 3.9e-3;  // of a rounding to bf16

struct Case {
  const char* what;
  int64_t tokens, per_token, num_experts, width, k;
  int (*expert)(int row);
};
// Tiles of rows, of columns (128, or 64 gates and their ups) and of k (32 or 64, four or three at a
// time) that are full, that are not, and that there are several of.
constexpr Case kCases[] = {
    {"one row", 1, 1, 3, 16, 8, [](int) { return 1; }},
    {"one expert has all rows", 150, 1, 4, 48, 40, [](int) { return 2; }},
    {"the last expert has all rows, just one tile", 32, 2, 5, 64, 32, [](int) { return 4; }},
    {"a tile and a row", 65, 1, 2, 128, 64, [](int) { return 0; }},
    {"uneven, and every other is empty", 31, 3, 9, 72, 104,
     [](int row) {
       return row % 7 == 0 ? 0 : row % 5 == 0 ? 4 : row < 80 ? 6 : 8;
     }},
    {"all alike", 20, 4, 4, 80, 168, [](int row) { return row * 3 % 4; }},
    {"more experts than rows", 3, 2, 300, 24, 72, [](int row) { return 59 * row + 3; }},
    {"many columns", 24, 1, 2, 208, 40, [](int row) { return row % 2; }},
};

// Rows of x lie further apart than they are long, and what lies between them is NaN.
template <class P>
struct Mixture {
  using T = typename P::T;
  using W = typename P::W;
  static constexpr bool kFp8 = sizeof(W) == 1;
  static constexpr int64_t kGap = 8;
  int64_t tokens, rows, num_experts, width, k;  // width: that of the weights
  Array<T> x;
  Array<W> w;
  Array<float> scale;  // of each row of w, where it is of fp8
  Array<int32_t> experts;

  Mixture(const Case& c, int64_t width)
      : tokens(c.tokens),
        rows(c.tokens * c.per_token),
        num_experts(c.num_experts),
        width(width),
        k(kFp8 ? (c.k + 15) / 16 * 16 : c.k),
        x(size_t(tokens * (k + kGap))),
        w(size_t(num_experts * width * k)),
        scale(kFp8 ? size_t(num_experts * width) : 0),
        experts(size_t(rows)) {
    Array<T> dense(size_t(tokens * k));
    simt::fill(dense, 1), simt::fill(w, 2);
    for (int64_t r = 0; r < tokens; ++r)
      for (int64_t i = 0; i < k; ++i) x[size_t(r * (k + kGap) + i)] = dense[size_t(r * k + i)];
    for (size_t i = 0; i < scale.size(); ++i) scale[i] = 0.25f + float(i % 37) / 16;
    for (int64_t i = 0; i < rows; ++i) experts[size_t(i)] = c.expert(int(i));
  }
  Tensor inputs() { return x.tensor(dtype_of<T>(), {tokens, k + kGap}).cols(0, k); }
  Tensor weights() {
    return w.tensor(kFp8 ? DType::fp8_e4m3 : dtype_of<T>(), {num_experts * width, k});
  }
  Tensor scales() { return kFp8 ? scale.tensor(DType::f32, {num_experts * width}) : Tensor{}; }
  static double value(W v) {
    if constexpr (kFp8) {
      return from_e4m3(v.bits);
    } else {
      return to_float(v);
    }
  }
  Tensor ids() { return experts.tensor(DType::i32, {rows}); }
  double exact(int64_t row, int64_t col) const {
    const int64_t token = row / (rows / tokens), expert = experts[size_t(row)];
    double sum = 0;
    for (int64_t i = 0; i < k; ++i)
      sum += double(to_float(x[size_t(token * (k + kGap) + i)])) *
             value(w[size_t((expert * width + col) * k + i)]);
    return kFp8 ? sum * scale[size_t(expert * width + col)] : sum;
  }
  // The last columns of what is written belong to somebody else.
  Array<T> product(bool gated) {
    const int64_t cols = gated ? width / 2 : width;
    Array<T> out(size_t(rows * (cols + kGap)));
    // As an earlier call may have left it: every tile has a row.
    Array<simt::Vec4> scratch((grouped_scratch_bytes(rows, num_experts) + 15) / 16);
    for (size_t i = 0; i < scratch.size(); ++i) scratch[i] = {0, 0, 1, 0};
    grouped_matmul(Stream{}, out.tensor(dtype_of<T>(), {rows, cols + kGap}).cols(0, cols), inputs(),
                   weights(), scales(), ids(), gated, scratch.data());
    return out;
  }
};

// Plain, with the gates' and the ups' columns side by side, and gated: silu(gate) * up of what the
// plain one wrote.
TYPED_TEST(GroupedMatmul, IsEachRowsProductByItsExpert) {
  using T = typename TypeParam::T;
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.what);
    Mixture<TypeParam> m(c, 2 * c.width);
    const Array<T> plain = m.product(false), gated = m.product(true);
    simt::Error error, gated_error;
    for (int64_t r = 0; r < m.rows; ++r) {
      const T* row = &plain[size_t(r * (2 * c.width + m.kGap))];
      const T* gated_row = &gated[size_t(r * (c.width + m.kGap))];
      for (int64_t o = 0; o < 2 * c.width; ++o) error.add(to_float(row[o]), m.exact(r, o));
      for (int64_t o = 0; o < c.width; ++o) {
        const double gate = to_float(row[o]), up = to_float(row[o + c.width]);
        gated_error.add(to_float(gated_row[o]), gate / (1 + std::exp(-gate)) * up);
      }
      for (int64_t gap = 0; gap < m.kGap; ++gap) {
        ASSERT_EQ(row[2 * c.width + gap].bits, 0xffff);
        ASSERT_EQ(gated_row[c.width + gap].bits, 0xffff);
      }
    }
    EXPECT_LT(error.relative(), kTolerance);
    EXPECT_LT(gated_error.relative(), kTolerance);
  }
}

// The promise that batch-invariant mode is built on.
TYPED_TEST(GroupedMatmul, ARowHasTheSameBitsInAnyCompany) {
  using T = typename TypeParam::T;
  const Case all_of = {"", 80, 1, 4, 48, 104, [](int row) { return row % 9 == 0 ? 1 : 3; }};
  Mixture<TypeParam> all(all_of, 48);
  const Array<T> together = all.product(false);
  const size_t row_bytes = 48 * sizeof(T), stride = size_t(48 + all.kGap);
  for (const auto& [first, count] :
       {std::pair<int64_t, int64_t>{0, 1}, {79, 1}, {40, 17}, {3, 75}}) {
    Case c = all_of;
    c.tokens = count;
    Mixture<TypeParam> some(c, 48);
    std::memcpy(some.x.data(), &all.x[size_t(first * (all.k + all.kGap))],
                some.x.size() * sizeof(T));
    for (int64_t i = 0; i < count; ++i) some.experts[size_t(i)] = all.experts[size_t(first + i)];
    const Array<T> out = some.product(false);
    for (int64_t r = 0; r < count; ++r)
      EXPECT_EQ(
          std::memcmp(&out[size_t(r) * stride], &together[size_t(first + r) * stride], row_bytes),
          0)
          << first << " " << count << " " << r;
  }
}

TYPED_TEST(GroupedMatmul, ARowThatIsNoNumberHarmsNobodyElse) {
  using T = typename TypeParam::T;
  const Case c = {"", 70, 1, 2, 32, 72, [](int row) { return row / 66; }};
  Mixture<TypeParam> m(c, 32);
  const Array<T> before = m.product(false);
  for (int64_t i = 0; i < m.k; ++i)
    simt::from_float(m.x[size_t(7 * (m.k + m.kGap) + i)], i % 2 ? HUGE_VALF : std::nanf(""));
  const Array<T> after = m.product(false);
  for (int64_t r = 0; r < m.rows; ++r)
    for (size_t i = size_t(r * (32 + m.kGap)); i < size_t(r * (32 + m.kGap) + 32); ++i)
      EXPECT_TRUE(r == 7 ? std::isnan(to_float(after[i])) : after[i].bits == before[i].bits);
}

TYPED_TEST(GroupedMatmul, WhateverTheOrderOfThreads) {
  using T = typename TypeParam::T;
  const Case c = {"", 40, 2, 4, 40, 200, [](int row) { return row % 6 == 0 ? 3 : 1; }};
  Mixture<TypeParam> m(c, 2 * c.width);
  const Array<T> first = m.product(true);
  simt::in_all_orders([&] { EXPECT_TRUE(m.product(true).same_bits(first)); });
}

TEST(GroupedMatmulShapes, NoBankIsMetTwice) {
  Mixture<Pair<Bf16, Bf16>> m(kCases[4], kCases[4].width);
  Mixture<Pair<Bf16, simt::E4m3>> codes(kCases[4], kCases[4].width);
  const uint64_t before = simt::emulator_counters().bank_conflicts;
  m.product(false), codes.product(false);
  EXPECT_EQ(simt::emulator_counters().bank_conflicts, before);
}

TEST(GroupedMatmulShapes, WhatCannotBeReadBySixteenBytesIsRefused) {
  Array<Bf16> memory(64 * 80);
  const auto rows = [&](int64_t n, int64_t cols, int64_t stride, int64_t offset) {
    return memory.tensor(DType::bf16, {n, stride}).cols(offset, cols);
  };
  const Tensor out = rows(8, 16, 24, 0), x = rows(4, 40, 48, 8), w = rows(32, 40, 40, 0);
  EXPECT_TRUE(grouped_can(out, x, w));
  EXPECT_FALSE(grouped_can(rows(8, 12, 24, 0), x, w));
  EXPECT_FALSE(grouped_can(rows(8, 16, 20, 0), x, w));
  EXPECT_FALSE(grouped_can(rows(8, 16, 24, 4), x, w));
  EXPECT_FALSE(grouped_can(out, rows(4, 36, 48, 0), rows(32, 36, 36, 0)));
  EXPECT_FALSE(grouped_can(out, rows(4, 40, 48, 4), w));
  Tensor codes = w;
  codes.dtype = DType::fp8_e4m3;
  EXPECT_FALSE(grouped_can(out, x, codes));  // their rows begin anywhere
  codes.stride[0] = 48;
  EXPECT_FALSE(grouped_can(out, x, codes));  // 40 of them
  EXPECT_TRUE(grouped_can(out, rows(4, 48, 48, 0), codes.rows(0, 32).cols(0, 48)));
}

}  // namespace
}  // namespace sluice::cuda
