#pragma once

#include "base/check.h"
#include "kernels/simt/simt.h"
#include "kernels/tensor.h"

namespace sluice::cuda {

// f(T{}) for the type that an activation of `dtype` has in kernels.
template <class F>
void dispatch(DType dtype, F&& f) {
  CHECK(dtype == DType::bf16 || dtype == DType::f16);
  if (dtype == DType::bf16) {
    f(simt::Bf16{});
  } else {
    f(simt::F16{});
  }
}

// f(T{}, Kept{}): also of a cache or weights, whose type is the activation's or fp8_e4m3.
template <class F>
void dispatch(DType dtype, DType kept, F&& f) {
  CHECK(kept == dtype || kept == DType::fp8_e4m3);
  dispatch(dtype, [&]<class T>(T t) {
    if (kept == dtype) {
      f(t, t);
    } else {
      f(t, simt::E4m3{});
    }
  });
}

// Whether rows of `width` elements may be read 16 bytes at a time: of the last dimension of each.
inline bool wide(int64_t width, std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* t : tensors) {
    if (!*t) continue;
    const int64_t unit = 128 / bits_of(t->dtype);  // elements
    if (width % unit != 0 || reinterpret_cast<uintptr_t>(t->data) % 16 != 0) return false;
    for (int i = 0; i + 1 < t->rank; ++i) {
      if (t->stride[size_t(i)] % unit != 0) return false;
    }
  }
  return true;
}

}  // namespace sluice::cuda
