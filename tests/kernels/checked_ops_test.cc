#include <gtest/gtest.h>

#include "kernel_test_util.h"

namespace sluice {
namespace {

// Each contract broken once: the decorator must stop it before a kernel follows it.
class CheckedOpsDeathTest : public testing::Test {
 protected:
  void SetUp() override { testing::FLAGS_gtest_death_test_style = "threadsafe"; }
  TestDevice test_{"portable", 1};
  CheckedOps& ops_ = test_.ops;
  std::mt19937 rng_{1};
};

TEST_F(CheckedOpsDeathTest, ShapesAndTypes) {
  Matrix a(2, 4), b(2, 5), c(3, 4);
  EXPECT_DEATH(ops_.add(a.tensor(), a.tensor(), b.tensor()), "shape");
  EXPECT_DEATH(ops_.add(a.tensor(), c.tensor(), a.tensor()), "shape");
  Tensor halves = a.tensor();
  halves.dtype = DType::bf16;
  EXPECT_DEATH(ops_.add(a.tensor(), halves, a.tensor()), "dtype");
  Tensor overlapping = a.tensor();
  overlapping.stride[0] = 3;
  EXPECT_DEATH(ops_.add(a.tensor(), overlapping, a.tensor()), "stride");
  EXPECT_DEATH(ops_.rms_norm(a.tensor(), a.tensor(), b.tensor(), 1e-5f), "rank");
  Layer layer(ops_, *test_.device, DType::bf16, 6, 4, rng_);
  EXPECT_DEATH(ops_.matmul(b.tensor(), a.tensor(), layer.weight), "shape");
  EXPECT_DEATH(ops_.matmul_silu_mul(a.tensor(), a.tensor(), layer.weight, a.tensor()), "shape");
}

TEST_F(CheckedOpsDeathTest, Indices) {
  Layer table(ops_, *test_.device, DType::bf16, 6, 4, rng_);
  Matrix out(2, 4), x(3, 4);
  std::vector<int32_t> high = {0, 6}, negative = {-1, 0}, three = {0, 1, 2};
  EXPECT_DEATH(ops_.embed(out.tensor(), table.weight, i32(high)), "begin");
  EXPECT_DEATH(ops_.embed(out.tensor(), table.weight, i32(negative)), "begin");
  EXPECT_DEATH(ops_.embed(out.tensor(), table.weight, i32(three)), "shape");
  EXPECT_DEATH(ops_.gather_rows(out.tensor(), x.tensor(), i32(high)), "begin");
  Matrix table2(5, 4);
  EXPECT_DEATH(ops_.rope(out.tensor().heads(4), i32(high), table2.tensor()), "begin");
}

TEST_F(CheckedOpsDeathTest, CacheAndBlockTables) {
  Cache cache(DType::f32, 3, 1, 4, 8);
  Matrix kv(2, 8), q(2, 8);
  std::vector<int32_t> beyond = {0, 12}, twice = {5, 5}, fine = {4, 5};
  const auto write = [&](std::vector<int32_t>& slots) {
    ops_.write_kv(cache.view, kv.tensor().heads(8), kv.tensor().heads(8), i32(slots));
  };
  EXPECT_DEATH(write(beyond), "begin");
  EXPECT_DEATH(write(twice), "slots");
  write(fine);
  const auto attend = [&](std::vector<int32_t> cu, std::vector<int32_t> lens,
                          std::vector<int32_t> table) {
    AttnBatch b;
    b.num_seqs = 1;
    b.cu_q = i32(cu);
    b.seq_lens = i32(lens);
    b.block_tables = Tensor::of(table.data(), DType::i32, {1, int64_t(table.size())});
    b.max_q = 2;
    b.max_seq_len = 8;
    ops_.attention(q.tensor().heads(8), q.tensor().heads(8), cache.view, b, {});
  };
  EXPECT_DEATH(attend({0, 2}, {6}, {1, 3}), "id");      // no such block
  EXPECT_DEATH(attend({0, 2}, {6}, {1}), "blocks");     // a block short
  EXPECT_DEATH(attend({0, 2}, {1}, {1, 2}), "tokens");  // more queries than context
  EXPECT_DEATH(attend({0, 1}, {6}, {1, 2}), "cu_q");    // a query of nobody's
  EXPECT_DEATH(attend({0, 2}, {9}, {1, 2, 0}), "max_seq_len");
}

}  // namespace
}  // namespace sluice
