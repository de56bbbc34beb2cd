// What is kept of measured products between two starts.
#include "kernels/cuda/plan_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "kernels/cuda/products.h"

namespace sluice::cuda {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
namespace fs = std::filesystem;

class PlanCacheTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  PlanCache open(const std::string& machine = "GPU A, driver 1") {
    return {folder_, machine, [this](const std::string& line) { log_.push_back(line); }};
  }
  static std::string text_of(const std::string& file) {
    std::ostringstream all;
    all << std::ifstream(file, std::ios::binary).rdbuf();
    return all.str();
  }
  static void write(const std::string& file, const std::string& text) {
    std::ofstream(file, std::ios::binary) << text;
  }

  const std::string folder_ =
      (fs::temp_directory_path() / ("plan-cache-" + std::to_string(getpid()))).string();
  std::vector<std::string> log_;
  const PlanCache::Shape small_{DType::bf16, 64, 128}, large_{DType::f16, 4096, 14336};
};

TEST_F(PlanCacheTest, KeepsWhatWasPut) {
  PlanCache first = open();
  EXPECT_EQ(first.own_rows(small_), std::nullopt);
  first.save();  // nothing was put
  EXPECT_TRUE(fs::is_empty(folder_));
  first.put(small_, 16), first.put(large_, 0);
  first.save();
  const PlanCache second = open();
  EXPECT_EQ(second.own_rows(small_), 16);
  EXPECT_EQ(second.own_rows(large_), 0);
  EXPECT_EQ(second.own_rows({DType::f16, 64, 128}), std::nullopt);
  EXPECT_EQ(open("GPU B, driver 1").own_rows(small_), std::nullopt);  // a file of its own
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);   // nothing half written
  EXPECT_THAT(log_, IsEmpty());
}

// A byte less, or another one, anywhere: one line says so, and nothing of the file is believed.
TEST_F(PlanCacheTest, BelievesNoDamagedFile) {
  PlanCache first = open();
  first.put(small_, 16), first.put(large_, 0);
  first.save();
  const std::string good = text_of(first.file());
  const auto refused = [&](const std::string& text) {
    write(first.file(), text);
    log_.clear();
    const PlanCache cache = open();
    EXPECT_EQ(cache.own_rows(small_), std::nullopt) << text;
    EXPECT_EQ(cache.own_rows(large_), std::nullopt) << text;
    ASSERT_THAT(log_, ElementsAre(HasSubstr("measured anew"))) << text;
    EXPECT_THAT(log_[0], HasSubstr("device.plan_cache: " + first.file()));
  };
  for (size_t i = 0; i < good.size(); ++i) {
    refused(good.substr(0, i));
    std::string other = good;
    other[i] ^= 1;
    refused(other);
  }
  refused(good + "\n");
  refused(good + good);
  refused(std::string(3 << 20, 'x'));
  refused("sluice plans 2\n" + good.substr(good.find('\n') + 1));
}

TEST_F(PlanCacheTest, TellsAnotherMachinesFile) {
  PlanCache a = open("GPU A"), b = open("GPU B");
  a.put(small_, 16);
  a.save();
  fs::copy_file(a.file(), b.file());
  EXPECT_EQ(open("GPU B").own_rows(small_), std::nullopt);
  EXPECT_THAT(log_, ElementsAre(HasSubstr("is of another machine (GPU A; this is GPU B)")));
}

TEST_F(PlanCacheTest, DoesWithoutWhereItCannotWrite) {
  write(folder_ + "/file", "");
  PlanCache cache(folder_ + "/file/folder", "GPU",
                  [this](const std::string& line) { log_.push_back(line); });
  log_.clear();
  cache.put(small_, 8);
  cache.save();
  cache.save();  // says so once
  EXPECT_THAT(log_, ElementsAre(HasSubstr("cannot be written: Not a directory")));
  EXPECT_EQ(cache.own_rows(small_), 8);
}

TEST_F(PlanCacheTest, ProductsAreMeasuredOnce) {
  auto runtime = open_runtime(0, "");
  if (!runtime.ok()) GTEST_SKIP() << message_of(runtime.status());
  const Stream stream = (*runtime)->make_stream();
  const auto memory = allocate(**runtime, 1 << 16, Memory::device);
  Weight w;
  w.data = Tensor::of(memory.get(), DType::bf16, {small_.rows, small_.columns});
  {
    Products products(**runtime, stream, false, open());
    products.measure({&w, 1});
  }
  const PlanCache measured = open();
  ASSERT_TRUE(measured.own_rows(small_).has_value());
  // What another start finds in the file is what it does.
  for (const int64_t rows : {0, 8}) {
    PlanCache told = open();
    told.put(small_, rows);
    told.save();
    Products products(**runtime, stream, false, open());
    products.measure({&w, 1});
    for (const int64_t n : {1, 8, 9}) {
      const Tensor x = Tensor::of(memory.get(), DType::bf16, {n, small_.columns}),
                   out = Tensor::of(memory.get(), DType::bf16, {n, small_.rows / 2});
      EXPECT_EQ(products.multiply_silu_mul(out, x, w), n <= rows) << n << " " << rows;
    }
    EXPECT_EQ(open().own_rows(small_), rows);
  }
  EXPECT_THAT(log_, IsEmpty());
}

}  // namespace
}  // namespace sluice::cuda
