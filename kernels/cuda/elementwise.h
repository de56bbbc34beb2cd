// Ops on elements alone: additions, and the gated activations.
#pragma once

#include "kernels/cuda/vector.h"

namespace sluice::cuda {

constexpr int kElementThreads = 256;

// out [rows, dim] = a + b. Strides of rows in elements; out may be a or b.
template <class T>
struct AddParams {
  T* out;
  const T* a;
  const T* b;
  int64_t out_stride, a_stride, b_stride;
  int32_t dim;
  int32_t parts;  // blocks of threads to a row
};

template <class T, int kVector>
SIMT_KERNEL(kElementThreads, 1)
add_kernel(AddParams<T> p) {
  simt::wait_for_earlier();
  const int64_t row = simt::block_id() / p.parts;
  const int part = simt::block_id() % p.parts;
  for (int i = (part * kElementThreads + simt::thread_id()) * kVector; i < p.dim;
       i += p.parts * kElementThreads * kVector) {
    float a[kVector], b[kVector];
    load<kVector>(a, p.a + row * p.a_stride + i);
    load<kVector>(b, p.b + row * p.b_stride + i);
    SIMT_UNROLL
    for (int k = 0; k < kVector; ++k) a[k] += b[k];
    store<kVector>(p.out + row * p.out_stride + i, a);
  }
}

// out [rows, dim] += bias.
template <class Out, class T>
struct AddBiasParams {
  Out* out;
  const T* bias;  // [dim]
  int64_t out_stride;
  int32_t dim;
  int32_t parts;
};

template <class Out, class T, int kVector>
SIMT_KERNEL(kElementThreads, 1)
add_bias_kernel(AddBiasParams<Out, T> p) {
  simt::wait_for_earlier();
  const int64_t row = simt::block_id() / p.parts;
  const int part = simt::block_id() % p.parts;
  for (int i = (part * kElementThreads + simt::thread_id()) * kVector; i < p.dim;
       i += p.parts * kElementThreads * kVector) {
    Out* out = p.out + row * p.out_stride + i;
    float bias[kVector];
    load<kVector>(bias, p.bias + i);
    if constexpr (sizeof(Out) == sizeof(float)) {  // logits
      SIMT_UNROLL
      for (int k = 0; k < kVector; ++k) out[k] += bias[k];
    } else {
      float x[kVector];
      load<kVector>(x, out);
      SIMT_UNROLL
      for (int k = 0; k < kVector; ++k) x[k] += bias[k];
      store<kVector>(out, x);
    }
  }
}

// silu(x) = x / (1 + exp(-x)); gelu_tanh as Gemma has it; gelu(x) = max(x, 0) - |x| * Phi(-|x|), by
// Abramowitz and Stegun's 7.1.26.
enum class Gate { none, silu, gelu, gelu_tanh, relu };

template <Gate kGate>
SIMT_DEVICE float activate(float x) {
  if constexpr (kGate == Gate::silu) {
    return x * simt::reciprocal(1 + simt::exp(-x));
  } else if constexpr (kGate == Gate::relu) {
    return simt::max(x, 0.0f);
  } else if constexpr (kGate == Gate::gelu) {
    const float size = simt::max(x, -x);
    const float t = simt::reciprocal(1 + 0.3275911f * 0.70710678f * size);
    const float p =
        t * (0.254829592f +
             t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    return simt::max(x, 0.0f) - size * 0.5f * p * simt::exp(-0.5f * size * size);
  } else {
    constexpr float kRootOf2OverPi = 0.7978845608028654f;
    return 0.5f * x * (1 + simt::tanh(kRootOf2OverPi * (x + 0.044715f * x * x * x)));
  }
}

// Where which one it is is not worth a kernel of its own.
SIMT_DEVICE float activate(Gate gate, float x) {
  switch (gate) {
    case Gate::silu:
      return activate<Gate::silu>(x);
    case Gate::gelu:
      return activate<Gate::gelu>(x);
    case Gate::gelu_tanh:
      return activate<Gate::gelu_tanh>(x);
    case Gate::relu:
      return activate<Gate::relu>(x);
    case Gate::none:
      break;
  }
  return x;
}

// x [rows, dim] = kGate(x).
template <class T>
struct ActivateParams {
  T* x;
  int64_t x_stride;
  int32_t dim;
  int32_t parts;
};

template <class T, Gate kGate, int kVector>
SIMT_KERNEL(kElementThreads, 1)
activate_kernel(ActivateParams<T> p) {
  simt::wait_for_earlier();
  const int64_t row = simt::block_id() / p.parts;
  const int part = simt::block_id() % p.parts;
  for (int i = (part * kElementThreads + simt::thread_id()) * kVector; i < p.dim;
       i += p.parts * kElementThreads * kVector) {
    float x[kVector];
    load<kVector>(x, p.x + row * p.x_stride + i);
    SIMT_UNROLL
    for (int k = 0; k < kVector; ++k) x[k] = activate<kGate>(x[k]);
    store<kVector>(p.x + row * p.x_stride + i, x);
  }
}

// x [rows, dim] *= factor; then, with softcap > 0, x = softcap * tanh(x / softcap).
template <class T>
struct ScaleParams {
  T* x;
  int64_t x_stride;
  int32_t dim;
  int32_t parts;
  float factor, softcap;
};

SIMT_DEVICE float scaled(float x, float factor, float softcap) {
  x *= factor;
  return softcap > 0 ? softcap * simt::tanh(x * simt::reciprocal(softcap)) : x;
}

template <class T>
SIMT_KERNEL(kElementThreads, 1)
scale_kernel(ScaleParams<T> p) {
  simt::wait_for_earlier();
  const int64_t row = simt::block_id() / p.parts;
  const int part = simt::block_id() % p.parts;
  T* x = p.x + row * p.x_stride;
  for (int i = part * kElementThreads + simt::thread_id(); i < p.dim;
       i += p.parts * kElementThreads) {
    if constexpr (sizeof(T) == sizeof(float)) {
      x[i] = scaled(x[i], p.factor, p.softcap);
    } else {
      simt::from_float(x[i], scaled(simt::to_float(x[i]), p.factor, p.softcap));
    }
  }
}

// out [rows, dim] = gate(x[:, :dim]) * x[:, dim:].
template <class T>
struct GateMulParams {
  T* out;
  const T* x;  // [rows, 2 * dim]
  int64_t out_stride, x_stride;
  int32_t dim;
  int32_t parts;
};

template <class T, Gate kGate, int kVector>
SIMT_KERNEL(kElementThreads, 1)
gate_mul_kernel(GateMulParams<T> p) {
  simt::wait_for_earlier();
  const int64_t row = simt::block_id() / p.parts;
  const int part = simt::block_id() % p.parts;
  const T* gate = p.x + row * p.x_stride;
  const T* up = gate + p.dim;
  for (int i = (part * kElementThreads + simt::thread_id()) * kVector; i < p.dim;
       i += p.parts * kElementThreads * kVector) {
    float g[kVector], u[kVector];
    load<kVector>(g, gate + i);
    load<kVector>(u, up + i);
    SIMT_UNROLL
    for (int k = 0; k < kVector; ++k) g[k] = activate<kGate>(g[k]) * u[k];
    store<kVector>(p.out + row * p.out_stride + i, g);
  }
}

}  // namespace sluice::cuda
