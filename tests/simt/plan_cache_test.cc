// Which way products are computed, and what is kept of that between two starts.
#include "kernels/cuda/plan_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
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
  const PlanCache::Shape small_{DType::bf16, DType::bf16, 64, 128},
      large_{DType::f16, DType::f32, 4096, 14336}, fp8_{DType::fp8_e4m3, DType::bf16, 64, 128};
};

TEST_F(PlanCacheTest, KeepsWhatWasPut) {
  PlanCache first = open();
  EXPECT_EQ(first.own_rows(small_), std::nullopt);
  first.save();  // nothing was put
  EXPECT_TRUE(fs::is_empty(folder_));
  first.put_own_rows(small_, 16), first.put_own_rows(large_, 0);
  first.put_way(small_, 64, 3), first.put_way(fp8_, 512, 0);
  first.save();
  const PlanCache second = open();
  EXPECT_EQ(second.way(small_, 64), 3);
  EXPECT_EQ(second.way(small_, 32), std::nullopt);
  EXPECT_EQ(second.way(fp8_, 512), 0);
  EXPECT_EQ(second.own_rows(small_), 16);
  EXPECT_EQ(second.own_rows(large_), 0);
  EXPECT_EQ(second.own_rows({DType::f16, DType::bf16, 64, 128}), std::nullopt);
  EXPECT_EQ(second.own_rows({DType::bf16, DType::f32, 64, 128}), std::nullopt);
  EXPECT_EQ(open("GPU B, driver 1").own_rows(small_), std::nullopt);  // a file of its own
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);   // nothing half written
  EXPECT_THAT(log_, IsEmpty());
}

// A byte less, or another one, anywhere: one line says so, and nothing of the file is believed.
TEST_F(PlanCacheTest, BelievesNoDamagedFile) {
  PlanCache first = open();
  first.put_own_rows(small_, 16), first.put_own_rows(large_, 0);
  first.put_way(small_, 64, 3);
  first.save();
  const std::string good = text_of(first.file());
  const auto refused = [&](const std::string& text) {
    write(first.file(), text);
    log_.clear();
    const PlanCache cache = open();
    EXPECT_EQ(cache.own_rows(small_), std::nullopt) << text;
    EXPECT_EQ(cache.own_rows(large_), std::nullopt) << text;
    EXPECT_EQ(cache.way(small_, 64), std::nullopt) << text;
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
  refused("sluice plans 1\n" + good.substr(good.find('\n') + 1));
}

TEST_F(PlanCacheTest, TellsAnotherMachinesFile) {
  PlanCache a = open("GPU A"), b = open("GPU B");
  a.put_own_rows(small_, 16);
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
  cache.put_own_rows(small_, 8);
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
    products.measure({&w, 1}, DType::bf16);
  }
  const PlanCache measured = open();
  ASSERT_TRUE(measured.own_rows(small_).has_value());
  // What another start finds in the file is what it does.
  for (const int64_t rows : {0, 8}) {
    PlanCache told = open();
    told.put_own_rows(small_, rows);
    told.save();
    Products products(**runtime, stream, false, open());
    products.measure({&w, 1}, DType::bf16);
    for (const int64_t n : {1, 8, 9}) {
      const Tensor x = Tensor::of(memory.get(), DType::bf16, {n, small_.columns}),
                   out = Tensor::of(memory.get(), DType::bf16, {n, small_.rows / 2});
      EXPECT_EQ(products.multiply_silu_mul(out, x, w), n <= rows) << n << " " << rows;
    }
    EXPECT_EQ(open().own_rows(small_), rows);
  }
  EXPECT_THAT(log_, IsEmpty());
}

// A library with five algorithms, and a clock that only its products move.
class FakeRuntime final : public Runtime {
 public:
  const DeviceInfo& info() const override { return info_; }
  size_t free_bytes() const override { return 0; }
  void* allocate(size_t bytes, Memory) override { return std::malloc(bytes + 1); }
  void release(void* p, Memory) override { std::free(p); }
  Stream make_stream() override { return {}; }
  Event make_event() override { return {&events_.emplace_back()}; }
  void check_launches() override {}
  void copy(void*, const void*, size_t, Stream) override {}
  void upload(void*, const void*, size_t) override {}
  void record(Event e, Stream) override { *static_cast<double*>(e.handle) = clock; }
  void wait(Stream, Event) override {}
  void sync(Event) override {}
  Nanos between(Event a, Event b) override {
    return Nanos(
        int64_t(1e9 * (*static_cast<double*>(b.handle) - *static_cast<double*>(a.handle))));
  }
  std::unique_ptr<Graph> capture(Stream, const std::function<void()>&) override { return nullptr; }
  Epilogue matmul(Stream, const Product& product, const Epilogue& epilogue, Way way) override {
    last = product, last_epilogue = epilogue, taken = way;
    ++calls;
    clock += seconds(product, way);
    return {};
  }
  int num_ways(const Product&) override { return ways; }

  // As the tests have it: the third is the fastest of few rows, by a nose of 64, and the first
  // else.
  double seconds(const Product& p, Way way) const {
    const int64_t n = p.x.shape[0];
    if (n == 64) return unit * (way.index == 2 ? 0.98 : 1);
    return unit * (way.index == (n < 64 ? 2 : 0) ? 0.5 : 1 + way.index);
  }
  Product last;
  Epilogue last_epilogue;
  Way taken;
  double clock = 0, unit = 1e-5;
  int calls = 0, ways = 5;

 private:
  const DeviceInfo info_{"fake", 1, true, 0, ""};
  std::deque<double> events_;
};

// Sizes that our own kernel does not have.
class WaysTest : public PlanCacheTest {
 protected:
  Way way_of(Products& products, int64_t n, DType out = DType::bf16) {
    products.multiply(Tensor::of(memory_, out, {n, 40}), Tensor::of(memory_, DType::bf16, {n, 60}),
                      w_);
    EXPECT_EQ(runtime_.last.x.shape[0], n);
    return runtime_.taken;
  }
  alignas(64) char memory_[64];
  Weight w_{Tensor::of(memory_, DType::bf16, {40, 60}), {}, {}};
  FakeRuntime runtime_;
};

TEST_F(WaysTest, TheFastestIsTaken) {
  for (const bool again : {false, true}) {
    Products products(runtime_, {}, false, open());
    runtime_.calls = 0;
    products.measure({&w_, 1}, DType::bf16);
    EXPECT_EQ(runtime_.calls == 0, again);
    EXPECT_EQ(way_of(products, 1), (Way{1, 2}));
    EXPECT_EQ(way_of(products, 3), (Way{4, 2}));
    EXPECT_EQ(way_of(products, 32), (Way{32, 2}));
    EXPECT_EQ(way_of(products, 33), (Way{64, 0}));  // a nose is not enough
    EXPECT_EQ(way_of(products, 512), (Way{512, 0}));
    EXPECT_EQ(way_of(products, 513), Way{});
    EXPECT_EQ(way_of(products, 1, DType::f32), Way{});
  }
  EXPECT_THAT(log_, IsEmpty());
}

// Ways are tried without it, and taken with it.
TEST_F(WaysTest, TheEpilogueIsTheLibrarys) {
  Products products(runtime_, {}, false, open());
  w_.bias = Tensor::of(memory_ + 32, DType::bf16, {40});
  products.measure({&w_, 1}, DType::bf16);
  EXPECT_TRUE(runtime_.last_epilogue.empty());
  products.multiply(Tensor::of(memory_, DType::bf16, {1, 40}),
                    Tensor::of(memory_, DType::bf16, {1, 60}), w_, Activation::relu);
  EXPECT_EQ(runtime_.taken, (Way{1, 2}));
  EXPECT_EQ(runtime_.last_epilogue.bias.data, w_.bias.data);
  EXPECT_EQ(runtime_.last_epilogue.activation, Activation::relu);
}

// A head's results are f32: it is tried with such, and nobody else's way is taken for it.
TEST_F(WaysTest, ResultsOfAnotherTypeAreTriedOnTheirOwn) {
  Products products(runtime_, {}, false, open());
  products.measure({&w_, 1}, DType::f32);
  EXPECT_EQ(runtime_.last.out.dtype, DType::f32);
  EXPECT_EQ(way_of(products, 1, DType::f32), (Way{1, 2}));
  EXPECT_EQ(way_of(products, 1), Way{});
  EXPECT_EQ(open().way({DType::bf16, DType::f32, 40, 60}, 1), 2);
}

// In fp8 too, where both have scales.
TEST_F(WaysTest, ScalesAreGiven) {
  Products products(runtime_, {}, false, open());
  const Tensor scale = Tensor::of(memory_ + 32, DType::f32, {1});
  w_.data.dtype = DType::fp8_e4m3, w_.scale = scale;
  products.measure({&w_, 1}, DType::bf16);
  products.multiply_scaled(Tensor::of(memory_, DType::bf16, {1, 40}),
                           Tensor::of(memory_, DType::fp8_e4m3, {1, 60}), scale, w_);
  EXPECT_EQ(runtime_.taken, (Way{1, 2}));
  EXPECT_EQ(runtime_.last.x_scale.data, scale.data);
  EXPECT_EQ(runtime_.last.w_scale.data, scale.data);
}

// Where they take long, a start tries some, and the next one those that are left.
TEST_F(WaysTest, TryingEnds) {
  runtime_.unit = 0.05;
  std::vector<int> known;
  for (int start = 0; start < 10; ++start) {
    Products products(runtime_, {}, false, open());
    const double begin = runtime_.clock;
    products.measure({&w_, 1}, DType::bf16);
    // The last began in time, and one takes so long: 2 calls of each, 3 runs of 3 of two.
    EXPECT_LT(runtime_.clock - begin,
              Products::kMostSeconds + (2 * 15 + 3 * 4 * 2) * runtime_.unit);
    known.push_back(0);
    for (const int64_t rows : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512})
      known.back() += open().way({DType::bf16, DType::bf16, 40, 60}, rows).has_value();
    EXPECT_EQ(way_of(products, 1), (Way{1, 2}));
  }
  EXPECT_LT(known[0], 10);
  EXPECT_GT(known[1], known[0]);
  EXPECT_EQ(known.back(), 10);
}

TEST_F(WaysTest, WhereThereIsOneNothingIsTried) {
  runtime_.ways = 1;
  Products products(runtime_, {}, false, open());
  products.measure({&w_, 1}, DType::bf16);
  EXPECT_EQ(runtime_.calls, 0);
  EXPECT_EQ(way_of(products, 4), Way{});
  EXPECT_TRUE(fs::is_empty(folder_));
}

}  // namespace
}  // namespace sluice::cuda
