#include <gtest/gtest.h>

#include "kernel_test_util.h"

namespace sluice {
namespace {

class Gemm : public EachIsa {};
SLUICE_EACH_ISA(Gemm);

struct Case {
  int64_t rows, out, in;
  bool bias;
  int64_t x_extra, y_extra;  // added to the row strides
};

// Remainders of every kind: rows around the register tiles, outputs around 16 and 48, odd inputs,
// inputs beyond a block of k, rows beyond a block of rows, strides that call for staging.
const Case kCases[] = {
    {1, 1, 1, false, 0, 0},     {1, 16, 2, true, 0, 0},      {2, 17, 3, true, 1, 5},
    {3, 48, 64, false, 0, 0},   {4, 33, 127, true, 3, 1},    {5, 100, 128, false, 0, 0},
    {6, 64, 129, true, 0, 7},   {7, 95, 255, false, 2, 0},   {8, 96, 256, true, 0, 0},
    {9, 97, 257, true, 5, 3},   {10, 49, 300, false, 0, 0},  {11, 15, 511, true, 0, 0},
    {13, 1, 40, false, 0, 0},   {16, 160, 512, true, 0, 0},  {17, 31, 513, false, 1, 1},
    {25, 50, 768, true, 0, 0},  {33, 65, 1024, false, 0, 0}, {70, 47, 1100, true, 0, 9},
    {200, 40, 600, true, 0, 0}, {130, 19, 33, false, 0, 0},  {1, 300, 2048, false, 0, 0},
    {8, 112, 2049, true, 0, 0},
};

TEST_P(Gemm, MatchesExactSums) {
  std::mt19937 rng(1);
  for (const DType type : kWeightTypes) {
    for (const Case& c : kCases) {
      SCOPED_TRACE(testing::Message()
                   << name_of(type) << " rows " << c.rows << " out " << c.out << " in " << c.in);
      Layer layer(ops(), device(), type, c.out, c.in, rng, c.bias);
      Matrix x(c.rows, c.in, c.in + c.x_extra), y(c.rows, c.out, c.out + c.y_extra);
      x.randomize(rng);
      ops().matmul(y.tensor(), x.tensor(), layer.weight);
      EXPECT_LT(error_of(y, layer.apply(x)), Tolerance::sum(rounds_x(type)));
      EXPECT_TRUE(y.canaries_live());
    }
  }
}

// The same bits for a row whoever computes it with: any number of rows, any threads.
TEST_P(Gemm, BitsDoNotDependOnRowsOrThreads) {
  std::mt19937 rng(2);
  TestDevice alone(GetParam(), 1), many(GetParam(), 5);
  for (const DType type : kWeightTypes) {
    for (const int64_t in : {96, 333, 2048}) {
      const int64_t out = 211, rows = 300;
      Layer layer(ops(), device(), type, out, in, rng, true);
      Matrix x(rows, in), all(rows, out);
      x.randomize(rng);
      ops().matmul(all.tensor(), x.tensor(), layer.weight);
      for (const int64_t count :
           {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 23, 31, 64, 100, 257}) {
        for (CheckedOps* o : {&ops(), &alone.ops, &many.ops}) {
          const int64_t first = (count * 37) % (rows - count + 1);
          Matrix y(count, out);
          o->matmul(y.tensor(), x.tensor().rows(first, count), layer.weight);
          ASSERT_TRUE(y.same_rows(all, 0, first, count))
              << name_of(type) << " in " << in << " rows " << count;
        }
      }
    }
  }
}

TEST_P(Gemm, SiluMulEqualsTheUnfusedForm) {
  std::mt19937 rng(3);
  for (const DType type : kWeightTypes) {
    for (const int64_t half : {16, 64, 112, 24, 200}) {
      for (const int64_t rows : {1, 2, 5, 8, 9, 40, 150}) {
        for (const bool bias : {false, true}) {
          const int64_t in = 130;
          Layer layer(ops(), device(), type, 2 * half, in, rng, bias);
          Matrix x(rows, in), y(rows, half, half + 3), want(rows, half), scratch(rows, 2 * half);
          x.randomize(rng);
          ops().matmul_silu_mul(y.tensor(), x.tensor(), layer.weight, scratch.tensor());
          ops().matmul(scratch.tensor(), x.tensor(), layer.weight);
          ops().silu_mul(want.tensor(), scratch.tensor());
          ASSERT_TRUE(y.same_rows(want, 0, 0, rows))
              << name_of(type) << " half " << half << " rows " << rows;
          ASSERT_TRUE(y.canaries_live());
        }
      }
    }
  }
}

// Where two sets both fuse multiply and add, they agree to the bit: one chain over ascending k.
TEST(GemmAcrossIsas, Avx2AndAvx512Agree) {
  if (!cpu::choose_isa("avx512").ok()) GTEST_SKIP() << "NOT TESTED HERE: no avx512";
  std::mt19937 rng(4);
  TestDevice narrow("avx2"), wide("avx512");
  for (const DType type : {DType::bf16, DType::fp8_e4m3}) {
    Layer layer(narrow.ops, *narrow.device, type, 77, 1500, rng);
    for (const int64_t rows : {1, 7, 50}) {
      Matrix x(rows, 1500), a(rows, 77), b(rows, 77);
      x.randomize(rng);
      narrow.ops.matmul(a.tensor(), x.tensor(), layer.weight);
      wide.ops.matmul(b.tensor(), x.tensor(), layer.weight);
      EXPECT_TRUE(a.same_rows(b, 0, 0, rows));
    }
  }
}

// Every code but the NaNs, in both places of a pair and every place of a tile: as the conversion
// has it, times the scale, of which each row has another.
TEST_P(Gemm, EveryCodeOfE4m3) {
  const int64_t out = 33, in = 254;
  std::vector<uint8_t> codes(out * in);
  std::vector<float> scales(out);
  for (int64_t r = 0; r < out; ++r) {
    scales[r] = std::ldexp(1 + r / 64.0f, int(r % 9) - 12);
    for (int64_t k = 0; k < in; ++k) {
      const int64_t i = (k + 7 * r) % in;
      codes[r * in + k] = uint8_t(i < 127 ? i : i + 1);
    }
  }
  auto memory = device().allocate(ops().weight_bytes(DType::fp8_e4m3, out, in), Memory::device);
  const Weight w = ops().make_weight(memory.get(), DType::fp8_e4m3, out, in);
  ops().pack_rows(w, 0, Tensor::of(codes.data(), DType::fp8_e4m3, {out, in}), f32(scales));
  Matrix x(in, in), y(in, out);
  for (int64_t r = 0; r < in; ++r) {
    for (int64_t k = 0; k < in; ++k) x.at(r, k) = r == k;
  }
  for (const int64_t rows : {in, int64_t{1}}) {  // the second: few rows go another way
    for (int64_t first = 0; first < in; first += rows) {
      ops().matmul(y.tensor().rows(first, rows), x.tensor().rows(first, rows), w);
    }
    for (int64_t r = 0; r < out; ++r) {
      for (int64_t k = 0; k < in; ++k)
        ASSERT_EQ(y.at(k, r), from_e4m3(codes[r * in + k]) * scales[r]) << int(codes[r * in + k]);
    }
  }
}

// A scrap of infinity stays in its row and column.
TEST_P(Gemm, NonFiniteValuesStayInTheirRow) {
  std::mt19937 rng(5);
  Layer layer(ops(), device(), DType::bf16, 40, 130, rng);
  Matrix x(20, 130), clean(20, 40), y(20, 40);
  x.randomize(rng);
  ops().matmul(clean.tensor(), x.tensor(), layer.weight);
  x.at(7, 129) = INFINITY;
  ops().matmul(y.tensor(), x.tensor(), layer.weight);
  EXPECT_TRUE(y.same_rows(clean, 0, 0, 7));
  EXPECT_TRUE(y.same_rows(clean, 8, 8, 12));
  for (int64_t c = 0; c < 40; ++c) EXPECT_FALSE(std::isfinite(y.at(7, c)));
}

}  // namespace
}  // namespace sluice
