#include <gtest/gtest.h>

#include <cmath>

#include "kernel_test_util.h"

namespace sluice {
namespace {

class Rows : public EachIsa {};
SLUICE_EACH_ISA(Rows);

const int64_t kWidths[] = {1, 3, 4, 15, 16, 17, 31, 63, 64, 65, 130, 768, 1000};

TEST_P(Rows, RmsNorm) {
  std::mt19937 rng(1);
  for (const int64_t d : kWidths) {
    for (const int64_t n : {1, 3, 40}) {
      Matrix x(n, d, d + 5), y(n, d, d + 1), w(1, d);
      x.randomize(rng, 3);
      w.randomize(rng);
      ops().rms_norm(y.tensor(), x.tensor(), w.vector(), 1e-5f);
      std::vector<double> want;
      for (int64_t r = 0; r < n; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < d; ++c) sum += double(x.at(r, c)) * x.at(r, c);
        const double scale = 1 / std::sqrt(sum / d + 1e-5);
        for (int64_t c = 0; c < d; ++c) want.push_back(x.at(r, c) * scale * w.at(0, c));
      }
      EXPECT_LT(error_of(y, want), Tolerance::elementwise()) << n << " x " << d;
      EXPECT_TRUE(y.canaries_live());
      Matrix alone(1, d);  // a row is the same alone and in place
      ops().rms_norm(alone.tensor(), x.tensor().rows(n - 1, 1), w.vector(), 1e-5f);
      EXPECT_TRUE(alone.same_rows(y, 0, n - 1, 1));
      ops().rms_norm(x.tensor(), x.tensor(), w.vector(), 1e-5f);
      EXPECT_TRUE(x.same_rows(y, 0, 0, n));
    }
  }
}

// q/k norm: heads of a strided [n, heads, dim] view.
TEST_P(Rows, RmsNormOverHeads) {
  std::mt19937 rng(2);
  const int64_t n = 5, heads = 3, dim = 20;
  Matrix x(n, 100), flat(n * heads, dim), want(n * heads, dim), w(1, dim);
  x.randomize(rng);
  w.randomize(rng);
  const Tensor view = x.tensor().cols(7, heads * dim).heads(dim);
  for (int64_t r = 0; r < n * heads; ++r) {
    for (int64_t c = 0; c < dim; ++c) flat.at(r, c) = x.at(r / heads, 7 + r % heads * dim + c);
  }
  Matrix before = x;
  ops().rms_norm(want.tensor(), flat.tensor(), w.vector(), 1e-6f);
  ops().rms_norm(view, view, w.vector(), 1e-6f);
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < 100; ++c) {
      const bool inside = c >= 7 && c < 7 + heads * dim;
      const float expected =
          inside ? want.at(r * heads + (c - 7) / dim, (c - 7) % dim) : before.at(r, c);
      ASSERT_EQ(x.at(r, c), expected);
    }
  }
}

TEST_P(Rows, AddAndAddRmsNorm) {
  std::mt19937 rng(3);
  for (const int64_t d : kWidths) {
    const int64_t n = 37;
    Matrix a(n, d, d + 2), b(n, d), sum(n, d), w(1, d), plain(n, d), fused(n, d, d + 4);
    a.randomize(rng);
    b.randomize(rng);
    w.randomize(rng);
    ops().add(sum.tensor(), a.tensor(), b.tensor());
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = 0; c < d; ++c) ASSERT_EQ(sum.at(r, c), a.at(r, c) + b.at(r, c));
    }
    Matrix residual = a;
    ops().Ops::add_rms_norm(plain.tensor(), residual.tensor(), b.tensor(), w.vector(), 1e-5f);
    ops().add_rms_norm(fused.tensor(), a.tensor(), b.tensor(), w.vector(), 1e-5f);
    EXPECT_TRUE(fused.same_rows(plain, 0, 0, n));
    EXPECT_TRUE(a.same_rows(residual, 0, 0, n));
    EXPECT_TRUE(fused.canaries_live() && a.canaries_live());
  }
}

TEST_P(Rows, SiluMul) {
  std::mt19937 rng(4);
  for (const int64_t d : kWidths) {
    const int64_t n = 9;
    Matrix gate_up(n, 2 * d), y(n, d, d + 3);
    gate_up.randomize(rng, 4);
    gate_up.at(0, 0) = -200;  // e^200 is beyond f32
    gate_up.at(1, 0) = 200;
    gate_up.at(2, 0) = 0;
    ops().silu_mul(y.tensor(), gate_up.tensor());
    std::vector<double> want;
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = 0; c < d; ++c) {
        const double g = gate_up.at(r, c);
        want.push_back(g / (1 + std::exp(-g)) * gate_up.at(r, d + c));
      }
    }
    EXPECT_LT(error_of(y, want), Tolerance::elementwise()) << d;
    EXPECT_TRUE(y.canaries_live());
  }
}

TEST_P(Rows, LayerNorm) {
  std::mt19937 rng(6);
  for (const int64_t d : kWidths) {
    const int64_t n = 7;
    Matrix x(n, d, d + 5), y(n, d, d + 1), w(1, d), b(1, d);
    x.randomize(rng, 3);
    w.randomize(rng), b.randomize(rng);
    for (int64_t c = 0; c < d; ++c) x.at(2, c) += 1000;  // a mean whose square drowns the rest
    for (const bool biased : {true, false}) {
      ops().layer_norm(y.tensor(), x.tensor(), w.vector(), biased ? b.vector() : Tensor{}, 1e-5f);
      std::vector<double> want;
      for (int64_t r = 0; r < n; ++r) {
        double mean = 0, squares = 0;
        for (int64_t c = 0; c < d; ++c) mean += double(x.at(r, c)) / d;
        for (int64_t c = 0; c < d; ++c) squares += std::pow(x.at(r, c) - mean, 2);
        const double scale = 1 / std::sqrt(squares / d + 1e-5);
        for (int64_t c = 0; c < d; ++c)
          want.push_back((x.at(r, c) - mean) * scale * w.at(0, c) + (biased ? b.at(0, c) : 0));
      }
      // The mean itself is rounded: 1000 / 2^24 beside a deviation of 3.
      EXPECT_LT(error_of(y, want), 5e-5) << d;
      EXPECT_TRUE(y.canaries_live());
    }
    Matrix alone(1, d);
    ops().layer_norm(alone.tensor(), x.tensor().rows(n - 1, 1), w.vector(), {}, 1e-5f);
    EXPECT_TRUE(alone.same_rows(y, 0, n - 1, 1));
    ops().layer_norm(x.tensor(), x.tensor(), w.vector(), {}, 1e-5f);
    EXPECT_TRUE(x.same_rows(y, 0, 0, n));
  }
}

double activation_of(double x, Activation a) {
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
  return 0;
}

TEST_P(Rows, Activations) {
  std::mt19937 rng(7);
  for (const int64_t d : kWidths) {
    const int64_t n = 9;
    for (const Activation a :
         {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu}) {
      Matrix x(n, d, d + 3);
      x.randomize(rng, 3);
      x.at(0, 0) = -200, x.at(1, 0) = 200, x.at(2, 0) = 0;
      std::vector<double> want;
      for (int64_t r = 0; r < n; ++r)
        for (int64_t c = 0; c < d; ++c) want.push_back(activation_of(x.at(r, c), a));
      ops().activate(x.tensor(), a);
      for (int64_t i = 0; i < n * d; ++i)
        ASSERT_NEAR(x.at(i / d, i % d), want[i], 4e-7 * std::max(1.0, std::abs(want[i])));
      EXPECT_TRUE(x.canaries_live());
    }
    Matrix gate_up(n, 2 * d), y(n, d, d + 3);
    gate_up.randomize(rng, 4);
    ops().gelu_mul(y.tensor(), gate_up.tensor());
    std::vector<double> want;
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < d; ++c)
        want.push_back(activation_of(gate_up.at(r, c), Activation::gelu_tanh) *
                       gate_up.at(r, d + c));
    EXPECT_LT(error_of(y, want), Tolerance::elementwise()) << d;
    EXPECT_TRUE(y.canaries_live());
  }
}

TEST_P(Rows, ScaleAndSoftCap) {
  std::mt19937 rng(8);
  for (const int64_t d : kWidths) {
    for (const float cap : {0.0f, 5.0f}) {
      Matrix x(4, d, d + 3);
      x.randomize(rng, 20);
      x.at(0, 0) = 3000;
      std::vector<double> want;
      for (int64_t r = 0; r < 4; ++r) {
        for (int64_t c = 0; c < d; ++c) {
          const double scaled = x.at(r, c) * 0.75;
          want.push_back(cap > 0 ? cap * std::tanh(scaled / cap) : scaled);
        }
      }
      ops().scale(x.tensor(), 0.75f, cap);
      EXPECT_LT(error_of(x, want), Tolerance::elementwise()) << d;
      EXPECT_TRUE(x.canaries_live());
    }
  }
}

TEST_P(Rows, RouteTakesTheLikeliest) {
  std::mt19937 rng(9);
  for (const auto& [count, k] : {std::pair{4, 2}, {6, 6}, {60, 4}, {128, 8}}) {
    const int64_t n = 23;
    Matrix logits(n, count, count + 3), weights(n, k);
    logits.randomize(rng, 2);
    for (int e = 0; e < count; ++e) logits.at(1, e) = 0;  // equals: the lower ids
    for (const bool normed : {true, false}) {
      std::vector<int32_t> ids(n * k);
      ops().route(Tensor::of(ids.data(), DType::i32, {n, k}), weights.tensor(), logits.tensor(),
                  normed);
      for (int64_t r = 0; r < n; ++r) {
        std::vector<int> order(count);
        for (int e = 0; e < count; ++e) order[e] = e;
        std::stable_sort(order.begin(), order.end(),
                         [&](int a, int b) { return logits.at(r, a) > logits.at(r, b); });
        double all = 0;
        for (int e = 0; e < (normed ? k : count); ++e)
          all += std::exp(double(logits.at(r, order[e])));
        for (int j = 0; j < k; ++j) {
          ASSERT_EQ(ids[r * k + j], order[j]);
          ASSERT_NEAR(weights.at(r, j), std::exp(double(logits.at(r, order[j]))) / all, 1e-6);
        }
      }
    }
  }
}

// Experts unevenly loaded, one of them idle; each row as by a product of its own, to the bit.
TEST_P(Rows, ExpertMatmulIsOneProductARow) {
  std::mt19937 rng(10);
  for (const DType type : kWeightTypes) {
    const int64_t n = 37, k = 2, in = 50, width = 48, count = 5;
    Matrix x(n, in, in + 3), w(count * width, in), out(n * k, width, width + 2), one(1, width);
    x.randomize(rng), w.randomize(rng);
    std::vector<int32_t> experts(n * k);
    for (int64_t i = 0; i < n * k; ++i)
      experts[i] = i % 2 == 0 ? 3 : int32_t(rng() % 3);  // 4 has nothing to do
    const auto pack = [&](int64_t first, int64_t rows) {
      auto memory = device().allocate(ops().weight_bytes(type, rows, in), Memory::device);
      const Weight packed = ops().make_weight(memory.get(), type, rows, in);
      ops().pack_rows(packed, 0, w.tensor().rows(first, rows));
      return std::pair{std::move(memory), packed};
    };
    const auto all = pack(0, count * width);
    ops().expert_matmul(out.tensor(), x.tensor(), all.second, i32(experts));
    for (int64_t i = 0; i < n * k; ++i) {
      const auto own = pack(experts[i] * width, width);
      ops().matmul(one.tensor(), x.tensor().rows(i / k, 1), own.second);
      ASSERT_TRUE(one.same_rows(out, 0, i, 1)) << i;
    }
    EXPECT_TRUE(out.canaries_live());
  }
}

TEST_P(Rows, MixRowsAndAddGated) {
  std::mt19937 rng(11);
  const int64_t n = 7, k = 3, d = 70;
  Matrix x(n * k, d, d + 1), weights(n, k), out(n, d, d + 2), gate(n, 1, 4);
  x.randomize(rng), weights.randomize(rng), gate.randomize(rng, 3);
  ops().mix_rows(out.tensor(), x.tensor(), weights.tensor());
  std::vector<double> want;
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < d; ++c) {
      want.push_back(0);
      for (int64_t j = 0; j < k; ++j) want.back() += double(weights.at(r, j)) * x.at(r * k + j, c);
    }
  }
  EXPECT_LT(error_of(out, want), Tolerance::elementwise());
  ops().add_gated(out.tensor(), x.tensor().rows(0, n), gate.tensor());
  for (int64_t i = 0; i < n * d; ++i)
    want[i] += x.at(i / d, i % d) / (1 + std::exp(-double(gate.at(i / d, 0))));
  EXPECT_LT(error_of(out, want), Tolerance::elementwise());
  EXPECT_TRUE(out.canaries_live());
}

// The exponential that silu, softmax and sampling share, over its whole range: silu(-x) * e^x.
TEST_P(Rows, ExponentialIsAccurate) {
  const int64_t n = 20000;
  Matrix gate_up(1, 2 * n), y(1, n);
  for (int64_t i = 0; i < n; ++i) {
    gate_up.at(0, i) = -80 + 160 * float(i) / n;
    gate_up.at(0, n + i) = 1;
  }
  ops().silu_mul(y.tensor(), gate_up.tensor());
  for (int64_t i = 0; i < n; ++i) {
    const double g = gate_up.at(0, i), want = g / (1 + std::exp(-g));
    ASSERT_NEAR(y.at(0, i), want, 4e-7 * std::abs(want) + 1e-37) << g;
  }
}

Matrix rope_table(int64_t positions, int64_t dim) {
  Matrix t(positions, dim);
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < dim / 2; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / dim);
      t.at(p, i) = float(std::cos(angle));
      t.at(p, dim / 2 + i) = float(std::sin(angle));
    }
  }
  return t;
}

TEST_P(Rows, Rope) {
  std::mt19937 rng(5);
  for (const auto& [dim, rotary] : {std::pair{64, 64}, {64, 32}, {20, 20}, {6, 2}, {128, 128}}) {
    const int64_t n = 11, heads = 3;
    Matrix x(n, heads * dim, heads * dim + 9), table = rope_table(50, rotary);
    x.randomize(rng);
    const Matrix before = x;
    std::vector<int32_t> positions(n);
    for (int32_t& p : positions) p = int32_t(rng() % 50);
    ops().rope(x.tensor().heads(dim), i32(positions), table.tensor());
    std::vector<double> want;
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t c = 0; c < heads * dim; ++c) {
        const int64_t h = c / dim * dim, i = c % dim, half = rotary / 2;
        const double cos = table.at(positions[r], i % half);
        const double sin = table.at(positions[r], half + i % half);
        const double v = before.at(r, c);
        if (i < half) {
          want.push_back(v * cos - before.at(r, h + i + half) * sin);
        } else if (i < rotary) {
          want.push_back(v * cos + before.at(r, h + i - half) * sin);
        } else {
          want.push_back(v);
        }
      }
    }
    EXPECT_LT(error_of(x, want), Tolerance::elementwise()) << dim << " " << rotary;
    EXPECT_TRUE(x.canaries_live());
  }
}

TEST_P(Rows, GatherRows) {
  std::mt19937 rng(6);
  Matrix x(10, 33, 40), y(5, 33, 35);
  x.randomize(rng);
  std::vector<int32_t> rows = {9, 0, 3, 3, 7};
  ops().gather_rows(y.tensor(), x.tensor(), i32(rows));
  for (int64_t r = 0; r < 5; ++r) EXPECT_TRUE(y.same_rows(x, r, rows[r], 1));
  EXPECT_TRUE(y.canaries_live());
}

TEST_P(Rows, WriteKv) {
  std::mt19937 rng(7);
  for (const DType type : {DType::f32, DType::bf16, DType::fp8_e4m3}) {
    for (const int64_t dim : {8, 20, 64}) {
      const int64_t n = 6, heads = 2;
      Cache cache(type, 4, heads, 3, dim);
      // Some values are beyond the range: the randoms go to 1 and further.
      const bool fp8 = type == DType::fp8_e4m3;
      const float k_scale = cache.view.k_scale = fp8 ? 0.002f : 1;
      const float v_scale = cache.view.v_scale = fp8 ? 0.25f : 1;
      const std::vector<uint8_t> before = cache.bytes;
      Matrix kv(n, 2 * heads * dim + 5);
      kv.randomize(rng);
      std::vector<int32_t> slots = {11, 0, 4, 5, 6, 2};
      ops().write_kv(cache.view, kv.tensor().cols(0, heads * dim).heads(dim),
                     kv.tensor().cols(heads * dim, heads * dim).heads(dim), i32(slots));
      size_t changed = 0;
      for (size_t i = 0; i < before.size(); ++i) changed += before[i] != cache.bytes[i];
      EXPECT_LE(changed, size_t(2 * n * heads * dim * bits_of(type) / 8));
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t c = 0; c < heads * dim; ++c) {
          ASSERT_EQ(cache.at(cache.view.k, slots[r], c / dim, c % dim),
                    Layer::stored(kv.at(r, c) * (1 / k_scale), type));
          ASSERT_EQ(cache.at(cache.view.v, slots[r], c / dim, c % dim),
                    Layer::stored(kv.at(r, heads * dim + c) * (1 / v_scale), type));
        }
      }
    }
  }
}

TEST_P(Rows, QkvRopeWriteEqualsTheUnfusedForm) {
  std::mt19937 rng(8);
  for (const bool norms : {false, true}) {
    for (const DType type : {DType::f32, DType::bf16}) {
      const int64_t n = 70, dim = 24;
      QkvParams p;
      p.num_heads = 4;
      p.num_kv_heads = 2;
      p.head_dim = int(dim);
      p.eps = 1e-6f;
      Matrix q_norm(1, dim), k_norm(1, dim), table = rope_table(200, dim);
      if (norms) {
        p.q_norm = q_norm.randomize(rng).vector();
        p.k_norm = k_norm.randomize(rng).vector();
      }
      p.cos_sin = table.tensor();
      Matrix fused(n, 8 * dim);
      fused.randomize(rng);
      Matrix plain = fused;
      std::vector<int32_t> positions(n), slots(n);
      for (int64_t i = 0; i < n; ++i) {
        positions[i] = int32_t(rng() % 200);
        slots[i] = int32_t((i * 29) % 96);
      }
      Cache a(type, 6, 2, 16, dim), b(type, 6, 2, 16, dim);
      ops().qkv_rope_write(fused.tensor(), p, i32(positions), a.view, i32(slots));
      ops().Ops::qkv_rope_write(plain.tensor(), p, i32(positions), b.view, i32(slots));
      EXPECT_EQ(a.bytes, b.bytes);
      EXPECT_TRUE(fused.same_rows(plain, 0, 0, n));
    }
  }
}

}  // namespace
}  // namespace sluice
