#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

template <class T, int D>
void start(Stream stream, const PrefillParams<T>& p, int num_items) {
  simt::launch<PrefillParams<T>>(attention_prefill_kernel<T, D>,
                                 {num_items, kPrefillThreads, sizeof(PrefillShared<T, D>)}, stream,
                                 p);
}

}  // namespace

template <class T>
void attention_prefill(Stream stream, const PrefillParams<T>& p, int head_dim, int num_items) {
  switch (head_dim) {
    case 32:
      return start<T, 32>(stream, p, num_items);
    case 64:
      return start<T, 64>(stream, p, num_items);
    case 96:
      return start<T, 96>(stream, p, num_items);
    case 128:
      return start<T, 128>(stream, p, num_items);
    case 256:
      return start<T, 256>(stream, p, num_items);
    default:
      CHECK(false);
  }
}
template void attention_prefill(Stream, const PrefillParams<simt::Bf16>&, int, int);
template void attention_prefill(Stream, const PrefillParams<simt::F16>&, int, int);

}  // namespace sluice::cuda
