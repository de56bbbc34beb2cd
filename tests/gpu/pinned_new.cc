// Replaces operator new by one whose memory a GPU reads and writes as it stands: pinned host
// memory. So the tests of kernels, which keep their arrays in vectors, run on the chip as they run
// on the emulator. From one block, in sizes of powers of two that are kept for reuse.
#include <cuda_runtime.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>

namespace {

constexpr size_t kBlock = size_t{1} << 30, kLeast = 64;

struct Pool {
  std::mutex mutex;
  char* next = nullptr;
  char* end = nullptr;
  void* free[64] = {};  // by log2 of the size, each the head of a list

  Pool() {
    void* block = nullptr;
    if (cudaHostAlloc(&block, kBlock, cudaHostAllocPortable) != cudaSuccess) {
      std::fprintf(stderr, "skipped: no usable GPU\n");
      std::_Exit(77);
    }
    next = static_cast<char*>(block), end = next + kBlock;
  }
  void* take(size_t size) {
    const size_t rounded = std::bit_ceil(size < kLeast ? kLeast : size);
    const int list = std::countr_zero(rounded);
    std::lock_guard lock(mutex);
    if (void* p = free[list]) {
      free[list] = *static_cast<void**>(p);
      return p;
    }
    if (rounded + kLeast > size_t(end - next)) std::abort();
    // Its size lies in front of it, and it on the border of a cache line.
    *reinterpret_cast<int*>(next) = list;
    void* p = next + kLeast;
    next += rounded + kLeast;
    return p;
  }
  void give(void* p) {
    const int list = *reinterpret_cast<int*>(static_cast<char*>(p) - kLeast);
    std::lock_guard lock(mutex);
    *static_cast<void**>(p) = free[list];
    free[list] = p;
  }
};

Pool& pool() {
  static Pool* all = new (std::malloc(sizeof(Pool))) Pool;  // never destroyed
  return *all;
}

}  // namespace

void* operator new(size_t size) { return pool().take(size); }
void* operator new(size_t size, std::align_val_t) { return pool().take(size); }
void operator delete(void* p) noexcept {
  if (p != nullptr) pool().give(p);
}
void operator delete(void* p, size_t) noexcept { operator delete(p); }
void operator delete(void* p, std::align_val_t) noexcept { operator delete(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { operator delete(p); }
