#include "kvcache/budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace sluice {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr int64_t kGiB = int64_t{1} << 30;

// A file tree that looks like a machine's.
class MachineTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) /
            testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root_);
    put("proc/meminfo",
        "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:    8388608 kB\n");
  }
  void TearDown() override { fs::remove_all(root_); }
  void put(const std::string& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  MemoryLimit limit() { return read_memory_limit(root_); }

  fs::path root_;
};

TEST_F(MachineTest, WithoutGroupsTheAvailableMemoryCounts) {
  EXPECT_EQ(limit().bytes, 8 * kGiB);
  EXPECT_EQ(limit().source, "available memory");
}

TEST_F(MachineTest, VersionTwoTakesTheLeastOnTheWayUp) {
  put("proc/self/cgroup", "0::/a/b/c\n");
  put("sys/fs/cgroup/a/b/c/memory.max", "max\n");
  put("sys/fs/cgroup/a/b/memory.max", "3221225472\n");
  put("sys/fs/cgroup/a/memory.max", "4294967296\n");
  EXPECT_EQ(limit().bytes, 3 * kGiB);
  EXPECT_EQ(limit().source, "cgroup limit");
}

TEST_F(MachineTest, VersionTwoSeenFromInsideAContainer) {
  put("proc/self/cgroup", "0::/kubepods/pod1/x\n");  // a path of the host
  put("sys/fs/cgroup/memory.max", "1073741824\n");
  EXPECT_EQ(limit().bytes, kGiB);
}

TEST_F(MachineTest, VersionOneAmongOtherControllers) {
  put("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:hugetlb,memory:/job\n0::/\n");
  put("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2147483648\n");
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(limit().bytes, 2 * kGiB);
}

TEST_F(MachineTest, NoLimitIsNoLimit) {
  put("proc/self/cgroup", "4:memory:/\n");
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(limit().bytes, 8 * kGiB);
  EXPECT_EQ(limit().source, "available memory");
}

TEST_F(MachineTest, NonsenseInFilesIsNotALimit) {
  put("proc/self/cgroup", "garbage\n0::/\n::::\n");
  put("sys/fs/cgroup/memory.max", "many\n");
  EXPECT_EQ(limit().bytes, 8 * kGiB);
}

MemoryNeeds needs() { return {2 * kGiB, kGiB, 1 << 20, 16, 8, 4096}; }
MemoryLimit gib(int64_t n) { return {n * kGiB, "cgroup limit"}; }
Config::Cache cache(int64_t bytes, double fraction = 0.5) {
  Config::Cache c;
  c.bytes = bytes;
  c.memory_fraction = fraction;
  return c;
}
std::string error_of(const absl::StatusOr<MemoryPlan>& plan) {
  EXPECT_FALSE(plan.ok());
  return std::string(message_of(plan.status()));
}

TEST(PlanTest, TakesAFractionOfWhatIsLeft) {
  const auto plan = plan_memory(cache(0), needs(), gib(5));  // 2 GiB left
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->num_blocks, 1024);
  EXPECT_EQ(plan->num_tokens(), 16384);
  EXPECT_EQ(plan->kv_bytes(), kGiB);
  EXPECT_EQ(plan->total_bytes(), 4 * kGiB);
}

TEST(PlanTest, TakesNoMoreThanAllSequencesCouldUse) {
  const auto plan = plan_memory(cache(0), needs(), gib(64));
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->num_blocks, 8 * 4096 / 16);
}

TEST(PlanTest, TakesTheBytesAskedFor) {
  const auto plan = plan_memory(cache(3 * kGiB), needs(), gib(64));
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->num_blocks, 3 * 1024);
}

TEST(PlanTest, OneSequenceMustFit) {
  MemoryNeeds n = needs();
  ASSERT_TRUE(plan_memory(cache(256 << 20), n, gib(5)).ok());  // 4096 tokens to the byte
  const std::string small = error_of(plan_memory(cache((256 << 20) - 1), n, gib(5)));
  EXPECT_THAT(small, HasSubstr("model.max_model_len = 4,096"));
  EXPECT_THAT(small, HasSubstr("--model.max_model_len to 4080 or less"));
  EXPECT_THAT(small, HasSubstr("--cache.bytes"));
  n.max_model_len = 131072;
  const std::string fraction = error_of(plan_memory(cache(0), n, gib(5)));
  EXPECT_THAT(fraction, HasSubstr("cache.memory_fraction = 0.5 of 2.00 GiB"));
  EXPECT_THAT(fraction, HasSubstr("holds 16,384 tokens"));
  EXPECT_THAT(fraction, HasSubstr("8.00 GiB"));
  n.max_model_len = 4097;  // a block more
  EXPECT_FALSE(plan_memory(cache(256 << 20), n, gib(5)).ok());
}

TEST(PlanTest, NothingFitsIntoAnEmptyCacheAndItSaysSo) {
  const std::string none = error_of(plan_memory(cache(1), needs(), gib(5)));
  EXPECT_THAT(none, HasSubstr("holds 0 tokens"));
  EXPECT_THAT(none, HasSubstr("Raise --cache.bytes"));
  EXPECT_THAT(none, testing::Not(HasSubstr("Lower")));
}

TEST(PlanTest, TheModelMustFit) {
  const std::string model = error_of(plan_memory(cache(0), needs(), gib(3)));
  EXPECT_THAT(model, HasSubstr("weights take 2.00 GiB"));
  EXPECT_THAT(model, HasSubstr("cgroup limit is 3.00 GiB"));
  const std::string bytes = error_of(plan_memory(cache(3 * kGiB), needs(), gib(5)));
  EXPECT_THAT(bytes, HasSubstr("cache.bytes = 3221225472 (3.00 GiB) does not fit"));
  EXPECT_THAT(bytes, HasSubstr("leaves 2.00 GiB"));
}

Config::Cache with_host(int64_t host_bytes) {
  Config::Cache c = cache(kGiB);
  c.host_bytes = host_bytes;
  return c;
}

TEST(PlanTest, CapturedStepsAreSetAside) {
  MemoryNeeds n = needs();
  const auto without = plan_memory(Config::Cache{.memory_fraction = 0.5}, n, gib(5));
  EXPECT_THAT(without->to_text(), testing::Not(HasSubstr("captured")));
  n.graph_bytes = kGiB / 4;
  const auto plan = plan_memory(Config::Cache{.memory_fraction = 0.5}, n, gib(5));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(without->kv_bytes() - plan->kv_bytes(), kGiB / 8);
  EXPECT_EQ(plan->total_bytes() - plan->kv_bytes(),
            without->total_bytes() - without->kv_bytes() + kGiB / 4);
  EXPECT_THAT(plan->to_text(), HasSubstr("  captured steps        256 MiB\n"));
  EXPECT_THAT(plan->to_line(), HasSubstr(", captured steps 256 MiB, KV cache "));
  n.graph_bytes = 6 * kGiB;
  EXPECT_THAT(std::string(plan_memory({}, n, gib(5)).status().message()),
              HasSubstr(", captured steps 6.00 GiB, the "));
}

TEST(PlanTest, TheHostTierComesOnTop) {
  const auto without = plan_memory(cache(0), needs(), gib(5));
  ASSERT_TRUE(without.ok());
  EXPECT_EQ(without->num_host_blocks, 0);
  EXPECT_THAT(without->to_text(), testing::Not(HasSubstr("host")));
  Config::Cache c = cache(0);
  c.host_bytes = (300 << 20) + 5;
  const auto plan = plan_memory(c, needs(), gib(5));
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->num_blocks, without->num_blocks);
  EXPECT_EQ(plan->num_host_blocks, 300);
  EXPECT_EQ(plan->host_bytes(), 300 << 20);
  EXPECT_EQ(plan->total_bytes(), 4 * kGiB + (300 << 20));
  EXPECT_THAT(plan->to_text(), HasSubstr("300 MiB  300 blocks for swaps"));
  EXPECT_THAT(plan->to_text(), HasSubstr("4.29 GiB"));
  EXPECT_THAT(plan->to_line(), HasSubstr("host tier 300 MiB (300 blocks) of 5.00 GiB"));
}

TEST(PlanTest, TheHostTierMustFit) {
  ASSERT_TRUE(plan_memory(with_host(kGiB), needs(), gib(5)).ok());  // to the byte
  const std::string more = error_of(plan_memory(with_host(kGiB + 1), needs(), gib(5)));
  EXPECT_THAT(more, HasSubstr("cache.host_bytes = 1073741825 (1.00 GiB) does not fit"));
  EXPECT_THAT(more, HasSubstr("cgroup limit is 5.00 GiB"));
  EXPECT_THAT(more, HasSubstr("weights and scratch take 3.00 GiB and the KV cache 1.00 GiB"));
  EXPECT_THAT(more, HasSubstr("leaves 1.00 GiB"));
  EXPECT_THAT(more, testing::Not(HasSubstr("\n")));
}

// Of a device with memory of its own.
TEST(PlanTest, TheHostTierHasALimitOfItsOwnWhereTheDeviceDoes) {
  const MemoryLimit device{5 * kGiB, "free memory of a GPU"}, host{2 * kGiB, "available memory"};
  const auto plan = plan_memory(with_host(2 * kGiB), needs(), device, host);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->num_host_blocks, 2048);
  EXPECT_EQ(plan->total_bytes(), 4 * kGiB);  // on the device
  EXPECT_THAT(plan->to_line(),
              HasSubstr("of 5.00 GiB free memory of a GPU; host tier 2.00 GiB (2,048 blocks) of "
                        "2.00 GiB available memory"));
  EXPECT_EQ(error_of(plan_memory(with_host(2 * kGiB + 1), needs(), device, host)),
            "cache.host_bytes = 2147483649 (2.00 GiB) does not fit: the available memory of the "
            "host is 2.00 GiB");
}

TEST(PlanTest, TheHostTierHoldsABlockAtLeast) {
  const std::string small = error_of(plan_memory(with_host((1 << 20) - 1), needs(), gib(5)));
  EXPECT_THAT(small, HasSubstr("cache.host_bytes = 1048575"));
  EXPECT_THAT(small, HasSubstr("less than a block of 16 tokens, 1.00 MiB"));
  const auto one = plan_memory(with_host(1 << 20), needs(), gib(5));
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->num_host_blocks, 1);
}

TEST(PlanTest, SlotsStayWithinTheirNumbers) {
  MemoryNeeds n = needs();
  n.block_bytes = 1;
  const auto plan = plan_memory(cache(8 * kGiB), n, gib(64));
  ASSERT_TRUE(plan.ok());
  EXPECT_LE(plan->num_tokens(), std::numeric_limits<int32_t>::max());
}

// The same cache in blocks of a quarter of the layers.
TEST(PlanTest, ATokenOfAllLayersMayTakeSeveralBlocks) {
  MemoryNeeds n = needs();
  n.block_bytes /= 4, n.stretch_blocks = 4;
  const auto plan = plan_memory(cache(0), n, gib(5));
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->num_blocks, 4096);
  EXPECT_EQ(plan->num_tokens(), 16384);
  EXPECT_EQ(plan->kv_bytes(), kGiB);
  EXPECT_THAT(plan->to_text(),
              HasSubstr("4,096 blocks of 16 tokens (4 for all layers), 64.0 KiB a token"));
  EXPECT_EQ(plan_memory(cache(0), n, gib(64))->num_blocks, 4 * 8 * 4096 / 16);
  ASSERT_TRUE(plan_memory(cache(256 << 20), n, gib(5)).ok());
  EXPECT_THAT(error_of(plan_memory(cache((256 << 20) - 1), n, gib(5))),
              HasSubstr("--model.max_model_len to 4080 or less"));
  n.sequence_blocks = 256 + 3 * 16;  // but three of them of a window's worth of tokens
  const int64_t least = n.sequence_blocks * n.block_bytes;
  ASSERT_TRUE(plan_memory(cache(least), n, gib(5)).ok());
  EXPECT_THAT(plan_memory(cache(2 * least), n, gib(5))->to_text(),
              HasSubstr("2.0 sequences of 4,096 tokens"));
  EXPECT_THAT(error_of(plan_memory(cache(least - 1), n, gib(5))),
              HasSubstr("max_model_len = 4,096 takes 76.0 MiB"));
}

TEST(PlanTest, TextNamesTheNumbers) {
  const auto plan = plan_memory(cache(0), needs(), gib(5));
  ASSERT_TRUE(plan.ok());
  const std::string text = plan->to_text();
  for (const char* part : {"cgroup limit: 5.00 GiB", "2.00 GiB", "1,024 blocks of 16 tokens",
                           "64.0 KiB a token", "16,384", "4.0 sequences of 4,096"})
    EXPECT_THAT(text, HasSubstr(part));
}

TEST(PlanTest, NumbersForPeople) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1536), "1.50 KiB");
  EXPECT_EQ(bytes_text(500 * kGiB), "500 GiB");
  EXPECT_EQ(count_text(0), "0");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(count_text(1000), "1,000");
  EXPECT_EQ(count_text(1234567), "1,234,567");
  EXPECT_EQ(count_text(-123), "-123");
}

}  // namespace
}  // namespace sluice
