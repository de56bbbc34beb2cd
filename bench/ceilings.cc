#include "bench/ceilings.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "bench/on_device.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

// Many short rounds, best of all: on a shared machine some round has the processors to itself.
constexpr int kRounds = 120;
constexpr size_t kBytesPerThread = size_t{256} << 20;  // in all, so that rounds find cold memory
constexpr size_t kBytesPerRound = size_t{16} << 20;    // a thread's share
constexpr int64_t kPieces = 16;                        // per thread and round
constexpr int kDeviceRounds = 5;

template <class Body>
double best_seconds(int rounds, Body body) {
  double best = 1e30;
  for (int i = 0; i < rounds; ++i) {
    const auto begin = Clock::now();
    body(i);
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return best;
}

// Four streams of 64-byte lines, the sum of one word in each so that the lines really arrive.
uint64_t read_bytes(const char* p, size_t bytes) {
  const size_t stream = bytes / 4 / 64 * 64;
  uint64_t sum[4] = {};
  for (size_t i = 0; i < stream; i += 64) {
    for (int s = 0; s < 4; ++s) {
      uint64_t word;
      std::memcpy(&word, p + s * stream + i, sizeof word);
      sum[s] += word;
      __builtin_prefetch(p + s * stream + i + 2048);
    }
  }
  return sum[0] + sum[1] + sum[2] + sum[3];
}

// A peak loop: `steps` steps of independent chains; returns the floating-point operations done.
using Peak = double (*)(int64_t steps);

double peak_scalar(int64_t steps) {
  float a[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  for (int64_t i = 0; i < steps; ++i) {
    for (float& x : a) x = x * 0.999f + 0.001f;
  }
  volatile float sink = 0;
  for (const float x : a) sink = sink + x;
  return double(steps) * 8 * 2;
}

#if defined(__x86_64__)
// Every loop over the sums is unrolled, or they would live in memory and not in registers; they
// start apart, or the compiler would compute one of them.
__attribute__((target("avx512f"))) double peak_f32_512(int64_t steps) {
  __m512 a[12];
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) a[j] = _mm512_set1_ps(0.1f * float(j));
  const __m512 b = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.001f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) a[j] = _mm512_fmadd_ps(a[j], b, c);
  }
  volatile float sink = 0;
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) sink = sink + _mm512_cvtss_f32(a[j]);
  return double(steps) * 12 * 32;
}

__attribute__((target("avx2,fma"))) double peak_f32_256(int64_t steps) {
  __m256 a[12];
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) a[j] = _mm256_set1_ps(0.1f * float(j));
  const __m256 b = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(0.001f);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) a[j] = _mm256_fmadd_ps(a[j], b, c);
  }
  volatile float sink = 0;
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) sink = sink + _mm256_cvtss_f32(a[j]);
  return double(steps) * 12 * 16;
}

__attribute__((target("avx512f,avx512bf16"))) double peak_bf16_512(int64_t steps) {
  __m512 a[12];
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) a[j] = _mm512_set1_ps(0.1f * float(j));
  const __m512bh b = (__m512bh)_mm512_set1_epi16(0x3f80);
  const __m512bh c = (__m512bh)_mm512_set1_epi16(0x2f80);
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) a[j] = _mm512_dpbf16_ps(a[j], b, c);
  }
  volatile float sink = 0;
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) sink = sink + _mm512_cvtss_f32(a[j]);
  return double(steps) * 12 * 64;
}

// Six sums of 16 by 16, as many registers as x and weights leave.
__attribute__((target("amx-tile,amx-bf16"))) double peak_bf16_tiles(int64_t steps) {
  struct {
    uint8_t id = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } palette;
  // GCC 12's intrinsic reads eight bytes of it, as the compiler sees it. Every register is zero
  // then.
  asm volatile("ldtilecfg %0" ::"m"(palette));
  steps /= 16;  // each takes that many times as long as one of the others
  for (int64_t i = 0; i < steps; ++i) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_release();
  return double(steps) * 6 * 16 * 16 * 64;
}
#endif

double measure_peak(cpu::ThreadPool& pool, Peak peak) {
  constexpr int64_t kSteps = 20000;
  const int64_t pieces = kPieces * pool.size();
  double flops = 0;
  const double seconds = best_seconds(kRounds, [&](int) {
    std::vector<double> done(pieces);
    pool.parallel_for(pieces, [&](int64_t i, int) { done[i] = peak(kSteps); });
    flops = 0;
    for (const double d : done) flops += d;
  });
  return flops / seconds / 1e9;
}

double measure_reads(cpu::ThreadPool& pool) {
  const size_t bytes = kBytesPerThread * pool.size();
  const auto device = make_cpu_device({1, "portable"}).value();
  const Device::Buffer buffer = device->allocate(bytes, Memory::device);
  std::memset(buffer.get(), 1, bytes);
  const char* data = static_cast<const char*>(buffer.get());
  const int64_t pieces = kPieces * pool.size();
  const size_t round = kBytesPerRound * pool.size(), piece = round / pieces;
  std::vector<uint64_t> sums(pieces);
  const double seconds = best_seconds(kRounds, [&](int i) {
    const char* from = data + i * round % bytes;
    pool.parallel_for(pieces,
                      [&](int64_t j, int) { sums[j] = read_bytes(from + j * piece, piece); });
  });
  volatile uint64_t sink = 0;
  for (const uint64_t s : sums) sink = sink + s;
  return double(round) / seconds / 1e9;
}

Ceilings cpu_ceilings(int threads) {
  Ceilings c;
  c.threads = threads > 0 ? threads : cpu::available_cpus();
  cpu::ThreadPool pool(c.threads);
  c.read_gb_per_s = measure_reads(pool);
  Peak f32 = peak_scalar;
#if defined(__x86_64__)
  const auto has = [](const char* isa) { return cpu::choose_isa(isa).ok(); };
  if (has("avx2")) f32 = peak_f32_256;
  if (has("avx512")) f32 = peak_f32_512;
  if (has("avx512bf16")) c.bf16_gflop_per_s = measure_peak(pool, peak_bf16_512);
  if (has("amx")) c.bf16_gflop_per_s = measure_peak(pool, peak_bf16_tiles);
#endif
  c.f32_gflop_per_s = measure_peak(pool, f32);
  return c;
}

// Doubles the size until a product takes long enough to hide what its launch costs.
double measure_matmul(Device& device, DType kept) {
  constexpr int64_t kFirst = 256, kLargest = 8192;
  constexpr double kEnough = 1e-3;
  Ops& ops = device.ops();
  for (int64_t n = kFirst;; n *= 2) {
    const DType act = ops.act_dtype();
    const DeviceTensor in = noise(device, act, {n, n}), out = zeros(device, act, {n, n}),
                       norm = noise(device, DType::f32, {n}), codes = zeros(device, act, {n, n});
    const DeviceWeight w = noise_weight(device, kept, n, n);
    Tensor x = in.tensor;
    if (ops.takes_fp8_rows(w.weight)) {
      x = fp8_rows(codes.tensor);
      ops.rms_norm(x, in.tensor, norm.tensor, 1e-5f);
    }
    double best = 1e30;
    for (int i = 0; i < kDeviceRounds; ++i)
      best = std::min(best, seconds_on(device, [&] { ops.matmul(out.tensor, x, w.weight); }));
    if (best > kEnough || n == kLargest) return 2.0 * double(n * n * n) / best / 1e9;
  }
}

double measure_copies(Device& device) {
  const size_t bytes = std::min(size_t{1} << 30, device.free_bytes() / 8);
  const Device::Buffer from = device.allocate(bytes, Memory::device),
                       to = device.allocate(bytes, Memory::device);
  double best = 1e30;
  for (int i = 0; i < kDeviceRounds; ++i)
    best = std::min(best, seconds_on(device, [&] {
                      device.copy(to.get(), from.get(), bytes, device.compute_stream());
                    }));
  return 2.0 * double(bytes) / best / 1e9;
}

}  // namespace

double Ceilings::floor_seconds(double bytes, double flops, bool bf16, double fp8_flops) const {
  const double peak = peak_gflop_per_s(bf16);
  const double fp8_peak = fp8_gflop_per_s > 0 ? fp8_gflop_per_s : peak;
  return std::max(bytes / (read_gb_per_s * 1e9),
                  flops / (peak * 1e9) + fp8_flops / (fp8_peak * 1e9));
}

std::string Ceilings::text() const {
  std::string text = fmt::format("memory {:.1f} GB/s", read_gb_per_s);
  if (f32_gflop_per_s > 0) text += fmt::format(", f32 {:.0f} GFLOP/s", f32_gflop_per_s);
  if (bf16_gflop_per_s > 0) text += fmt::format(", 16 bit {:.0f} GFLOP/s", bf16_gflop_per_s);
  if (fp8_gflop_per_s > 0) text += fmt::format(", fp8 {:.0f} GFLOP/s", fp8_gflop_per_s);
  return text;
}

Ceilings measure_ceilings(Device& device, int threads) {
  if (device.is_host()) return cpu_ceilings(threads);
  Ceilings c;
  c.read_gb_per_s = measure_copies(device);
  const Ops& ops = device.ops();
  c.bf16_gflop_per_s = measure_matmul(device, ops.weight_dtype(ops.act_dtype()));
  if (ops.weight_dtype(DType::fp8_e4m3) == DType::fp8_e4m3)
    c.fp8_gflop_per_s = measure_matmul(device, DType::fp8_e4m3);
  return c;
}

}  // namespace sluice
