#include "kernels/cuda/runtime.h"

#include <cstdio>
#include <cstdlib>

namespace sluice::cuda {

Device::Buffer allocate(Runtime& runtime, size_t bytes, Memory kind) {
  void* p = runtime.allocate(bytes, kind);
  if (p == nullptr) {
    std::fprintf(stderr, "out of memory: cannot allocate %zu bytes on %s\n", bytes,
                 kind == Memory::device ? runtime.info().name.c_str() : "the host, pinned");
    std::abort();
  }
  return {p, [&runtime, kind](void* q) { runtime.release(q, kind); }};
}

}  // namespace sluice::cuda
