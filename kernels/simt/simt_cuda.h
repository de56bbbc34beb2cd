// The nvcc side of simt.h, which says what the calls mean. Included by it only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#define SIMT_KERNEL(max_threads, min_blocks) \
  __global__ void __launch_bounds__(max_threads, min_blocks)
#define SIMT_DEVICE __device__ __forceinline__
#define SIMT_UNROLL _Pragma("unroll")

namespace sluice::simt {

// ---- who am I ----
SIMT_DEVICE int thread_id() { return int(threadIdx.x); }
SIMT_DEVICE int num_threads() { return int(blockDim.x); }
SIMT_DEVICE int lane_id() { return int(threadIdx.x % 32); }
SIMT_DEVICE int warp_id() { return int(threadIdx.x / 32); }
SIMT_DEVICE int block_id() { return int(blockIdx.x); }
SIMT_DEVICE int num_blocks() { return int(gridDim.x); }

template <class T>
SIMT_DEVICE T& shared() {
  extern __shared__ __align__(128) unsigned char simt_shared_bytes[];
  return *reinterpret_cast<T*>(simt_shared_bytes);
}

// ---- kernels that overlap ----
// The next one may come as soon as all blocks of this one are here: not sooner, so that no two wait
// at a time, and what it then waits for is the end of this one and with it of all before.
SIMT_DEVICE void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// ---- barriers ----
SIMT_DEVICE void sync_block() { __syncthreads(); }
SIMT_DEVICE void sync_warp() { __syncwarp(); }
SIMT_DEVICE void sync_named(int id, int num_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

// ---- warp registers ----
template <class T>
SIMT_DEVICE T shuffle(T v, int source_lane) {
  return __shfl_sync(~0u, v, source_lane);
}
template <class T>
SIMT_DEVICE T shuffle_xor(T v, int mask) {
  return __shfl_xor_sync(~0u, v, mask);
}
SIMT_DEVICE uint32_t ballot(bool v) { return __ballot_sync(~0u, v); }

// ---- atomics ----
SIMT_DEVICE uint32_t atomic_add_acq_rel(uint32_t* p, uint32_t v) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(__cvta_generic_to_global(p)), "r"(v)
               : "memory");
  return old;
}

// An intrinsic, unlike the one above: the compiler may move other accesses across it.
SIMT_DEVICE uint32_t atomic_add_shared(uint32_t* p, uint32_t v) { return atomicAdd(p, v); }

// ---- asynchronous copies ----
SIMT_DEVICE void cp_async_16(void* dst, const void* src, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(dst))),
               "l"(__cvta_generic_to_global(src)), "r"(valid ? 16 : 0)
               : "memory");
}
SIMT_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
SIMT_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- tensor cores ----
// Volatile, all of them: the compiler must not sink an instruction of the whole warp into a branch.
SIMT_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
SIMT_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
SIMT_DEVICE uint32_t movmatrix_trans(uint32_t v) {
  uint32_t r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
  return r;
}
SIMT_DEVICE void mma(Bf16, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
SIMT_DEVICE void mma(F16, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- arithmetic with a chosen instruction ----
SIMT_DEVICE float exp2_approx(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
SIMT_DEVICE float log2_approx(float x) {
  float r;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
SIMT_DEVICE float reciprocal(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
SIMT_DEVICE float rsqrt(float x) { return rsqrtf(x); }
SIMT_DEVICE float max(float a, float b) { return fmaxf(a, b); }
SIMT_DEVICE float neg_infinity() { return __int_as_float(0xff800000); }
SIMT_DEVICE uint64_t mul_high(uint64_t a, uint64_t b) { return __umul64hi(a, b); }

// ---- 16-bit floats ----
SIMT_DEVICE float to_float(Bf16 v) { return __uint_as_float(uint32_t(v.bits) << 16); }
SIMT_DEVICE float to_float(F16 v) { return __half2float(__ushort_as_half(v.bits)); }
SIMT_DEVICE void from_float(Bf16& to, float v) {
  to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v));
}
SIMT_DEVICE void from_float(F16& to, float v) { to.bits = __half_as_ushort(__float2half_rn(v)); }
SIMT_DEVICE uint32_t pack(Bf16, float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
SIMT_DEVICE uint32_t pack(F16, float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// ---- 8-bit floats ----
// An instruction from sm_89 on, and the header's own arithmetic before.
SIMT_DEVICE uint32_t pack_e4m3(float a, float b, float c, float d) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
  const uint32_t high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}
SIMT_DEVICE void from_float(E4m3& to, float v) {
  to.bits = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
}
// Two bytes as the upper ones of two 16-bit words.
template <int kFirst, int kSecond>
SIMT_DEVICE uint32_t upper_bytes(uint32_t codes) {
  return __byte_perm(codes, 0, 0x0404 | kFirst << 4 | kSecond << 12);
}
// A code's exponent and mantissa a few places lower are those of a 16-bit float, subnormal ones
// too, but for the bias, which a product makes up for: exact, on every chip, and cheaper than
// the conversions there are.
template <int kFirst, int kSecond>
SIMT_DEVICE uint32_t widen_e4m3(Bf16, uint32_t codes) {
  const uint32_t upper = upper_bytes<kFirst, kSecond>(codes);
  const uint32_t bits = (upper & 0x80008000) | (upper & 0x7f007f00) >> 4;
  uint32_t r;  // times 2^120, plus -0
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(bits), "r"(0x7b807b80), "r"(0x80008000));
  return r;
}
template <int kFirst, int kSecond>
SIMT_DEVICE uint32_t widen_e4m3(F16, uint32_t codes) {
  const uint32_t upper = upper_bytes<kFirst, kSecond>(codes);
  const uint32_t bits = (upper & 0x80008000) | (upper & 0x7f007f00) >> 1;
  uint32_t r;  // times 2^8
  asm("mul.f16x2 %0, %1, %2;" : "=r"(r) : "r"(bits), "r"(0x5c005c00));
  return r;
}

// ---- accesses of 16 bytes ----
SIMT_DEVICE Vec4 load_16(const void* p) {
  const uint4 v = *static_cast<const uint4*>(p);
  return {v.x, v.y, v.z, v.w};
}
SIMT_DEVICE void store_16(void* p, const Vec4& v) {
  *static_cast<uint4*>(p) = make_uint4(v.x, v.y, v.z, v.w);
}

}  // namespace sluice::simt
