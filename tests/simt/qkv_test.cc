// The QKV region of a layer: on the emulator, against its ops one after the other, and those
// against double precision.
#include "base/float8.h"
#include "kernels/cuda/launch.h"
#include "tests/simt/kernel_test.h"

namespace sluice::cuda {
namespace {

using simt::Array;
using simt::Bf16;
using simt::dtype_of;
using simt::E4m3;
using simt::F16;
using simt::to_float;

template <class T>
class QkvOps : public ::testing::Test {};
using Types = ::testing::Types<Bf16, F16>;
TYPED_TEST_SUITE(QkvOps, Types);

// A layer's cache inside blocks that hold other layers too, and a QKV row. Kv: of the cache.
template <class T, class Kv = T>
struct QkvCase {
  static constexpr int kTokens = 5, kBlocks = 4, kBlockSize = 16;
  const int heads, kv_heads, dim, rotary;
  const bool norms;
  Array<T> qkv;
  Array<Kv> cache;
  Array<float> q_norm, k_norm, cos_sin;
  std::vector<int32_t> positions = {0, 3, 40, 41, 99}, slots = {17, 0, 63, 5, 32};

  QkvCase(int heads, int kv_heads, int dim, int rotary, bool norms)
      : heads(heads),
        kv_heads(kv_heads),
        dim(dim),
        rotary(rotary),
        norms(norms),
        qkv(size_t(kTokens * (heads + 2 * kv_heads) * dim)),
        cache(size_t(kBlocks * 3 * 2 * kv_heads * kBlockSize * dim)),
        q_norm(size_t(dim)),
        k_norm(size_t(dim)),
        cos_sin(size_t(100 * rotary)) {
    simt::fill(qkv, 4, 3);
    for (size_t i = 0; i < size_t(dim); ++i)
      q_norm[i] = 0.8f + float(i % 5) / 10, k_norm[i] = 1.2f - float(i % 3) / 10;
    for (int p = 0; p < 100; ++p) {
      for (int j = 0; j < rotary / 2; ++j) {
        const double angle = p * std::pow(10000.0, -2.0 * j / rotary);
        cos_sin[size_t(p * rotary + j)] = float(std::cos(angle));
        cos_sin[size_t(p * rotary + rotary / 2 + j)] = float(std::sin(angle));
      }
    }
  }
  Tensor rows() { return qkv.tensor(dtype_of<T>(), {kTokens, (heads + 2 * kv_heads) * dim}); }
  // The middle one of three layers.
  KvView view() {
    const int64_t head = int64_t{kBlockSize} * dim, layer = 2 * kv_heads * head;
    const bool fp8 = sizeof(Kv) == 1;
    Tensor k = Tensor::of(cache.data() + layer, fp8 ? DType::fp8_e4m3 : dtype_of<T>(),
                          {kBlocks, kv_heads, kBlockSize, dim});
    k.stride[0] = 3 * layer;
    Tensor v = k;
    v.data = cache.data() + layer + kv_heads * head;
    return {k, v, fp8 ? 0.07f : 1, fp8 ? 0.004f : 1};
  }
  QkvParams params() {
    QkvParams p;
    p.num_heads = heads, p.num_kv_heads = kv_heads, p.head_dim = dim;
    if (norms) {
      p.q_norm = q_norm.tensor(DType::f32, {dim}), p.k_norm = k_norm.tensor(DType::f32, {dim});
      p.eps = 1e-6f;
    }
    p.cos_sin = cos_sin.tensor(DType::f32, {100, rotary});
    return p;
  }
  static Tensor index(std::vector<int32_t>& v) {
    return Tensor::of(v.data(), DType::i32, {int64_t(v.size())});
  }
};

template <class T, class Kv>
void expect_same_region() {
  for (const auto& [heads, kv_heads, dim, rotary, norms] : {std::tuple{4, 2, 64, 64, false},
                                                            {3, 1, 128, 128, true},
                                                            {2, 2, 96, 96, true},
                                                            {5, 1, 64, 32, false},
                                                            {1, 1, 256, 256, true},
                                                            {2, 1, 80, 20, true}}) {
    QkvCase<T, Kv> fused(heads, kv_heads, dim, rotary, norms),
        plain(heads, kv_heads, dim, rotary, norms);
    qkv_rope_write(Stream{}, fused.rows(), fused.params(), fused.index(fused.positions),
                   fused.view(), fused.index(fused.slots));
    const QkvParams p = plain.params();
    const Tensor rows = plain.rows();
    const Tensor q = rows.cols(0, heads * dim).heads(dim);
    const Tensor k = rows.cols(heads * dim, kv_heads * dim).heads(dim);
    const Tensor v = rows.cols((heads + kv_heads) * dim, kv_heads * dim).heads(dim);
    if (norms) {
      rms_norm(Stream{}, q, q, {}, p.q_norm, p.eps);
      rms_norm(Stream{}, k, k, {}, p.k_norm, p.eps);
    }
    rope(Stream{}, q, plain.index(plain.positions), p.cos_sin);
    rope(Stream{}, k, plain.index(plain.positions), p.cos_sin);
    write_kv(Stream{}, plain.view(), k, v, plain.index(plain.slots));
    EXPECT_TRUE(fused.cache.same_bits(plain.cache)) << dim << " " << rotary;
    for (size_t t = 0; t < 5; ++t) {
      const size_t at = t * size_t(rows.shape[1]);
      for (size_t i = 0; i < size_t(heads * dim); ++i)
        ASSERT_EQ(fused.qkv[at + i].bits, plain.qkv[at + i].bits) << dim << " " << rotary;
    }
  }
}
TYPED_TEST(QkvOps, QkvRegionIsItsOpsOneAfterTheOther) {
  expect_same_region<TypeParam, TypeParam>();
  expect_same_region<TypeParam, E4m3>();
}

// Keys and values by scales of their own, beyond the range the largest, and nothing anywhere else.
TYPED_TEST(QkvOps, CachesInFp8HoldCodes) {
  using T = TypeParam;
  QkvCase<T, E4m3> c(2, 2, 64, 64, false);
  const Tensor rows = c.rows();
  const Tensor k = rows.cols(2 * 64, 2 * 64).heads(64), v = rows.cols(4 * 64, 2 * 64).heads(64);
  simt::from_float(k.as<T>()[5], 1000.0f);
  const KvView view = c.view();
  write_kv(Stream{}, view, k, v, c.index(c.slots));
  std::vector<uint8_t> want(c.cache.size(), 0xff);
  int largest = 0;
  for (const auto& [to, from, scale] :
       {std::tuple{&view.k, &k, view.k_scale}, {&view.v, &v, view.v_scale}}) {
    for (int t = 0; t < c.kTokens; ++t) {
      const int slot = c.slots[size_t(t)];
      for (int h = 0; h < 2; ++h) {
        for (int d = 0; d < 64; ++d) {
          const float x = to_float(from->template row<T>(t)[h * from->stride[1] + d]);
          const int64_t at = slot / 16 * to->stride[0] + h * to->stride[1] + slot % 16 * 64 + d;
          uint8_t* code = want.data() + (to->template as<E4m3>() - c.cache.data()) + at;
          *code = to_e4m3(x * (1 / scale));
          largest += (*code & 0x7f) == 0x7e;
        }
      }
    }
  }
  EXPECT_GT(largest, 10);
  for (size_t i = 0; i < want.size(); ++i) ASSERT_EQ(c.cache[i].bits, want[i]) << i;
}

TYPED_TEST(QkvOps, RopeRotatesPairsByTheirPositions) {
  using T = TypeParam;
  QkvCase<T> c(4, 2, 128, 96, false);
  const Array<T> before = c.qkv;
  const Tensor q = c.rows().cols(0, 4 * 128).heads(128);
  rope(Stream{}, q, c.index(c.positions), c.params().cos_sin);
  simt::Error error;
  for (int t = 0; t < 5; ++t) {
    for (int h = 0; h < 4; ++h) {
      const size_t at = size_t(t * 8 * 128 + h * 128);
      for (int j = 0; j < 128; ++j) {
        const double x = to_float(before[at + size_t(j)]);
        if (j >= 96) {
          ASSERT_EQ(c.qkv[at + size_t(j)].bits, before[at + size_t(j)].bits);
          continue;
        }
        const double other = to_float(before[at + size_t(j < 48 ? j + 48 : j - 48)]);
        const double angle = c.positions[size_t(t)] * std::pow(10000.0, -2.0 * (j % 48) / 96);
        error.add(to_float(c.qkv[at + size_t(j)]),
                  x * std::cos(angle) + (j < 48 ? -other : other) * std::sin(angle));
      }
    }
  }
  EXPECT_LT(error.relative(), 3.9e-3);  // of bf16
}

TYPED_TEST(QkvOps, EveryFiberOrderGivesTheSameBits) {
  const auto run = [](auto& c) {
    qkv_rope_write(Stream{}, c.rows(), c.params(), c.index(c.positions), c.view(),
                   c.index(c.slots));
  };
  QkvCase<TypeParam> first(6, 2, 80, 40, true);
  run(first);
  simt::in_all_orders([&] {
    QkvCase<TypeParam> again(6, 2, 80, 40, true);
    run(again);
    EXPECT_TRUE(again.cache.same_bits(first.cache));
    EXPECT_TRUE(again.qkv.same_bits(first.qkv));
  });
}

}  // namespace
}  // namespace sluice::cuda
