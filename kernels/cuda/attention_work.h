#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/attention_prefill.h"

namespace sluice::cuda {

// What the work of a layer depends on, beside the step.
struct AttentionShape {
  int num_kv_heads = 0;
  int group = 0;   // query heads to a kv head
  int window = 0;  // as AttnParams
  bool operator==(const AttentionShape&) const = default;
};

// Who computes what in one step's attention, of all layers of one shape: the first sequences, which
// decode, go to the decode kernel, and chunks of prompts to the prefill kernel, also those of one
// token: so a prompt gives the same bits however it is cut. Made on the host, once a step.
struct AttentionWork {
  std::vector<DecodeItem> decode;
  std::vector<int32_t> round_ends;   // decode items run in rounds; where each ends in `decode`
  std::vector<PrefillItem> prefill;  // the longest first, so that none is alone at the end
  std::vector<int32_t> partial_of;   // [sequences]
  std::vector<int32_t> token_of;     // [sequences]
  int64_t num_partials = 0;          // rows of head_dim that a round leaves between its chunks
};

// cu_q [sequences + 1], seq_lens [sequences] and num_decodes as AttnBatch has them; a sequence
// without new tokens gets no work. Rounds share the memory for partial results: none has more than
// `max_partials` of them, which suffices for every sequence alone. Allocates only where `work`
// never was so large.
void plan_attention(std::span<const int32_t> cu_q, std::span<const int32_t> seq_lens,
                    int num_decodes, const AttentionShape&, int64_t max_partials,
                    AttentionWork& work);

// Of one sequence of `tokens`.
int64_t num_partials(const AttentionShape&, int64_t tokens);
// Most items of decode for `sequences` of at most `tokens` each, and of prefill for that many new
// tokens in all.
int64_t most_decode_items(const AttentionShape&, int64_t sequences, int64_t tokens);
int64_t most_prefill_items(const AttentionShape&, int64_t sequences, int64_t new_tokens);

}  // namespace sluice::cuda
