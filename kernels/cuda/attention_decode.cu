#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

template <class T, int D, int kRows>
void start(Stream stream, const DecodeParams<T>& p, int blocks) {
  simt::launch<DecodeParams<T>>(attention_decode_kernel<T, D, kRows>,
                                {blocks, kDecodeThreads, sizeof(DecodeShared<T, D, kRows>)}, stream,
                                p);
}

template <class T, int D>
void start(Stream stream, const DecodeParams<T>& p, int blocks) {
  p.group <= 8 ? start<T, D, 8>(stream, p, blocks) : start<T, D, 16>(stream, p, blocks);
}

}  // namespace

bool attention_supports(int head_dim, int group) {
  const bool head = head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256;
  return head && group >= 1 && group <= 16;
}

template <class T>
void attention_decode(Stream stream, const DecodeParams<T>& p, int head_dim, int blocks) {
  switch (head_dim) {
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
