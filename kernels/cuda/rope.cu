#include "kernels/cuda/rope.h"

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

template <class T, class Kv>
void set_cache(QkvRows<T, Kv>& p, const KvView& cache, const Tensor& slots) {
  CHECK(cache.k.stride[0] == cache.v.stride[0] && cache.k.stride[1] == cache.v.stride[1] &&
        cache.k.stride[2] == cache.v.stride[2]);
  p.k_cache = cache.k.as<Kv>(), p.v_cache = cache.v.as<Kv>();
  p.k_inverse = 1 / cache.k_scale, p.v_inverse = 1 / cache.v_scale;
  p.block_stride = cache.k.stride[0], p.head_stride = cache.k.stride[1];
  p.slot_stride = cache.k.stride[2];
  p.block_size = int32_t(cache.k.shape[2]);
  p.slots = slots.as<int32_t>();
}

template <class T, class Kv>
void start(Stream stream, const QkvRows<T, Kv>& p, int64_t tokens) {
  CHECK(p.head_dim <= kMostHeadDim && p.rotary_dim <= p.head_dim && p.rotary_dim % 2 == 0);
  simt::launch<QkvRows<T, Kv>>(qkv_kernel<T, Kv>, {int(tokens), kQkvThreads, sizeof(QkvShared)},
                               stream, p);
}

}  // namespace

void rope(Stream stream, Tensor qk, Tensor positions, Tensor cos_sin) {
  dispatch(qk.dtype, [&]<class T>(T) {
    QkvRows<T, T> p{};
    p.q = qk.as<T>();
    p.q_token = qk.stride[0], p.q_head = qk.stride[1];
    p.num_heads = int32_t(qk.shape[1]), p.head_dim = int32_t(qk.shape[2]);
    p.rotary_dim = int32_t(cos_sin.shape[1]);
    p.cos_sin = cos_sin.as<float>(), p.positions = positions.as<int32_t>();
    start(stream, p, qk.shape[0]);
  });
}

void write_kv(Stream stream, KvView cache, Tensor k, Tensor v, Tensor slots) {
  dispatch(k.dtype, cache.k.dtype, [&]<class T, class Kv>(T, Kv) {
    QkvRows<T, Kv> p{};
    p.k = k.as<T>(), p.v = v.as<T>();
    p.k_token = k.stride[0], p.k_head = k.stride[1];
    p.v_token = v.stride[0], p.v_head = v.stride[1];
    p.num_keys = p.num_values = int32_t(k.shape[1]), p.head_dim = int32_t(k.shape[2]);
    set_cache(p, cache, slots);
    start(stream, p, k.shape[0]);
  });
}

void qkv_rope_write(Stream stream, Tensor qkv, const QkvParams& params, Tensor positions,
                    KvView cache, Tensor slots) {
  dispatch(qkv.dtype, cache.k.dtype, [&]<class T, class Kv>(T, Kv) {
    const int64_t dim = params.head_dim, k_at = params.num_heads * dim;
    const int64_t v_at = k_at + params.num_kv_heads * dim;
    QkvRows<T, Kv> p{};
    p.q = qkv.as<T>(), p.k = p.q + k_at, p.v = p.q + v_at;
    p.q_token = p.k_token = p.v_token = qkv.stride[0];
    p.q_head = p.k_head = p.v_head = dim;
    p.num_heads = params.num_heads, p.num_keys = p.num_values = params.num_kv_heads;
    p.head_dim = params.head_dim;
    p.rotary_dim = params.cos_sin ? int32_t(params.cos_sin.shape[1]) : 0;
    p.q_norm = params.q_norm.as<float>(), p.k_norm = params.k_norm.as<float>();
    p.eps = params.eps;
    p.cos_sin = params.cos_sin.as<float>(), p.positions = positions.as<int32_t>();
    set_cache(p, cache, slots);
    start(stream, p, qkv.shape[0]);
  });
}

}  // namespace sluice::cuda
