#include <gtest/gtest.h>

#include <thread>

#include "kernel_test_util.h"

namespace sluice {
namespace {

TEST(Convert, Bf16RoundsToNearestEven) {
  std::mt19937 rng(1);
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float f = from_bf16(uint16_t(h));
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(from_bf16(to_bf16(f))));
    } else {
      ASSERT_EQ(to_bf16(f), h);
    }
  }
  EXPECT_EQ(to_bf16(1.00390625f), 0x3f80);    // half way: down to even
  EXPECT_EQ(to_bf16(1.01171875f), 0x3f82);    // half way: up to even
  EXPECT_EQ(to_bf16(1.00390637f), 0x3f81);    // just past half
  EXPECT_EQ(to_bf16(3.4028235e38f), 0x7f80);  // rounds to infinity
}

TEST(Convert, F16MatchesTheCompiler) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float f = from_f16(uint16_t(h));
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(from_f16(to_f16(f))));
    } else {
      ASSERT_EQ(to_f16(f), h) << f;
    }
  }
  EXPECT_EQ(from_f16(0x3c00), 1.0f);
  EXPECT_EQ(from_f16(0x0001), 0x1p-24f);
  EXPECT_EQ(to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(to_f16(1.00048828125f), 0x3c00);  // half way: down to even
  EXPECT_EQ(to_f16(1.00146484375f), 0x3c02);  // half way: up to even
  EXPECT_EQ(to_f16(0x1p-25f), 0);             // half way: down to even
  EXPECT_EQ(to_f16(0x1.8p-24f), 2);           // half way: up to even
}

// By the definition, not by the conversion's own steps.
double value_of_e4m3(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double size =
      exponent > 0 ? std::ldexp(1 + mantissa / 8.0, exponent - 7) : std::ldexp(mantissa / 8.0, -6);
  return code & 0x80 ? -size : size;
}

TEST(Convert, E4m3HasEveryCode) {
  for (int code = 0; code < 256; ++code) {
    const float f = from_e4m3(uint8_t(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(f) && std::signbit(f) == (code >= 0x80));
      EXPECT_TRUE(is_nan_e4m3(uint8_t(code)));
    } else {
      EXPECT_EQ(f, value_of_e4m3(code)) << code;
      EXPECT_FALSE(is_nan_e4m3(uint8_t(code)));
    }
    EXPECT_EQ(to_e4m3(f), code);  // -0 too
  }
  EXPECT_EQ(from_e4m3(0x7e), 448.0f);
  EXPECT_EQ(from_e4m3(0x01), 0x1p-9f);
}

TEST(Convert, E4m3RoundsToNearestEvenAndSaturates) {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = float(value_of_e4m3(code)), high = float(value_of_e4m3(code + 1));
    const float middle = (low + high) / 2;
    for (const int sign : {0, 0x80}) {
      const float s = sign ? -1.0f : 1.0f;
      EXPECT_EQ(to_e4m3(s * middle), sign | (code % 2 ? code + 1 : code)) << code;
      EXPECT_EQ(to_e4m3(s * std::nextafter(middle, low)), sign | code) << code;
      EXPECT_EQ(to_e4m3(s * std::nextafter(middle, high)), sign | (code + 1)) << code;
    }
  }
  for (const float large : {448.0f, 449.0f, 464.0f, 480.0f, 1e30f, INFINITY}) {
    EXPECT_EQ(to_e4m3(large), 0x7e) << large;
    EXPECT_EQ(to_e4m3(-large), 0xfe) << large;
  }
  EXPECT_EQ(to_e4m3(0x1p-149f), 0);
  EXPECT_TRUE(is_nan_e4m3(to_e4m3(NAN)) && is_nan_e4m3(to_e4m3(-NAN)));
}

class Pack : public EachIsa {};
SLUICE_EACH_ISA(Pack);

// embed gives back what was packed, for every pair of types.
TEST_P(Pack, EmbedGivesBackTheRows) {
  std::mt19937 rng(2);
  for (const DType type : kWeightTypes) {
    for (const int64_t width : {1, 2, 31, 64, 1025}) {
      const int64_t vocab = 53;
      Layer table(ops(), device(), type, vocab, width, rng);
      std::vector<int32_t> ids = {0, 52, 16, 15, 16, 3, 47, 48};
      Matrix out(8, width, width + 2);
      ops().embed(out.tensor(), table.weight, i32(ids));
      for (int64_t r = 0; r < 8; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          ASSERT_EQ(out.at(r, c), table.values.at(ids[r], c)) << name_of(type) << " " << width;
        }
      }
      EXPECT_TRUE(out.canaries_live());
    }
  }
}

TEST_P(Pack, SourcesOfEveryTypeAreConverted) {
  std::mt19937 rng(3);
  const int64_t rows = 37, width = 66;
  Matrix values(rows, width);
  values.randomize(rng);
  for (const DType from : kWeightTypes) {
    for (const DType to : kWeightTypes) {
      std::vector<uint16_t> halves(rows * width);
      std::vector<uint8_t> codes(rows * width);
      std::vector<float> scales(rows);
      for (int64_t i = 0; i < rows * width; ++i) {
        const float v = values.at(i / width, i % width);
        scales[i / width] = Layer::scale_of(&values.at(i / width, 0), width);
        halves[i] = from == DType::bf16 ? to_bf16(v) : to_f16(v);
        codes[i] = to_e4m3(v / scales[i / width]);
      }
      const bool is_fp8 = from == DType::fp8_e4m3;
      const Tensor source = from == DType::f32 ? values.tensor()
                            : is_fp8           ? Tensor::of(codes.data(), from, {rows, width})
                                               : Tensor::of(halves.data(), from, {rows, width});
      auto memory = device().allocate(ops().weight_bytes(to, rows, width), Memory::device);
      const Weight w = ops().make_weight(memory.get(), to, rows, width);
      std::vector<std::thread> packers;  // rows of one tile from two threads
      for (const auto& [first, count] : {std::pair{0, 21}, std::pair{21, 16}}) {
        packers.emplace_back([&, first = first, count = count] {
          ops().pack_rows(w, first, source.rows(first, count),
                          is_fp8 ? f32(scales).rows(first, count) : Tensor());
        });
      }
      for (std::thread& t : packers) t.join();
      std::vector<int32_t> ids(rows);
      for (int64_t r = 0; r < rows; ++r) ids[r] = int32_t(r);
      Matrix out(rows, width);
      ops().embed(out.tensor(), w, i32(ids));
      for (int64_t r = 0; r < rows; ++r) {
        std::vector<float> once(width);
        for (int64_t c = 0; c < width; ++c)
          once[c] = Layer::stored(values.at(r, c), from, scales[r]);
        const float scale = is_fp8 ? scales[r] : Layer::scale_of(once.data(), width);
        for (int64_t c = 0; c < width; ++c) {
          ASSERT_EQ(out.at(r, c), Layer::stored(once[c], to, scale))
              << name_of(from) << " to " << name_of(to);
        }
      }
    }
  }
}

}  // namespace
}  // namespace sluice
