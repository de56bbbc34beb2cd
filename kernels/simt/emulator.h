// The g++ side of simt.h: an emulator that is stricter than the chip. Included by simt.h only.
//
//  - A block's threads are fibers on one OS thread. They switch only inside these calls, and the
//    order decides who runs next: the lowest ready thread, the highest, or a random warp that keeps
//    the lead for a while. Each lets a warp run ahead as far as barriers allow, which shows a
//    missing barrier; a fair order would hide it.
//  - Several blocks are resident at once, so a ticket drawn before its data is written is seen.
//  - Shared memory is a heap block of exactly the launched size, filled with NaN, under ASan with
//    red zones around it.
//  - cp.async: the destination turns to NaN at the call and gets the data at the wait. Who reads it
//    early, or still reads what was there before, sees NaN.
//  - What a kernel does before wait_for_earlier() it does once beforehand, with parameters that
//    point nowhere: who touches memory there, or does not wait at all, is stopped or crashes.
//  - Under -fsanitize=thread only what orders memory on the chip orders it here (barriers and
//    acquire-release atomics; not shuffles, not mma): an exact check for races, whatever the order.
//
// A broken rule prints one line and ends the process with status 3. What it cannot show: bank
// conflicts of plain accesses, how the chip rounds inside an mma, speed.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>

#include "base/float8.h"

#define SIMT_KERNEL(max_threads, min_blocks) inline void
#define SIMT_DEVICE inline
#define SIMT_UNROLL

namespace sluice::simt {

enum class Order { forward, reverse, random };

// How launches of this OS thread are run from now on.
struct EmulatorOptions {
  Order order = Order::forward;
  uint64_t seed = 0;  // of Order::random
  int resident_blocks = 2;
};
EmulatorOptions& emulator_options();

// What launches of this OS thread came to.
struct EmulatorCounters {
  uint64_t launches = 0, switches = 0, mma = 0, ldmatrix = 0, cp_async = 0;
  uint64_t bank_conflicts = 0;  // extra passes of ldmatrix over shared memory
};
EmulatorCounters& emulator_counters();

// Runs `body` once for every thread of every block; returns when all have ended.
void emulate(const LaunchConfig&, std::function<void()> body);
// Runs it for the threads of one block, up to where each waits for earlier kernels; once for each
// `kernel` on an OS thread, as parameters that point nowhere lead everywhere alike.
void emulate_until_wait(const void* kernel, const LaunchConfig&, std::function<void()> body);

namespace emulator {

[[noreturn]] void die(const char* rule);

// Of the running fiber.
int thread_id();
int num_threads();
int block_id();
int num_blocks();
unsigned char* shared_memory(size_t bytes);

void barrier(int id, int num_threads);
// All 32 lanes meet here; the last one runs `op` on everybody's arguments. Orders no memory.
using WarpOp = void (*)(void* const* lanes);
void collective(const char* call, void* args, WarpOp op);
void let_others_run();

// Of what no kernel may do while earlier ones run.
void check_waited();
void check_shared(const void* p, size_t bytes);
void check_shared_16(const void* p);
void check_aligned_16(const void* p);
template <bool kTransposed>
void ldmatrix(uint32_t (&r)[4], const void* row);
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool bf16);
void cp_async_wait(size_t pending);

}  // namespace emulator

// ---- who am I ----
inline int thread_id() { return emulator::thread_id(); }
inline int num_threads() { return emulator::num_threads(); }
inline int lane_id() { return thread_id() % 32; }
inline int warp_id() { return thread_id() / 32; }
inline int block_id() { return emulator::block_id(); }
inline int num_blocks() { return emulator::num_blocks(); }

// The block's shared memory; T has no constructor that matters: it starts as NaN.
template <class T>
T& shared() {
  return *reinterpret_cast<T*>(emulator::shared_memory(sizeof(T)));
}

// ---- kernels that overlap ----
void wait_for_earlier();

// ---- barriers ----
inline void sync_block() { emulator::barrier(0, emulator::num_threads()); }
void sync_warp();
// `num_threads` is a multiple of 32; ids 1 to 15 (0 is sync_block's).
inline void sync_named(int id, int num_threads) { emulator::barrier(id, num_threads); }

// ---- warp registers ----
template <class T>
T shuffle(T v, int source_lane) {
  struct Args {
    T in, out;
    int lane;
  } args{v, v, source_lane};
  emulator::collective("shuffle", &args, [](void* const* lanes) {
    for (int l = 0; l < 32; ++l) {
      auto& a = *static_cast<Args*>(lanes[l]);
      if (a.lane < 0 || a.lane > 31) emulator::die("shuffle from a lane that does not exist");
      a.out = static_cast<Args*>(lanes[a.lane])->in;
    }
  });
  return args.out;
}
template <class T>
T shuffle_xor(T v, int mask) {
  return shuffle(v, lane_id() ^ mask);
}
uint32_t ballot(bool v);  // bit l: lane l's

// ---- atomics ----
// The only way two blocks talk. Acquire-release at device scope: one thread calls it between two
// sync_block(), and the block's earlier writes are published, and what others published is seen.
uint32_t atomic_add_acq_rel(uint32_t* p, uint32_t v);
// Within a block, on its shared memory; returns what was there. Relaxed: who adds learns nothing
// about other memory, and plain reads of the sum need a barrier as they do after plain writes.
// There is none of 64 bits: the chip has no adder for them in shared memory and would spin.
uint32_t atomic_add_shared(uint32_t* p, uint32_t v);

// ---- asynchronous copies ----
// 16 bytes from global to shared memory. Not valid: writes zeros, and does not touch `src`.
void cp_async_16(void* dst, const void* src, bool valid);
void cp_async_commit();
// Returns when at most kPending of this thread's newest groups are in flight. Other threads see the
// bytes behind a barrier after it.
template <int kPending>
void cp_async_wait() {
  emulator::cp_async_wait(kPending);
}

// ---- tensor cores ----
// Lane i gives the address of row i % 8 of matrix i / 8; lane l receives of each matrix row l / 4,
// columns 2 * (l % 4) and the next. The transposed form receives column l / 4 instead.
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { emulator::ldmatrix<false>(r, row); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  emulator::ldmatrix<true>(r, row);
}
// Transposes an 8x8 matrix of 16-bit values held one register a lane.
uint32_t movmatrix_trans(uint32_t v);
// d[16, 8] += a[16, 16] * b[16, 8]; the first argument names the type of a and b.
inline void mma(Bf16, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::mma(d, a, b0, b1, true);
}
inline void mma(F16, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::mma(d, a, b0, b1, false);
}

// ---- arithmetic with a chosen instruction ----
inline float exp2_approx(float x) { return std::exp2(x); }
inline float log2_approx(float x) { return std::log2(x); }
inline float reciprocal(float x) { return 1 / x; }
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline float max(float a, float b) { return std::fmax(a, b); }  // of a NaN and a number: the number
inline float neg_infinity() { return -HUGE_VALF; }
// The upper 64 of the product's 128 bits.
inline uint64_t mul_high(uint64_t a, uint64_t b) {
  return uint64_t(static_cast<unsigned __int128>(a) * b >> 64);
}

// ---- 16-bit floats ----
inline float to_float(Bf16 v) { return std::bit_cast<float>(uint32_t(v.bits) << 16); }
float to_float(F16 v);
inline void from_float(Bf16& to, float v) {
  const uint32_t u = std::bit_cast<uint32_t>(v);
  to.bits = std::isnan(v) ? 0x7fff : uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
void from_float(F16& to, float v);
// Two of the first argument's type in one register.
template <class T>
uint32_t pack(T, float low, float high) {
  T l, h;
  from_float(l, low), from_float(h, high);
  return l.bits | uint32_t(h.bits) << 16;
}

// ---- 8-bit floats ----
// Four as e4m3 in one register, the first lowest; as to_e4m3 (base/float8.h).
inline uint32_t pack_e4m3(float a, float b, float c, float d) {
  return to_e4m3(a) | to_e4m3(b) << 8 | to_e4m3(c) << 16 | uint32_t{to_e4m3(d)} << 24;
}

inline void from_float(E4m3& to, float v) { to.bits = to_e4m3(v); }
template <int kFirst, int kSecond, class T>
uint32_t widen_e4m3(T, uint32_t codes) {
  return pack(T{}, from_e4m3(uint8_t(codes >> 8 * kFirst)),
              from_e4m3(uint8_t(codes >> 8 * kSecond)));
}

// ---- accesses of 16 bytes, so that vectorisation is a statement and not a hope ----
inline Vec4 load_16(const void* p) {
  emulator::check_aligned_16(p);
  return *static_cast<const Vec4*>(p);
}
inline void store_16(void* p, const Vec4& v) {
  emulator::check_aligned_16(p);
  *static_cast<Vec4*>(p) = v;
}

}  // namespace sluice::simt
