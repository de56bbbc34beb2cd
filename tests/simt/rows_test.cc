// The ops on rows: on the emulator, against the same in double precision.
#include "base/float8.h"
#include "base/random_weights.h"
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
class RowOps : public ::testing::Test {};
using Types = ::testing::Types<Bf16, F16>;
TYPED_TEST_SUITE(RowOps, Types);

// bf16 keeps 8 bits: the rounding of a result is 2^-8 of it at most.
constexpr double kTolerance = 3.9e-3;
constexpr int64_t kRowCounts[] = {1, 3, 17};
constexpr int64_t kWidths[] = {7, 64, 264, 1000, 4096};

TYPED_TEST(RowOps, CopyRowsGathersAndScatters) {
  using T = TypeParam;
  for (const int64_t width : kWidths) {
    Array<T> table(size_t(9 * width)), out(size_t(4 * width));
    simt::fill(table, 1);
    const std::vector<int32_t> from = {8, 0, 3, 3}, to = {2, 0, 3, 1};
    const auto index = [](const std::vector<int32_t>& v) {
      return Tensor::of(const_cast<int32_t*>(v.data()), DType::i32, {int64_t(v.size())});
    };
    const Tensor source = table.tensor(dtype_of<T>(), {9, width});
    const Tensor target = out.tensor(dtype_of<T>(), {4, width});
    copy_rows(Stream{}, target, source, index(from), {}, 4);
    for (size_t r = 0; r < 4; ++r) {
      for (size_t i = 0; i < size_t(width); ++i)
        ASSERT_EQ(out[r * size_t(width) + i].bits, table[size_t(from[r] * width) + i].bits);
    }
    copy_rows(Stream{}, target, source, index(from), index(to), 4);
    for (size_t r = 0; r < 4; ++r) {
      for (size_t i = 0; i < size_t(width); ++i)
        ASSERT_EQ(out[size_t(to[r] * width) + i].bits, table[size_t(from[r] * width) + i].bits);
    }
  }
}

// The values that a file of that seed has, as the device keeps them.
TYPED_TEST(RowOps, RandomRowsAreThoseOfACheckpoint) {
  using T = TypeParam;
  constexpr int64_t kRows = 19, kFirst = 3, kColumns = 1001;
  RandomRows from{DType::f32, weight_stream(5, "w"), kFirst, kRows, kColumns, 1};
  const auto value = [&](int64_t r, int64_t c) {
    const int64_t index = (kFirst + r) * from.row_step + c * from.column_step;
    return random_weight(from.stream, uint64_t(index), kWeightDeviation);
  };
  const auto as = [](auto kept, float x) {
    simt::from_float(kept, x);
    return kept;
  };
  for (const bool by_columns : {false, true}) {
    if (by_columns) from.row_step = 1, from.column_step = 40;
    for (const DType stored : {DType::f32, DType::bf16, DType::f16}) {
      from.stored = stored;
      Array<T> out(size_t(kRows * kColumns));
      random_rows(Stream{}, out.tensor(dtype_of<T>(), {kRows, kColumns}), {}, from);
      for (int64_t i = 0; i < kRows * kColumns; ++i) {
        float x = value(i / kColumns, i % kColumns);
        if (stored == DType::bf16) x = to_float(as(Bf16{}, x));
        if (stored == DType::f16) x = to_float(as(F16{}, x));
        ASSERT_EQ(out[size_t(i)].bits, as(T{}, x).bits) << i;
      }
    }
  }
  from = {DType::fp8_e4m3, from.stream, kFirst, kRows, kColumns, 1};
  Array<uint8_t> codes(size_t(kRows * kColumns));
  Array<float> scales{size_t(kRows)};
  random_rows(Stream{}, codes.tensor(DType::fp8_e4m3, {kRows, kColumns}),
              scales.tensor(DType::f32, {kRows}), from);
  for (int64_t i = 0; i < kRows * kColumns; ++i) {
    const float scale = random_scale(kFirst + i / kColumns);
    ASSERT_EQ(scales[size_t(i / kColumns)], scale);
    ASSERT_EQ(codes[size_t(i)], to_e4m3(value(i / kColumns, i % kColumns) / scale)) << i;
  }
}

TYPED_TEST(RowOps, AddAndNormInOneAreTheTwoOneAfterTheOther) {
  using T = TypeParam;
  for (const int64_t rows : kRowCounts) {
    for (const int64_t width : kWidths) {
      const size_t n = size_t(rows * width);
      Array<T> residual(n), x(n), fused(n), sum(n), plain(n);
      Array<float> weight{size_t(width)};
      simt::fill(residual, 1, 2), simt::fill(x, 2);
      for (size_t i = 0; i < weight.size(); ++i) weight[i] = 0.5f + float(i % 7) / 7;
      const auto view = [&](Array<T>& a) { return a.tensor(dtype_of<T>(), {rows, width}); };
      const Tensor w = weight.tensor(DType::f32, {width});
      add(Stream{}, view(sum), view(residual), view(x));
      for (size_t i = 0; i < n; ++i) {
        T want;
        simt::from_float(want, to_float(residual[i]) + to_float(x[i]));
        ASSERT_EQ(sum[i].bits, want.bits);
      }
      rms_norm(Stream{}, view(plain), view(sum), {}, w, 1e-5f);
      rms_norm(Stream{}, view(fused), view(residual), view(x), w, 1e-5f);
      EXPECT_TRUE(residual.same_bits(sum));
      EXPECT_TRUE(fused.same_bits(plain));
      simt::Error error;
      for (size_t r = 0; r < size_t(rows); ++r) {
        double squares = 0;
        for (size_t i = 0; i < size_t(width); ++i)
          squares += std::pow(double(to_float(sum[r * size_t(width) + i])), 2);
        const double scale = 1 / std::sqrt(squares / double(width) + 1e-5);
        for (size_t i = 0; i < size_t(width); ++i)
          error.add(to_float(plain[r * size_t(width) + i]),
                    to_float(sum[r * size_t(width) + i]) * scale * weight[i]);
      }
      EXPECT_LT(error.relative(), kTolerance);
    }
  }
}

TYPED_TEST(RowOps, GatedActivations) {
  using T = TypeParam;
  for (const int64_t rows : kRowCounts) {
    for (const int64_t width : kWidths) {
      Array<T> x(size_t(2 * rows * width)), out(size_t(rows * width));
      simt::fill(x, 3, 20);  // far enough out that exp would overflow, were it done the plain way
      const Tensor in = x.tensor(dtype_of<T>(), {rows, 2 * width});
      const Tensor target = out.tensor(dtype_of<T>(), {rows, width});
      for (const bool silu : {true, false}) {
        silu ? silu_mul(Stream{}, target, in) : gelu_mul(Stream{}, target, in);
        simt::Error error;
        for (size_t r = 0; r < size_t(rows); ++r) {
          for (size_t i = 0; i < size_t(width); ++i) {
            const double gate = to_float(x[r * size_t(2 * width) + i]);
            const double up = to_float(x[r * size_t(2 * width) + size_t(width) + i]);
            const double inner = std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate);
            const double active =
                silu ? gate / (1 + std::exp(-gate)) : 0.5 * gate * (1 + std::tanh(inner));
            error.add(to_float(out[r * size_t(width) + i]), active * up);
          }
        }
        EXPECT_LT(error.relative(), kTolerance);
      }
    }
  }
}

TYPED_TEST(RowOps, LayerNorm) {
  using T = TypeParam;
  for (const int64_t rows : kRowCounts) {
    for (const int64_t width : kWidths) {
      Array<T> x(size_t(rows * width)), out(size_t(rows * width));
      Array<float> weight{size_t(width)}, bias{size_t(width)};
      simt::fill(x, 5, 2);
      for (size_t i = 0; i < size_t(width); ++i) {
        simt::from_float(x[i], to_float(x[i]) + 30);
        weight[i] = 0.5f + float(i % 7) / 7, bias[i] = float(i % 5) - 2;
        if (rows > 1) simt::from_float(x[i], 30);  // a row whose variance is epsilon alone
      }
      const Tensor w = weight.tensor(DType::f32, {width}), b = bias.tensor(DType::f32, {width});
      const Tensor in = x.tensor(dtype_of<T>(), {rows, width});
      for (const bool biased : {true, false}) {
        layer_norm(Stream{}, out.tensor(dtype_of<T>(), {rows, width}), in, w, biased ? b : Tensor{},
                   1e-5f);
        simt::Error error;
        for (size_t r = 0; r < size_t(rows); ++r) {
          const auto at = [&](size_t i) { return double(to_float(x[r * size_t(width) + i])); };
          double mean = 0, squares = 0;
          for (size_t i = 0; i < size_t(width); ++i) mean += at(i) / double(width);
          for (size_t i = 0; i < size_t(width); ++i) squares += std::pow(at(i) - mean, 2);
          const double scale = 1 / std::sqrt(squares / double(width) + 1e-5);
          for (size_t i = 0; i < size_t(width); ++i)
            error.add(to_float(out[r * size_t(width) + i]),
                      (at(i) - mean) * scale * weight[i] + (biased ? bias[i] : 0));
        }
        EXPECT_LT(error.relative(), kTolerance);
      }
      Array<T> other(out.size());
      simt::in_all_orders([&] {
        layer_norm(Stream{}, other.tensor(dtype_of<T>(), {rows, width}), in, w, {}, 1e-5f);
        EXPECT_TRUE(other.same_bits(out));
      });
      layer_norm(Stream{}, in, in, w, {}, 1e-5f);
      EXPECT_TRUE(x.same_bits(out));
    }
  }
}

TYPED_TEST(RowOps, ActivationsInPlace) {
  using T = TypeParam;
  const auto exact = [](double x, Activation a) {
    switch (a) {
      case Activation::silu:
        return x / (1 + std::exp(-x));
      case Activation::gelu:
        return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
      case Activation::gelu_tanh:
        return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
      case Activation::relu:
        return std::max(x, 0.0);
    }
    return 0.0;
  };
  for (const int64_t width : kWidths) {
    for (const Activation a :
         {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu}) {
      Array<T> x(size_t(3 * width));
      simt::fill(x, 6, 6);
      const Array<T> before = x;
      activate(Stream{}, x.tensor(dtype_of<T>(), {3, width}), a);
      simt::Error error;
      for (size_t i = 0; i < x.size(); ++i) {
        const double want = exact(to_float(before[i]), a);
        error.add(to_float(x[i]), want);
        // In sum it is as near to its approximation, in its tail it is not.
        if (std::is_same_v<T, simt::F16> && a == Activation::gelu) {
          ASSERT_NEAR(to_float(x[i]), want, 1e-3 * std::fabs(want) + 1e-5) << to_float(before[i]);
        }
      }
      EXPECT_LT(error.relative(), kTolerance) << width;
    }
  }
}

TYPED_TEST(RowOps, ScaleAndSoftCap) {
  using T = TypeParam;
  for (const int64_t width : kWidths) {
    for (const float cap : {0.0f, 5.0f}) {
      Array<T> x(size_t(3 * width));
      Array<float> wide(size_t(3 * width));
      simt::fill(x, 7, 40);
      for (size_t i = 0; i < x.size(); ++i) wide[i] = to_float(x[i]);
      const Array<float> before = wide;
      scale(Stream{}, x.tensor(dtype_of<T>(), {3, width}), 0.75f, cap);
      scale(Stream{}, wide.tensor(DType::f32, {3, width}), 0.75f, cap);
      simt::Error error, wide_error;
      for (size_t i = 0; i < x.size(); ++i) {
        const double scaled = before[i] * 0.75,
                     want = cap > 0 ? cap * std::tanh(scaled / cap) : scaled;
        error.add(to_float(x[i]), want), wide_error.add(wide[i], want);
      }
      EXPECT_LT(error.relative(), kTolerance) << width;
      EXPECT_LT(wide_error.relative(), 1e-5) << width;
    }
  }
}

TEST(Route, TakesTheLikeliestInEveryOrderOfThreads) {
  for (const auto& [count, k] : {std::pair{4, 2}, {6, 6}, {60, 4}, {128, 8}, {512, 3}}) {
    constexpr int kRows = 11;
    Array<float> logits(size_t(kRows * (count + 1))), weights(size_t(kRows * k));
    std::mt19937 random(3);
    std::uniform_real_distribution<float> uniform(-4, 4);
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = uniform(random);
    for (int e = 0; e < count; ++e) logits[size_t(count + 1 + e)] = 1;  // equals: the lower ids
    Array<int32_t> ids(weights.size());
    const Tensor in = logits.tensor(DType::f32, {kRows, count + 1}).cols(0, count);
    for (const bool normed : {true, false}) {
      simt::in_all_orders([&] {
        route(Stream{}, ids.tensor(DType::i32, {kRows, k}), weights.tensor(DType::f32, {kRows, k}),
              in, normed);
        for (int r = 0; r < kRows; ++r) {
          const float* row = in.row<float>(r);
          std::vector<int> order(static_cast<size_t>(count));
          for (int e = 0; e < count; ++e) order[size_t(e)] = e;
          std::stable_sort(order.begin(), order.end(),
                           [&](int a, int b) { return row[a] > row[b]; });
          double all = 0;
          for (int e = 0; e < (normed ? k : count); ++e)
            all += std::exp(double(row[order[size_t(e)]]));
          for (int j = 0; j < k; ++j) {
            const int id = order[size_t(j)];
            ASSERT_EQ(ids[size_t(r * k + j)], id);
            ASSERT_NEAR(weights[size_t(r * k + j)], std::exp(double(row[id])) / all, 1e-5);
          }
        }
      });
    }
  }
}

TYPED_TEST(RowOps, ExpertsMixedAndGated) {
  using T = TypeParam;
  for (const auto& [in, width] : {std::pair{64, 48}, {50, 16}, {264, 272}}) {
    constexpr int kRows = 9, kOf = 2, kExperts = 5;
    const size_t m = kRows * kOf, w_at = size_t(width) * size_t(in);
    Array<T> x(size_t(kRows * in)), w(kExperts * w_at), out(m * size_t(width)),
        mixed(size_t(kRows * width));
    Array<float> weights(m), gate(2 * kRows);
    Array<int32_t> experts(m);
    simt::fill(x, 8), simt::fill(w, 9);
    for (size_t i = 0; i < m; ++i)
      experts[i] = i % 2 ? 3 : int32_t(i / 2 % 3), weights[i] = 0.1f * float(i);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = float(i) - 8;
    const auto view = [&](Array<T>& a, int64_t rows, int64_t cols) {
      return a.tensor(dtype_of<T>(), {rows, cols});
    };
    expert_matmul(Stream{}, view(out, int64_t(m), width), view(x, kRows, in),
                  view(w, kExperts * width, in), {}, experts.tensor(DType::i32, {int64_t(m)}));
    simt::Error product;
    for (size_t i = 0; i < m; ++i) {
      for (size_t o = 0; o < size_t(width); ++o) {
        double sum = 0;
        for (size_t c = 0; c < size_t(in); ++c)
          sum += double(to_float(x[i / kOf * size_t(in) + c])) *
                 to_float(w[size_t(experts[i]) * w_at + o * size_t(in) + c]);
        product.add(to_float(out[i * size_t(width) + o]), sum);
      }
    }
    EXPECT_LT(product.relative(), kTolerance);
    mix_rows(Stream{}, view(mixed, kRows, width), view(out, int64_t(m), width),
             weights.tensor(DType::f32, {kRows, kOf}));
    add_gated(Stream{}, view(mixed, kRows, width), view(out, int64_t(m), width).rows(3, kRows),
              gate.tensor(DType::f32, {kRows, 2}).cols(1, 1));
    simt::Error mix;
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t o = 0; o < size_t(width); ++o) {
        const auto at = [&](size_t row) { return double(to_float(out[row * size_t(width) + o])); };
        mix.add(to_float(mixed[r * size_t(width) + o]),
                weights[2 * r] * at(2 * r) + weights[2 * r + 1] * at(2 * r + 1) +
                    at(r + 3) / (1 + std::exp(-double(gate[2 * r + 1]))));
      }
    }
    EXPECT_LT(mix.relative(), 2 * kTolerance);
  }
}

// Every output has a scale of its own; an expert has more rows than a tile, another one none.
TYPED_TEST(RowOps, ExpertsInFp8AreTheirCodesTimesTheirScales) {
  using T = TypeParam;
  for (const auto& [in, width] : {std::pair{16, 16}, {272, 48}, {528, 144}}) {
    constexpr int kRows = 9, kOf = 2, kExperts = 5;
    const size_t m = kRows * kOf, w_at = size_t(width) * size_t(in);
    Array<T> x(size_t(kRows * in));
    Array<simt::E4m3> w(kExperts * w_at);
    Array<float> scales(kExperts * size_t(width));
    Array<int32_t> experts(m);
    simt::fill(x, 11), simt::fill(w, 12, 3);
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.25f + 0.001f * float(i);
    for (size_t i = 0; i < m; ++i) experts[i] = i % 2 ? 3 : int32_t(i / 2 % 3);
    simt::in_all_orders([&] {
      Array<T> out(m * size_t(width));
      expert_matmul(
          Stream{}, out.tensor(dtype_of<T>(), {int64_t(m), width}),
          x.tensor(dtype_of<T>(), {kRows, in}), w.tensor(DType::fp8_e4m3, {kExperts * width, in}),
          scales.tensor(DType::f32, {kExperts * width}), experts.tensor(DType::i32, {int64_t(m)}));
      simt::Error product;
      for (size_t i = 0; i < m; ++i) {
        const size_t expert = size_t(experts[i]);
        for (size_t o = 0; o < size_t(width); ++o) {
          double sum = 0;
          for (size_t c = 0; c < size_t(in); ++c)
            sum += double(to_float(x[i / kOf * size_t(in) + c])) *
                   from_e4m3(w[expert * w_at + o * size_t(in) + c].bits);
          product.add(to_float(out[i * size_t(width) + o]),
                      sum * scales[expert * size_t(width) + o]);
        }
      }
      EXPECT_LT(product.relative(), kTolerance) << in << " " << width;
    });
  }
}

// Codes by the conversion, of values over their row's scale; rows that are zero, tiny, huge, and
// not finite; rows apart, on any border.
TYPED_TEST(RowOps, QuantizesEachRow) {
  using T = TypeParam;
  for (const int64_t width : {16, 48, 512, 4112, 8208}) {
    for (const int64_t extra : {0, 8, 3}) {
      constexpr int64_t kRows = 6;
      const int64_t stride = width + extra;
      Array<T> x(size_t(kRows * stride));
      simt::fill(x, 5, 3);
      const auto at = [&](int64_t r, int64_t i) -> T& { return x[size_t(r * stride + i)]; };
      for (int64_t i = 0; i < width; ++i) {
        simt::from_float(at(1, i), i % 2 ? 0.0f : -0.0f);
        simt::from_float(at(2, i), to_float(at(2, i)) * 1e-4f);
        simt::from_float(at(3, i), to_float(at(3, i)) * 1e4f);
      }
      simt::from_float(at(2, width - 1), -100);  // the largest is negative, and comes last
      simt::from_float(at(4, width / 2), NAN);
      simt::from_float(at(5, width / 3), INFINITY);
      Array<uint8_t> codes(size_t(kRows * width));
      Array<float> scales(size_t{kRows});
      Tensor in = x.tensor(dtype_of<T>(), {kRows, width});
      in.stride[0] = stride;
      quantize_rows(Stream{}, codes.tensor(DType::fp8_e4m3, {kRows, width}),
                    scales.tensor(DType::f32, {kRows}), in);
      for (int64_t r = 0; r < 5; ++r) {
        float largest = 0;
        for (int64_t i = 0; i < width; ++i)
          largest = std::fmax(largest, std::fabs(to_float(at(r, i))));
        if (r == 1) largest = 1e-30f;
        EXPECT_FLOAT_EQ(scales[size_t(r)], largest / 448) << r;
        for (int64_t i = 0; i < width; ++i) {
          const uint8_t code = codes[size_t(r * width + i)];
          const float value = to_float(at(r, i));
          if (std::isnan(value)) {
            ASSERT_TRUE(is_nan_e4m3(code));
          } else {
            ASSERT_EQ(code, to_e4m3(value * (448 / largest))) << r << " " << i << " " << width;
          }
        }
      }
      EXPECT_TRUE(std::isinf(scales[5]));  // so that nothing of the row passes for a number
      EXPECT_TRUE(is_nan_e4m3(codes[size_t(5 * width + width / 3)]));
    }
  }
}

// Norms and gates that write codes: to the bit what they and a pass of quantisation give.
TYPED_TEST(RowOps, QuantisesOnTheWayAsApart) {
  using T = TypeParam;
  constexpr int64_t kRows = 3;
  for (const int64_t width : {272, 512, 4112}) {
    for (const int64_t extra : {0, 3}) {
      Array<T> x(size_t(kRows * (2 * width + extra))), residual(size_t(kRows * (width + extra)));
      Array<float> weight(static_cast<size_t>(width));
      simt::fill(x, 7, 2);
      simt::fill(residual, 8, 2);
      for (size_t i = 0; i < weight.size(); ++i) weight[i] = 0.5f + float(i % 7);
      const auto view = [&](Array<T>& a, int64_t columns) {
        Tensor t = a.tensor(dtype_of<T>(), {kRows, columns});
        t.stride[0] = columns + extra;
        return t;
      };
      const Tensor w = weight.tensor(DType::f32, {width});
      // apart(out) and fused(codes, scales) do the same to copies of the residual.
      const auto same = [&](const auto& apart, const auto& fused) {
        Array<T> one = residual, other = residual, out(size_t(kRows * width));
        Array<uint8_t> want(size_t(kRows * width)), codes(size_t(kRows * width));
        Array<float> want_scales(size_t{kRows}), scales(size_t{kRows});
        const Tensor plain = out.tensor(dtype_of<T>(), {kRows, width});
        apart(plain, view(one, width));
        quantize_rows(Stream{}, want.tensor(DType::fp8_e4m3, {kRows, width}),
                      want_scales.tensor(DType::f32, {kRows}), plain);
        fused(codes.tensor(DType::fp8_e4m3, {kRows, width}), scales.tensor(DType::f32, {kRows}),
              view(other, width));
        return codes.same_bits(want) && scales.same_bits(want_scales) && other.same_bits(one);
      };
      for (const Tensor& add : {Tensor(), view(x, 2 * width).cols(0, width)}) {
        EXPECT_TRUE(same([&](Tensor out, Tensor r) { rms_norm(Stream{}, out, r, add, w, 1e-5f); },
                         [&](Tensor out, Tensor scale, Tensor r) {
                           quantize_normed(Stream{}, out, scale, r, add, w, 1e-5f);
                         }))
            << width << " " << extra << " " << bool(add);
      }
      for (const Activation gate : {Activation::silu, Activation::gelu_tanh}) {
        EXPECT_TRUE(same(
            [&](Tensor out, Tensor) {
              gate == Activation::silu ? silu_mul(Stream{}, out, view(x, 2 * width))
                                       : gelu_mul(Stream{}, out, view(x, 2 * width));
            },
            [&](Tensor out, Tensor scale, Tensor) {
              quantize_gated(Stream{}, out, scale, view(x, 2 * width), gate);
            }))
            << width << " " << extra;
      }
    }
  }
}

TYPED_TEST(RowOps, EveryFiberOrderGivesTheSameBits) {
  using T = TypeParam;
  Array<T> x(3 * 600), out(3 * 600);
  Array<float> weight(600);
  simt::fill(x, 1);
  for (size_t i = 0; i < 600; ++i) weight[i] = 1;
  const auto norm = [&](Array<T>& to) {
    rms_norm(Stream{}, to.tensor(dtype_of<T>(), {3, 600}), x.tensor(dtype_of<T>(), {3, 600}), {},
             weight.tensor(DType::f32, {600}), 1e-5f);
  };
  norm(out);
  const auto quantize = [&](Array<uint8_t>& codes, Array<float>& scales) {
    quantize_rows(Stream{}, codes.tensor(DType::fp8_e4m3, {3, 592}), scales.tensor(DType::f32, {3}),
                  x.tensor(dtype_of<T>(), {3, 600}).cols(0, 592));
  };
  Array<uint8_t> codes(3 * 592);
  Array<float> scales(3);
  quantize(codes, scales);
  simt::in_all_orders([&] {
    Array<uint8_t> other_codes(3 * 592);
    Array<float> other_scales(3);
    quantize(other_codes, other_scales);
    EXPECT_TRUE(other_codes.same_bits(codes) && other_scales.same_bits(scales));
    Array<T> other(3 * 600);
    norm(other);
    EXPECT_TRUE(other.same_bits(out));
  });
}

}  // namespace
}  // namespace sluice::cuda
