#include "kernels/cuda/attention_launch.h"

namespace sluice::cuda {

template void attention_prefill(Stream, const PrefillParams<simt::Bf16, simt::Bf16>&, int, int);
template void attention_prefill(Stream, const PrefillParams<simt::F16, simt::F16>&, int, int);

}  // namespace sluice::cuda
