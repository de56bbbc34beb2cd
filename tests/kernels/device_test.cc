#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "base/status.h"
#include "kernel_test_util.h"

namespace sluice {
namespace {

TEST(CpuDevice, NamesItsInstructionSetAndThreads) {
  EXPECT_EQ(make_cpu_device({1, "portable"}).value()->name(), "cpu (portable, 1 thread)");
  EXPECT_EQ(make_cpu_device({3, "portable"}).value()->name(), "cpu (portable, 3 threads)");
  const std::string best(cpu::name_of(cpu::best_isa()));
  EXPECT_THAT(make_cpu_device({}).value()->name(), testing::StartsWith("cpu (" + best + ", "));
}

TEST(CpuDevice, RefusesWhatTheChipLacks) {
  for (const std::string isa : {"avx2", "avx512", "avx512bf16", "amx"}) {
    const auto device = make_cpu_device({1, isa});
    const auto supported = cpu::supported_isas();
    bool here = false;
    for (const cpu::Isa i : supported) here |= cpu::name_of(i) == isa;
    EXPECT_EQ(device.ok(), here) << isa;
    if (!here) {
      EXPECT_THAT(std::string(message_of(device.status())), testing::HasSubstr(isa));
    }
  }
  EXPECT_THAT(std::string(message_of(make_cpu_device({1, "sse9"}).status())),
              testing::HasSubstr("sse9"));
  EXPECT_FALSE(make_cpu_device({-1, "auto"}).ok());
  EXPECT_FALSE(make_cpu_device({100000, "auto"}).ok());
}

TEST(CpuDevice, AllocatesZeroedAlignedMemory) {
  const auto device = make_cpu_device({1, "auto"}).value();
  for (const size_t bytes : {size_t{1}, size_t{100}, size_t{4096}, size_t{5} << 20}) {
    const Device::Buffer b = device->allocate(bytes, Memory::device);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(b.get()) % 64, 0u);
    const auto* p = static_cast<const uint8_t*>(b.get());
    EXPECT_TRUE(std::all_of(p, p + bytes, [](uint8_t x) { return x == 0; }));
    std::memset(b.get(), 1, bytes);
  }
  EXPECT_GT(device->free_bytes(), size_t{1} << 20);
}

TEST(CpuDevice, PopulatesPagesAndKeepsWhatTheyHold) {
  const auto device = make_cpu_device({1, "auto"}).value();
  constexpr size_t kBytes = size_t{32} << 20, kPage = 4096;
  const Device::Buffer b = device->allocate(kBytes, Memory::device);
  auto* bytes = static_cast<uint8_t*>(b.get());
  bytes[0] = 7;
  bytes[kBytes - 1] = 9;
  if (madvise(bytes, kPage, MADV_POPULATE_WRITE) != 0) GTEST_SKIP() << "needs Linux 5.14";
  device->populate(bytes + 100, kBytes - 200);  // what is partly covered may stay as it was
  std::vector<unsigned char> resident(kBytes / kPage);
  ASSERT_EQ(mincore(bytes, kBytes, resident.data()), 0);
  for (size_t i = 1; i + 1 < resident.size(); ++i) ASSERT_EQ(resident[i] & 1, 1) << i;
  EXPECT_EQ(bytes[0], 7);
  EXPECT_EQ(bytes[kBytes - 1], 9);
  device->populate(bytes + 1, 2);  // no whole page: nothing to do
}

TEST(CpuDevice, IsSynchronous) {
  const auto device = make_cpu_device({1, "auto"}).value();
  EXPECT_EQ(device->compute_stream().handle, nullptr);
  EXPECT_EQ(device->capture({}, [] { FAIL() << "the body must not run"; }), nullptr);
  int a = 7, b = 0;
  device->copy(&b, &a, sizeof a, device->copy_stream());
  device->sync(device->record(device->copy_stream()));
  EXPECT_EQ(b, 7);
}

}  // namespace
}  // namespace sluice
