#include "kvcache/block_copier.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>

#include "base/hash.h"
#include "kvcache/kv_store.h"
#include "tests/unit/engine/copy_gate.h"
#include "tests/unit/engine/host_device.h"

namespace sluice {
namespace {

const KvShape kShape{{{2, 8, 8}, {1, 8, 4}, {3, 16, 8}}, 4, DType::bf16};
const size_t kBytes = KvStore::bytes_per_block(kShape), kWords = kBytes / 8;

// A store whose blocks the test can paint and compare as a whole.
struct Store {
  Store(int num_blocks, int num_host_blocks, std::function<void()> before_copy = {})
      : kv(device, kShape, num_blocks, {num_host_blocks, std::move(before_copy)}) {}
  uint64_t* words(BlockId b) {  // a block is one piece
    return static_cast<uint64_t*>(kv.layer(0).k.data) + size_t(b) * kWords;
  }
  void paint(BlockId b, uint64_t content) {
    for (size_t i = 0; i < kWords; ++i) words(b)[i] = mix64(content, i);
  }
  bool holds(BlockId b, uint64_t content) {
    for (size_t i = 0; i < kWords; ++i)
      if (words(b)[i] != mix64(content, i)) return false;
    return true;
  }
  void swap(uint64_t plan, std::vector<BlockCopy> out, std::vector<BlockCopy> in) {
    kv.swap(plan, out, in);
  }
  BlockCopier::Progress progress() { return kv.copier().progress(); }
  void wait() { kv.copier().wait(); }

  HostDevice device;
  KvStore kv;
};

TEST(BlockCopierTest, EveryByteGoesOutAndComesBack) {
  Store s(6, 5);
  for (BlockId b = 0; b < 6; ++b) s.paint(b, 100 + b);
  s.swap(1, {{0, 4}, {2, 0}, {5, 2}}, {});
  s.wait();
  for (BlockId b = 0; b < 6; ++b) {
    EXPECT_TRUE(s.holds(b, 100 + b)) << "sources stay as they are";
    s.paint(b, 200 + b);
  }
  s.swap(2, {}, {{4, 3}, {0, 1}, {2, 0}});  // elsewhere than they were
  s.wait();
  EXPECT_TRUE(s.holds(3, 100));
  EXPECT_TRUE(s.holds(1, 102));
  EXPECT_TRUE(s.holds(0, 105));
  for (const BlockId b : {2, 4, 5}) EXPECT_TRUE(s.holds(b, 200 + b)) << "not asked for";
}

// Not that a scheduler would ask for copies that depend on each other, but the order is a promise.
TEST(BlockCopierTest, InTheOrderAskedFor) {
  constexpr int kSteps = 200;
  Store s(kSteps + 1, kSteps);
  s.paint(0, 7);
  for (int i = 0; i < kSteps; ++i) s.swap(uint64_t(i) + 1, {{i, i}}, {{i, i + 1}});
  s.wait();
  EXPECT_TRUE(s.holds(kSteps, 7));
  EXPECT_EQ(s.progress().done, uint64_t(kSteps));
  EXPECT_EQ(s.progress().blocks, 2 * kSteps);
}

TEST(BlockCopierTest, WithoutCopiesEveryLaunchedPlanIsDone) {
  Store s(2, 0);
  EXPECT_EQ(s.progress().done, 0u);
  s.swap(1, {}, {});
  EXPECT_EQ(s.progress().done, 1u);
  s.swap(17, {}, {});
  EXPECT_EQ(s.progress().done, 17u);
  EXPECT_EQ(s.progress().blocks, 0);
  EXPECT_EQ(s.progress().time, Nanos{0});
}

TEST(BlockCopierTest, ProgressIsOfWholePlansAndOfThoseBetween) {
  CopyGate gate;
  Store s(8, 8, [&] { gate.pass(); });
  s.swap(4, {}, {});
  EXPECT_EQ(s.progress().done, 4u);
  s.swap(5, {{0, 0}, {1, 1}}, {{2, 2}});
  s.swap(6, {}, {});
  s.swap(7, {}, {});
  s.swap(9, {{3, 3}}, {});
  s.swap(10, {}, {});
  gate.wait_arrived(1);
  EXPECT_EQ(s.progress().done, 4u);
  gate.allow(2);
  gate.wait_arrived(3);
  EXPECT_EQ(s.progress().done, 4u) << "a block is missing";
  EXPECT_EQ(s.progress().blocks, 0);
  gate.allow(1);
  gate.wait_arrived(4);
  EXPECT_EQ(s.progress().done, 8u);
  EXPECT_EQ(s.progress().blocks, 3);
  const Nanos time = s.progress().time;
  EXPECT_GT(time, Nanos{0});
  s.swap(11, {{4, 4}}, {});
  EXPECT_EQ(s.progress().done, 8u);
  gate.allow(CopyGate::kAll);
  s.wait();
  EXPECT_EQ(s.progress().done, 11u);
  EXPECT_EQ(s.progress().blocks, 5);
  EXPECT_GT(s.progress().time, time);
  s.swap(12, {}, {});
  EXPECT_EQ(s.progress().done, 12u);
}

// Copy-on-write and steps do not wait for a swap.
TEST(BlockCopierTest, NothingElseWaitsForACopy) {
  CopyGate gate;
  Store s(4, 2, [&] { gate.pass(); });
  s.paint(0, 1), s.paint(1, 2);
  s.swap(1, {{0, 0}}, {});
  gate.wait_arrived(1);
  s.kv.fork(std::vector<BlockCopy>{{1, 2}});
  EXPECT_TRUE(s.holds(2, 2));
  s.swap(2, {}, {});
  EXPECT_EQ(s.progress().done, 0u);
  gate.allow(1);
  s.wait();
  EXPECT_EQ(s.progress().done, 2u);
}

TEST(BlockCopierTest, TellsWhenAPlanIsDone) {
  Store s(4, 4);
  std::mutex mutex;
  std::condition_variable cv;
  int calls = 0;
  s.kv.copier().on_done([&] {
    std::lock_guard lock(mutex);
    ++calls;
    cv.notify_all();
  });
  for (int i = 1; i <= 20; ++i) {
    s.swap(uint64_t(i), {{i % 4, i % 3}, {(i + 1) % 4, 3}}, {});
    std::unique_lock lock(mutex);
    cv.wait(lock, [&] { return calls == i; });
    lock.unlock();
    EXPECT_EQ(s.progress().done, uint64_t(i));
  }
  s.kv.copier().on_done({});
  s.swap(21, {{0, 0}}, {});
  s.wait();
  EXPECT_EQ(calls, 20);
}

TEST(BlockCopierTest, EndsWithCopiesQueued) {
  for (int round = 0; round < 50; ++round) {
    Store s(64, 64);
    std::vector<BlockCopy> all;
    for (int i = 0; i < 64; ++i) all.push_back({i, i});
    for (int plan = 1; plan <= 10; ++plan) s.swap(uint64_t(plan), all, {});
  }
}

// Random plans as a scheduler makes them: nobody touches either end of a copy until it is done, and
// everything else at any time.
TEST(BlockCopierTest, RandomTrafficKeepsEveryBlock) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    constexpr int kDevice = 12, kHost = 10;
    Store s(kDevice, kHost);
    std::mt19937_64 rng(seed);
    std::array<uint64_t, kDevice> device{};
    std::array<uint64_t, kHost> host{};
    std::array<bool, kDevice> device_busy{};
    std::array<bool, kHost> host_busy{};
    for (int b = 0; b < kDevice; ++b) s.paint(b, device[b] = rng());
    for (int b = 0; b < kHost; ++b) host[b] = 0;
    struct Pending {
      uint64_t plan;
      bool out;
      BlockId device, host;
    };
    std::deque<Pending> pending;
    uint64_t plan = 0, done = 0;
    int64_t blocks = 0;
    while (plan < 400 || !pending.empty()) {
      std::vector<BlockCopy> out, in;
      ++plan;
      for (int n = plan < 400 ? int(rng() % 4) : 0; n > 0; --n) {
        const int d = int(rng() % kDevice), h = int(rng() % kHost);
        if (device_busy[d] || host_busy[h]) continue;
        const bool is_out = host[h] == 0 || rng() % 2 == 0;
        device_busy[d] = host_busy[h] = true;
        is_out ? out.push_back({d, h}) : in.push_back({h, d});
        pending.push_back({plan, is_out, d, h});
        ++blocks;
      }
      s.kv.swap(plan, out, in);
      for (int d = 0; d < kDevice; ++d)
        if (!device_busy[d] && rng() % 3 == 0) s.paint(d, device[d] = rng());
      const BlockCopier::Progress p = s.progress();
      ASSERT_GE(p.done, done);
      ASSERT_LE(p.done, plan);
      done = p.done;
      for (; !pending.empty() && pending.front().plan <= done; pending.pop_front()) {
        const Pending& c = pending.front();
        device_busy[c.device] = host_busy[c.host] = false;
        c.out ? host[c.host] = device[c.device] : device[c.device] = host[c.host];
        ASSERT_TRUE(s.holds(c.device, device[c.device])) << seed << " plan " << c.plan;
      }
    }
    ASSERT_EQ(s.progress().blocks, blocks);
    for (int d = 0; d < kDevice; ++d) ASSERT_TRUE(s.holds(d, device[d]));
  }
}

TEST(BlockCopierTest, TimesTheDirectionsApart) {
  static constexpr Nanos kPause = std::chrono::milliseconds(2);
  Store s(6, 6, [] { std::this_thread::sleep_for(kPause); });
  s.swap(1, {{0, 4}, {2, 0}}, {{4, 1}});
  s.wait();
  const BlockCopier::Progress both = s.progress();
  EXPECT_GE(both.out, 2 * kPause);
  EXPECT_GE(both.time - both.out, kPause);
  s.swap(2, {}, {{4, 3}});
  s.wait();
  EXPECT_EQ(s.progress().out, both.out);
  EXPECT_GE(s.progress().time, both.time + kPause);
}

TEST(BlockCopierTest, PopulateReachesTheHostTier) {
  Store s(100, 50);
  s.kv.populate();
  while (s.device.populated < 150 * kBytes) std::this_thread::yield();
  s.kv.populate_now(10);
  EXPECT_EQ(s.device.populated, 160 * kBytes);
}

TEST(BlockCopierDeathTest, RefusesBlocksThatDoNotExist) {
  Store s(4, 2);
  EXPECT_DEATH(s.swap(1, {{0, 2}}, {}), "num_host_blocks");
  EXPECT_DEATH(s.swap(1, {{4, 0}}, {}), "num_blocks");
  EXPECT_DEATH(s.swap(1, {}, {{-1, 0}}), "num_host_blocks");
  s.swap(3, {}, {});
  EXPECT_DEATH(s.swap(2, {}, {}), "launched");
}

}  // namespace
}  // namespace sluice
