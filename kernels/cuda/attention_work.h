#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/attention_prefill.h"

namespace sluice::cuda {

// Who computes what in one step's attention, of all layers with one window: sequences with one new
// token go to the decode kernel, the others to the prefill kernel. Made on the host, once a step.
struct AttentionWork {
  std::vector<DecodeItem> decode;
  std::vector<PrefillItem> prefill;  // the longest first, so that none is alone at the end
  std::vector<int32_t> partial_of;   // [sequences]
  std::vector<int32_t> token_of;     // [sequences]
  int64_t num_partials = 0;          // rows of head_dim that decode leaves between its chunks
};

// cu_q [sequences + 1] and seq_lens [sequences] as AttnBatch has them; a sequence without new
// tokens gets no work. `window`: as AttnParams. Allocates only where `work` never was so large.
void plan_attention(std::span<const int32_t> cu_q, std::span<const int32_t> seq_lens,
                    int num_kv_heads, int group, int window, AttentionWork& work);

}  // namespace sluice::cuda
