#include "kvcache/kv_store.h"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <thread>

#include "tests/unit/engine/host_device.h"

namespace sluice {
namespace {

KvShape pruned_shape(DType dtype, int block_size) {
  return {{{2, 8, 8}, {1, 8, 4}, {3, 16, 8}}, block_size, dtype};
}

// Visits every element of every view: address and (layer, k|v, block, head, slot, dim).
template <class F>
void for_each_element(const KvStore& kv, F f) {
  for (int layer = 0; layer < int(kv.shape().layers.size()); ++layer) {
    const KvView view = kv.layer(layer);
    for (const Tensor* t : {&view.k, &view.v})
      for (int64_t b = 0; b < t->shape[0]; ++b)
        for (int64_t h = 0; h < t->shape[1]; ++h)
          for (int64_t s = 0; s < t->shape[2]; ++s)
            for (int64_t d = 0; d < t->shape[3]; ++d) {
              const int64_t at =
                  b * t->stride[0] + h * t->stride[1] + s * t->stride[2] + d * t->stride[3];
              f(static_cast<char*>(t->data) + at * bits_of(t->dtype) / 8, b);
            }
  }
}

class KvStoreTest : public testing::TestWithParam<std::pair<DType, int>> {};

TEST_P(KvStoreTest, NoTwoElementsShareAnAddressAndABlockIsOnePiece) {
  const auto [dtype, block_size] = GetParam();
  HostDevice device;
  const KvShape shape = pruned_shape(dtype, block_size);
  const KvStore kv(device, shape, 5);
  const size_t block_bytes = KvStore::bytes_per_block(shape);
  const char* base = static_cast<char*>(kv.layer(0).k.data);
  std::set<char*> seen;
  size_t elements = 0;
  for_each_element(kv, [&](char* at, int64_t block) {
    ++elements;
    EXPECT_TRUE(seen.insert(at).second);
    EXPECT_EQ((at - base) / int64_t(block_bytes), block);
  });
  EXPECT_EQ(elements, size_t(5 * block_size * (2 * 16 + 12 + 3 * 24)));
  EXPECT_GE(block_bytes * 5, elements * bits_of(dtype) / 8);
  EXPECT_EQ(block_bytes % 64, 0u);
  for (int layer = 0; layer < 3; ++layer) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(kv.layer(layer).k.data) % 64, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(kv.layer(layer).v.data) % 64, 0u);
    EXPECT_EQ(kv.layer(layer).k.shape[3], shape.layers[layer].k_dim);
    EXPECT_EQ(kv.layer(layer).v.shape[3], shape.layers[layer].v_dim);
  }
}

TEST_P(KvStoreTest, ForkCopiesOneBlockOfEveryLayerAndNothingElse) {
  const auto [dtype, block_size] = GetParam();
  HostDevice device;
  KvStore kv(device, pruned_shape(dtype, block_size), 4);
  const auto paint = [](char* at, int64_t block) { *at = char(10 + block); };
  for_each_element(kv, paint);
  device.num_copies = 0;
  const BlockCopy copies[] = {{0, 2}, {3, 1}};
  kv.fork(copies);
  EXPECT_EQ(device.num_copies, 2);
  const char expected[] = {10, 13, 10, 13};
  for_each_element(kv, [&](char* at, int64_t block) { ASSERT_EQ(*at, expected[block]); });
}

// As many bytes as there are, while they are in use.
TEST_P(KvStoreTest, PopulateReachesEverythingAndKeepsWhatIsThere) {
  const auto [dtype, block_size] = GetParam();
  HostDevice device;
  const KvShape shape = pruned_shape(dtype, block_size);
  const int num_blocks = int((size_t{20} << 20) / KvStore::bytes_per_block(shape)) + 1;  // pieces
  {
    KvStore kv(device, shape, num_blocks);
    for_each_element(kv, [](char* at, int64_t) { *at = 1; });
    kv.populate();
    while (device.populated < KvStore::bytes_per_block(shape) * size_t(num_blocks))
      std::this_thread::yield();
    for_each_element(kv, [&](char* at, int64_t) { ASSERT_EQ(*at, 1); });
  }
  EXPECT_EQ(device.populated, KvStore::bytes_per_block(shape) * size_t(num_blocks));
}

INSTANTIATE_TEST_SUITE_P(Shapes, KvStoreTest,
                         testing::Values(std::pair{DType::bf16, 16}, std::pair{DType::f32, 16},
                                         std::pair{DType::bf16, 1}, std::pair{DType::f32, 3},
                                         std::pair{DType::fp8_e4m3, 16}));

// Two layers that see everything, four with windows, one without keys: blocks of two layers.
TEST(KvStoreTest, GroupsShareBlocksOfOneSize) {
  HostDevice device;
  LayerKv full{2, 8, 4}, windowed = full, none = full;
  windowed.window = 7, none.kv_heads = 0;
  const KvShape shape{{windowed, full, none, windowed, windowed, full, windowed}, 4, DType::f32};
  const KvStore kv(device, shape, 5);
  EXPECT_EQ(KvStore::bytes_per_block(shape), 2 * KvStore::bytes_per_block({{full}, 4, DType::f32}));
  const auto begin = [&](int layer) {
    return static_cast<char*>(kv.layer(layer).k.data) - static_cast<char*>(kv.layer(1).k.data);
  };
  const int64_t half = int64_t(KvStore::bytes_per_block(shape)) / 2;
  // The first of each table lies where a block begins, and a block is as far from the next.
  EXPECT_EQ(kv.layer(1).table, 0);
  EXPECT_EQ(kv.layer(5).table, 0);
  EXPECT_EQ(begin(5), half);
  EXPECT_EQ(kv.layer(0).table, 1);
  EXPECT_EQ(begin(0), 0);
  EXPECT_EQ(kv.layer(3).table, 1);
  EXPECT_EQ(begin(3), half);
  EXPECT_EQ(kv.layer(4).table, 2);
  EXPECT_EQ(begin(4), 0);
  EXPECT_EQ(kv.layer(6).table, 2);
  EXPECT_EQ(begin(6), half);
  for (const int layer : {0, 1, 3, 4, 5, 6}) EXPECT_EQ(kv.layer(layer).k.stride[0] * 4, 2 * half);
}

TEST(KvStoreTest, LayersOfOtherSizesStayTogether) {
  LayerKv full{2, 8, 8}, windowed{1, 8, 8};
  windowed.window = 7;
  const KvGrouping mixed = grouping_of({{full, windowed}, 4, DType::f32});
  EXPECT_EQ(mixed.groups, (std::vector<KvGroup>{{1, 0}}));
  windowed.kv_heads = 2;
  EXPECT_EQ(grouping_of({{full, windowed}, 4, DType::f32}).groups.size(), 2u);
  EXPECT_EQ(grouping_of({{windowed, windowed}, 4, DType::f32}).groups,
            (std::vector<KvGroup>{{1, 7}}));
}

// As published: layers that see everything, layers with windows; blocks they then take.
TEST(KvGroupsTest, LittleRoomToSpareAndFewTables) {
  const auto groups = [](int full, int windowed) {
    std::vector<int> windows(size_t(full), 0);
    windows.resize(size_t(full + windowed), 512);
    const KvGrouping g = group_layers(windows);
    return std::array{g.layers_per_block, g.groups[0].width, g.groups[1].width};
  };
  EXPECT_EQ(groups(13, 13), (std::array{13, 1, 1}));  // Gemma 2 2B
  EXPECT_EQ(groups(4, 22), (std::array{4, 1, 6}));    // Gemma 3 1B
  EXPECT_EQ(groups(3, 15), (std::array{3, 1, 5}));    // 270M
  EXPECT_EQ(groups(10, 52), (std::array{10, 1, 6}));  // 27B
  EXPECT_EQ(groups(21, 7), (std::array{7, 3, 1}));    // windows in the last quarter
  EXPECT_EQ(groups(6, 4), (std::array{2, 3, 2}));
  EXPECT_EQ(groups(1, 40), (std::array{6, 1, 7}));
}

TEST(KvStoreTest, ScalesAreOfFp8AndAByteIsHalfOfTwo) {
  HostDevice device;
  KvShape shape{{{2, 64, 64}, {2, 64, 64, 0.5f, 0.25f}}, 16, DType::fp8_e4m3};
  const KvStore fp8(device, shape, 2);
  EXPECT_EQ(fp8.layer(0).k_scale, 1);
  EXPECT_EQ(fp8.layer(1).k_scale, 0.5f);
  EXPECT_EQ(fp8.layer(1).v_scale, 0.25f);
  const size_t bytes = KvStore::bytes_per_block(shape);
  shape.dtype = DType::bf16;
  EXPECT_EQ(KvStore::bytes_per_block(shape), 2 * bytes);
  EXPECT_EQ(KvStore(device, shape, 2).layer(1).k_scale, 1);
}

TEST(KvStoreDeathTest, RefusesBlocksThatDoNotExist) {
  HostDevice device;
  KvStore kv(device, pruned_shape(DType::f32, 2), 4);
  const BlockCopy past[] = {{0, 4}};
  const BlockCopy negative[] = {{-1, 0}};
  EXPECT_DEATH(kv.fork(past), "num_blocks");
  EXPECT_DEATH(kv.fork(negative), "num_blocks");
}

}  // namespace
}  // namespace sluice
