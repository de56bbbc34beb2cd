// The starts of both attentions, for whoever instantiates them: a file for each and each type of
// cache, since compilers take their time over them.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {

template <class T, class Kv, int D>
void start_decode(Stream stream, const DecodeParams<T, Kv>& p, int blocks) {
  const auto start = [&]<int kRows>() {
    simt::launch<DecodeParams<T, Kv>>(attention_decode_kernel<T, Kv, D, kRows>,
                                      {blocks, kDecodeThreads, sizeof(DecodeShared<Kv, D, kRows>)},
                                      stream, p);
  };
  p.group <= 8 ? start.template operator()<8>() : start.template operator()<16>();
}

template <class T, class Kv, int D>
void start_prefill(Stream stream, const PrefillParams<T, Kv>& p, int num_items) {
  simt::launch<PrefillParams<T, Kv>>(attention_prefill_kernel<T, Kv, D>,
                                     {num_items, kPrefillThreads, sizeof(PrefillShared<T, Kv, D>)},
                                     stream, p);
}

template <class T, class Kv>
void attention_decode(Stream stream, const DecodeParams<T, Kv>& p, int head_dim, int blocks) {
  CHECK(p.group >= 1 && p.group <= 16);
  switch (head_dim) {
    case 32:
      return start_decode<T, Kv, 32>(stream, p, blocks);
    case 64:
      return start_decode<T, Kv, 64>(stream, p, blocks);
    case 96:
      return start_decode<T, Kv, 96>(stream, p, blocks);
    case 128:
      return start_decode<T, Kv, 128>(stream, p, blocks);
    case 256:
      return start_decode<T, Kv, 256>(stream, p, blocks);
    default:
      CHECK(false);
  }
}

template <class T, class Kv>
void attention_prefill(Stream stream, const PrefillParams<T, Kv>& p, int head_dim, int num_items) {
  switch (head_dim) {
    case 32:
      return start_prefill<T, Kv, 32>(stream, p, num_items);
    case 64:
      return start_prefill<T, Kv, 64>(stream, p, num_items);
    case 96:
      return start_prefill<T, Kv, 96>(stream, p, num_items);
    case 128:
      return start_prefill<T, Kv, 128>(stream, p, num_items);
    case 256:
      return start_prefill<T, Kv, 256>(stream, p, num_items);
    default:
      CHECK(false);
  }
}

}  // namespace sluice::cuda
