// The emulator's own tests: what its calls compute, and every rule it must stop on.
#include "tests/simt/kernel_test.h"

namespace sluice::simt {
namespace {

void run(int blocks, int threads, size_t shared_bytes, const std::function<void()>& body) {
  emulate({blocks, threads, shared_bytes}, body);
}

uint16_t bf16(float v) {
  Bf16 b;
  from_float(b, v);
  return b.bits;
}

TEST(Emulator, EveryThreadOfEveryBlockRunsOnce) {
  in_all_orders([] {
    std::vector<int> seen(5 * 96);
    run(5, 96, 0, [&] {
      EXPECT_EQ(num_blocks(), 5);
      EXPECT_EQ(num_threads(), 96);
      EXPECT_EQ(warp_id() * 32 + lane_id(), thread_id());
      ++seen[size_t(block_id() * 96 + thread_id())];
    });
    EXPECT_EQ(seen, std::vector<int>(5 * 96, 1));
  });
}

TEST(Emulator, WarpCollectives) {
  in_all_orders([] {
    run(1, 64, 0, [] {
      const int lane = lane_id();
      EXPECT_EQ(shuffle(lane * 10, (lane + 1) % 32), (lane + 1) % 32 * 10);
      EXPECT_EQ(shuffle_xor(thread_id(), 5), thread_id() ^ 5);
      EXPECT_EQ(ballot(lane % 3 == 0), 0x49249249u);
      EXPECT_EQ(warp_sum(float(lane)), 496.0f);
      EXPECT_EQ(warp_max(-float(lane)), 0.0f);
    });
  });
}

TEST(Emulator, BarriersPublishSharedMemory) {
  in_all_orders([] {
    run(3, 128, 128 * sizeof(int), [] {
      int(&shared_ints)[128] = shared<int[128]>();
      shared_ints[thread_id()] = thread_id() + block_id();
      sync_block();
      EXPECT_EQ(shared_ints[127 - thread_id()], 127 - thread_id() + block_id());
      sync_block();
      // Two halves meet apart from each other.
      const int half = thread_id() / 64;
      shared_ints[thread_id()] = half;
      sync_named(1 + half, 64);
      EXPECT_EQ(shared_ints[half * 64 + (thread_id() + 7) % 64], half);
    });
  });
}

TEST(Emulator, SharedMemoryBeginsAsNan) {
  run(2, 32, 256, [] {
    EXPECT_TRUE(std::isnan(shared<float[64]>()[lane_id()]));
    EXPECT_TRUE(std::isnan(to_float(shared<Bf16[128]>()[64 + lane_id()])));
    shared<float[64]>()[lane_id()] = 1;
  });
}

// Somebody reads what another has not written yet, in one of the orders at least.
TEST(Emulator, AMissingBarrierShowsInSomeOrder) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "TSan reports it, in every order";
#endif
  bool forward_wrong = false, reverse_wrong = false;
  for (const Order order : {Order::forward, Order::reverse}) {
    emulator_options() = {order, 0, 2};
    for (const int shift : {1, 31}) {
      run(1, 64, 64 * sizeof(float), [&] {
        float(&x)[64] = shared<float[64]>();
        x[thread_id()] = 1;
        sync_warp();  // one warp only: the other may not have come here
        if (std::isnan(x[(thread_id() + shift + 32) % 64]))
          (order == Order::forward ? forward_wrong : reverse_wrong) = true;
      });
    }
  }
  emulator_options() = {};
  EXPECT_TRUE(forward_wrong);
  EXPECT_TRUE(reverse_wrong);
}

TEST(Emulator, CopiesLandAtTheirWaitAndNotBefore) {
  in_all_orders([] {
    std::vector<float> global(32 * 4 * 2);
    for (size_t i = 0; i < global.size(); ++i) global[i] = float(i);
    run(1, 32, 2 * 32 * 16, [&] {
      auto& x = shared<float[2][32][4]>();
      const int lane = lane_id();
      for (float& v : x[0][lane]) v = -1;
      cp_async_16(x[0][lane], &global[size_t(lane) * 4], true);
      cp_async_commit();
      cp_async_16(x[1][lane], &global[size_t(32 + lane) * 4], lane % 2 == 0);
      cp_async_commit();
      EXPECT_TRUE(std::isnan(x[0][lane][0]));  // neither what was there nor what comes
      cp_async_wait<1>();
      EXPECT_EQ(x[0][lane][3], float(lane * 4 + 3));
      EXPECT_TRUE(std::isnan(x[1][lane][0]));
      cp_async_wait<0>();
      EXPECT_EQ(x[1][lane][1], lane % 2 == 0 ? float((32 + lane) * 4 + 1) : 0.0f);
    });
  });
}

TEST(Emulator, MatrixFragments) {
  in_all_orders([] {
    run(1, 32, 16 * 16 * 2, [] {
      auto& tile = shared<uint16_t[16][16]>();  // value: row * 16 + column
      for (int i = lane_id(); i < 256; i += 32) tile[i / 16][i % 16] = uint16_t(i);
      sync_warp();
      const int lane = lane_id(), g = lane / 4, t = lane % 4 * 2;
      uint32_t r[4];
      ldmatrix_x4(r, &tile[lane % 16][lane / 16 * 8]);
      const auto two = [](int low, int high) { return uint32_t(low) | uint32_t(high) << 16; };
      EXPECT_EQ(r[0], two(g * 16 + t, g * 16 + t + 1));
      EXPECT_EQ(r[1], two((g + 8) * 16 + t, (g + 8) * 16 + t + 1));
      EXPECT_EQ(r[2], two(g * 16 + t + 8, g * 16 + t + 9));
      ldmatrix_x4_trans(r, &tile[lane % 16][lane / 16 * 8]);
      EXPECT_EQ(r[0], two(t * 16 + g, (t + 1) * 16 + g));
      EXPECT_EQ(movmatrix_trans(two(g * 8 + t, g * 8 + t + 1)), two(t * 8 + g, (t + 1) * 8 + g));
    });
  });
}

template <class T>
void expect_mma() {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  T a[16][16], b[8][16];
  for (auto& row : a)
    for (T& v : row) from_float(v, uniform(random));
  for (auto& row : b)
    for (T& v : row) from_float(v, uniform(random));
  run(1, 32, 0, [&] {
    const int g = lane_id() / 4, t = lane_id() % 4 * 2;
    const auto two = [](const T* p) { return p[0].bits | uint32_t(p[1].bits) << 16; };
    const uint32_t fragment[4] = {two(&a[g][t]), two(&a[g + 8][t]), two(&a[g][t + 8]),
                                  two(&a[g + 8][t + 8])};
    float d[4] = {1, 2, 3, 4};
    mma(T{}, d, fragment, two(&b[g][t]), two(&b[g][t + 8]));
    for (int i = 0; i < 4; ++i) {
      double sum = i + 1;
      for (int k = 0; k < 16; ++k)
        sum += double(to_float(a[g + i / 2 * 8][k])) * to_float(b[t + i % 2][k]);
      EXPECT_NEAR(d[i], sum, 1e-5);
    }
  });
}
TEST(Emulator, MmaOfBf16) { expect_mma<Bf16>(); }
TEST(Emulator, MmaOfF16) { expect_mma<F16>(); }

TEST(Emulator, LdmatrixCountsBankConflicts) {
  const auto conflicts = [](int stride) {
    const uint64_t before = emulator_counters().bank_conflicts;
    run(1, 32, size_t(16 * stride * 16), [=] {
      uint32_t r[4];
      unsigned char* tile = &shared<unsigned char>();
      ldmatrix_x4(r, tile + (lane_id() % 16 * stride + lane_id() / 16) * 16);
    });
    return emulator_counters().bank_conflicts - before;
  };
  EXPECT_EQ(conflicts(8), 4u * 7);  // rows of 128 bytes: all in one group of banks
  EXPECT_EQ(conflicts(9), 0u);      // padded
}

// The last to draw a ticket sees what every block wrote before drawing.
TEST(Emulator, BlocksTalkByTickets) {
  in_all_orders([] {
    std::vector<int> partial(7);
    uint32_t ticket = 0;
    int sum = 0;
    run(7, 64, sizeof(bool), [&] {
      if (thread_id() == 40) partial[size_t(block_id())] = block_id() + 1;
      sync_block();
      bool& last = shared<bool>();
      if (thread_id() == 0) last = atomic_add_acq_rel(&ticket, 1) == 6;
      sync_block();
      if (last && thread_id() == 5)
        for (const int p : partial) sum += p;
    });
    EXPECT_EQ(sum, 28);
    EXPECT_EQ(ticket, 7u);
  });
}

TEST(Emulator, AtomicsOnSharedMemoryLoseNothing) {
  in_all_orders([] {
    run(2, 96, 2 * sizeof(uint32_t), [] {
      auto& x = shared<uint32_t[2]>();
      if (thread_id() == 0) x[0] = ~0u, x[1] = 0;
      sync_block();
      const uint32_t before = atomic_add_shared(&x[1], 3);
      EXPECT_TRUE(before % 3 == 0 && before < 96 * 3);
      if (thread_id() % 2 == 0) atomic_add_shared(&x[0], 1);  // wraps
      sync_block();
      EXPECT_EQ(x[0], 47u);
      EXPECT_EQ(x[1], 96u * 3);
    });
  });
}

// Others add between two additions of a thread: no order of them may be relied on.
TEST(Emulator, AtomicsOnSharedMemoryAreInAnyOrder) {
  std::vector<int> between(64);
  in_all_orders([&] {
    run(1, 64, sizeof(uint32_t), [&] {
      auto& x = shared<uint32_t>();
      if (thread_id() == 0) x = 0;
      sync_block();
      const uint32_t before = atomic_add_shared(&x, 1);
      between[size_t(thread_id())] += atomic_add_shared(&x, 1) != before + 1;
    });
  });
  EXPECT_NE(between, std::vector<int>(64));
}

TEST(Emulator, ProductsAndLogarithms) {
  run(1, 32, 0, [] {
    EXPECT_EQ(mul_high(~0ull, ~0ull), ~0ull - 1);
    EXPECT_EQ(mul_high(1ull << 63, 6), 3u);
    EXPECT_EQ(mul_high(~0ull, 1), 0u);
    EXPECT_EQ(mul_high(0x123456789abcdef0ull, 1ull << 40), 0x123456789abcdef0ull >> 24);
    EXPECT_EQ(warp_sum(uint64_t{1} << 40), uint64_t{1} << 45);
    EXPECT_EQ(bit_cast<uint32_t>(-2.0f), 0xc0000000u);
    EXPECT_NEAR(log(10.0f), std::log(10.0), 1e-6);
    EXPECT_EQ(log(0.0f), neg_infinity());
  });
}

TEST(Emulator, SixteenBitFloatsRoundToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const F16 h{uint16_t(bits)};
    const float f = to_float(h);
    F16 back;
    from_float(back, f);
    if (std::isnan(f)) {
      EXPECT_TRUE((back.bits & 0x7c00) == 0x7c00 && (back.bits & 0x3ff) != 0);
      continue;
    }
    ASSERT_EQ(back.bits, h.bits);
    ASSERT_EQ(f, float(std::bit_cast<_Float16>(h.bits)));
    // Half way to the next one goes to the even one, anything more goes on.
    const F16 next{uint16_t(bits + 1)};
    if ((bits & 0x7fff) >= 0x7bff) continue;
    const float middle = 0.5f * f + 0.5f * to_float(next);
    from_float(back, middle);
    ASSERT_EQ(back.bits, bits % 2 == 0 ? bits : bits + 1) << f;
    from_float(back, std::nextafter(middle, bits < 0x8000 ? HUGE_VALF : -HUGE_VALF));
    ASSERT_EQ(back.bits, bits + 1) << f;
  }
  EXPECT_EQ(bf16(1.0f), 0x3f80);
  EXPECT_EQ(bf16(1.00390625f), 0x3f80);  // half way, to even
  EXPECT_EQ(bf16(1.01171875f), 0x3f82);
  EXPECT_EQ(bf16(HUGE_VALF), 0x7f80);
}

// ---- rules: one line, and status 3 ----

void expect_stop(int threads, size_t shared_bytes, const std::function<void()>& body,
                 const char* says) {
  EXPECT_EXIT(run(1, threads, shared_bytes, body), ::testing::ExitedWithCode(3), says);
}

TEST(EmulatorDeath, ThreadsThatNeverMeet) {
  expect_stop(
      64, 0,
      [] {
        if (warp_id() == 0) sync_block();
      },
      "deadlock");
  expect_stop(
      32, 0,
      [] {
        if (lane_id() < 31) sync_warp();
      },
      "deadlock");
}
TEST(EmulatorDeath, LanesInDifferentCollectives) {
  expect_stop(
      32, 0, [] { lane_id() < 3 ? void(ballot(true)) : sync_warp(); }, "different collectives");
}
TEST(EmulatorDeath, ABarrierWithTwoCounts) {
  expect_stop(
      96, 0, [] { sync_named(2, warp_id() == 0 ? 64 : 96); }, "two thread counts");
  expect_stop(
      64, 0, [] { sync_named(2, 96); }, "cannot meet");
  expect_stop(
      64, 0, [] { sync_named(16, 64); }, "does not exist");
}
TEST(EmulatorDeath, CopiesLeftInFlight) {
  expect_stop(
      32, 512,
      [] {
        alignas(16) static const char source[16] = {};
        cp_async_16(&shared<Vec4[32]>()[lane_id()], source, true);
      },
      "cp.async in flight");
}
TEST(EmulatorDeath, AddressesOfSixteenBytes) {
  expect_stop(
      32, 512, [] { store_16(&shared<char[512]>()[8], {}); }, "aligned");
  expect_stop(
      32, 16,
      [] {
        uint32_t r[4];
        ldmatrix_x4(r, &shared<Vec4>() + lane_id());
      },
      "outside the block's shared memory");
}
TEST(EmulatorDeath, AtomicsOfSharedMemoryElsewhere) {
  expect_stop(
      32, 64,
      [] {
        uint32_t own = 0;
        atomic_add_shared(&own, 1);
      },
      "outside the block's shared memory");
  expect_stop(
      32, 64, [] { atomic_add_shared(&shared<uint32_t[16]>()[0] + 16, 1); },
      "outside the block's shared memory");
}
TEST(EmulatorDeath, TooLittleSharedMemory) {
  expect_stop(
      32, 64, [] { shared<char[65]>()[0] = 0; }, "too little shared memory");
}
TEST(EmulatorDeath, BadLaunches) {
  expect_stop(
      33, 0, [] {}, "whole warps");
  expect_stop(
      32, 0, [] { run(1, 32, 0, [] {}); }, "inside of a kernel");
  EXPECT_EXIT(thread_id(), ::testing::ExitedWithCode(3), "outside of a kernel");
}

// What a kernel may do before it waits for earlier ones is to find out where it is.
struct Pointers {
  int* out;
  const int* in;
};
SIMT_KERNEL(64, 1) waits_first(Pointers p) {
  const int i = block_id() * num_threads() + thread_id();
  wait_for_earlier();
  p.out[i] = p.in[i] + 1;
}
SIMT_KERNEL(64, 1) reads_first(Pointers p) {
  const int in = p.in[thread_id()];
  wait_for_earlier();
  p.out[thread_id()] = in;
}
SIMT_KERNEL(64, 1) meets_first(Pointers) {
  if (warp_id() == 1) sync_warp();
  wait_for_earlier();
}
SIMT_KERNEL(64, 1) shares_first(Pointers) {
  shared<int[64]>()[thread_id()] = 1;
  wait_for_earlier();
}
SIMT_KERNEL(64, 1) never_waits(Pointers) {
  if (warp_id() == 0) wait_for_earlier();
}
TEST(Emulator, KernelsWaitForEarlierOnes) {
  std::vector<int> in(128, 5), out(128);
  in_all_orders([&] {
    const uint64_t before = emulator_counters().launches;
    launch<Pointers>(waits_first, {2, 64, 0}, {}, {out.data(), in.data()});
    EXPECT_EQ(emulator_counters().launches, before + 1);
    EXPECT_EQ(out, std::vector<int>(128, 6));
    out.assign(128, 0);
  });
}
TEST(EmulatorDeath, WhatIsDoneBeforeTheWait) {
  std::vector<int> in(64), out(64);
  const auto start = [&](Kernel<Pointers> kernel) {
    launch<Pointers>(kernel, {1, 64, 256}, {}, {out.data(), in.data()});
  };
  EXPECT_DEATH(start(reads_first), "");
  EXPECT_EXIT(start(meets_first), testing::ExitedWithCode(3), "before it waits for earlier ones");
  EXPECT_EXIT(start(shares_first), testing::ExitedWithCode(3), "before it waits for earlier ones");
  EXPECT_EXIT(start(never_waits), testing::ExitedWithCode(3), "does not wait for earlier ones");
}

#if defined(__SANITIZE_ADDRESS__)
TEST(EmulatorDeath, SharedMemoryHasRedZones) {
  EXPECT_DEATH(run(1, 32, 64, [] { (&shared<char>())[64] = 1; }), "heap-buffer-overflow");
}
#endif

#if defined(__SANITIZE_THREAD__)
// Shuffles order no memory: what one lane wrote, another reads behind a barrier only.
TEST(EmulatorDeath, RacesAreSeenWhateverTheOrder) {
  const auto racy = [](bool barrier) {
    run(1, 32, 32 * sizeof(int), [=] {
      int(&x)[32] = shared<int[32]>();
      x[lane_id()] = lane_id();
      barrier ? sync_warp() : void(shuffle(1, 0));
      EXPECT_EQ(x[31 - lane_id()], 31 - lane_id());
    });
  };
  racy(true);
  EXPECT_DEATH((racy(false), std::exit(0)), "data race");
}
// Nor do atomics on shared memory: neither what was written before one, nor their own sum.
TEST(EmulatorDeath, SharedAtomicsOrderNothing) {
  const auto flag = [](bool barrier) {
    run(1, 64, 2 * sizeof(uint32_t), [=] {
      auto& x = shared<uint32_t[2]>();
      if (thread_id() == 0) x[0] = 0;
      sync_block();
      if (thread_id() == 0) x[1] = 5, atomic_add_shared(&x[0], 1);
      if (barrier) sync_block();
      if (thread_id() != 63 || atomic_add_shared(&x[0], 0) != 1) return;
      EXPECT_EQ(x[1], 5u);
    });
  };
  flag(true);
  EXPECT_DEATH((flag(false), std::exit(0)), "data race");
  const auto sum = [](bool barrier) {
    run(1, 64, sizeof(uint32_t), [=] {
      auto& x = shared<uint32_t>();
      if (thread_id() == 0) x = 0;
      sync_block();
      atomic_add_shared(&x, 1);
      if (barrier) sync_block();
      EXPECT_LE(x, 64u);
    });
  };
  sum(true);
  EXPECT_DEATH((sum(false), std::exit(0)), "data race");
}
#endif

TEST(EmulatedStream, RunsWhatSomebodyWaitsForAndNoMore) {
  EmulatedStream stream;
  std::string ran;
  stream.put([&] { ran += 'a'; });
  const size_t first = stream.mark();
  stream.put([&] { ran += 'b'; });
  EXPECT_EQ(ran, "");
  stream.run_until(first);
  EXPECT_EQ(ran, "a");
  stream.run_until(first);
  stream.run_until(stream.mark());
  EXPECT_EQ(ran, "ab");
}

TEST(EmulatedStream, WaitsForOthersInTheMiddle) {
  EmulatedStream one, two;
  std::string ran;
  two.put([&] { ran += 'x'; });
  const size_t x = two.mark();
  two.put([&] { ran += 'y'; });
  one.put([&] { ran += 'a'; });
  one.put([&] { two.run_until(x); });
  one.put([&] { ran += 'b'; });
  one.run_until(one.mark());
  EXPECT_EQ(ran, "axb");
}

TEST(EmulatedStream, CapturesInsteadOfRunning) {
  EmulatedStream stream;
  int runs = 0;
  stream.begin_capture();
  stream.put([&] { ++runs; });
  const std::vector<EmulatedStream::Work> graph = stream.end_capture();
  stream.run_until(stream.mark());
  EXPECT_EQ(runs, 0);
  ASSERT_EQ(graph.size(), 1u);
  for (int i = 0; i < 2; ++i) stream.put(graph[0]);
  stream.run_until(stream.mark());
  EXPECT_EQ(runs, 2);
}

}  // namespace
}  // namespace sluice::simt
