#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

constexpr int kMostRows = 16;

template <class T, int D, int kRows>
void start(Stream stream, const DecodeParams<T>& p, int blocks) {
  simt::launch<DecodeParams<T>>(attention_decode_kernel<T, D, kRows>,
                                {blocks, kDecodeThreads, sizeof(DecodeShared<T, D, kRows>)}, stream,
                                p);
}

template <class T, int D>
void start(Stream stream, const DecodeParams<T>& p, int blocks) {
  p.group <= 8 ? start<T, D, 8>(stream, p, blocks) : start<T, D, kMostRows>(stream, p, blocks);
}

}  // namespace

template <class T>
void attention_decode(Stream stream, const DecodeParams<T>& p, int head_dim, int blocks) {
  CHECK(p.group >= 1 && p.group <= kMostRows);
  switch (head_dim) {
    case 32:
      return start<T, 32>(stream, p, blocks);
    case 64:
      return start<T, 64>(stream, p, blocks);
    case 96:
      return start<T, 96>(stream, p, blocks);
    case 128:
      return start<T, 128>(stream, p, blocks);
    case 256:
      return start<T, 256>(stream, p, blocks);
    default:
      CHECK(false);
  }
}
template void attention_decode(Stream, const DecodeParams<simt::Bf16>&, int, int);
template void attention_decode(Stream, const DecodeParams<simt::F16>&, int, int);

}  // namespace sluice::cuda
