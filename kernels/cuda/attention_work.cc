#include "kernels/cuda/attention_work.h"

#include <algorithm>

namespace sluice::cuda {
namespace {

void add_decode(int sequence, int seq_len, int num_kv_heads, int group, int window,
                AttentionWork& work) {
  const int visible = window > 0 ? std::max(seq_len - window, 0) : 0;
  const int first = visible / kDecodeChunk, end = (seq_len + kDecodeChunk - 1) / kDecodeChunk;
  work.partial_of.back() = int32_t(work.num_partials);
  if (end - first > 1) work.num_partials += int64_t{end - first} * num_kv_heads * group;
  for (int head = 0; head < num_kv_heads; ++head) {
    for (int chunk = first; chunk < end; ++chunk)
      work.decode.push_back({sequence, head, chunk, first});
  }
}

}  // namespace

void plan_attention(std::span<const int32_t> cu_q, std::span<const int32_t> seq_lens,
                    int num_kv_heads, int group, int window, AttentionWork& work) {
  work.decode.clear(), work.prefill.clear(), work.partial_of.clear(), work.token_of.clear();
  work.num_partials = 0;
  for (int s = 0; s < int(seq_lens.size()); ++s) {
    const int num_queries = cu_q[size_t(s) + 1] - cu_q[size_t(s)];
    work.partial_of.push_back(0);
    work.token_of.push_back(cu_q[size_t(s)]);
    if (num_queries == 1) {
      add_decode(s, seq_lens[size_t(s)], num_kv_heads, group, window, work);
      continue;
    }
    for (int row = 0; row < num_queries * group; row += kPrefillRows) {
      for (int head = 0; head < num_kv_heads; ++head) work.prefill.push_back({s, head, row, 0});
    }
  }
  // By how far into its context an item's last row is.
  const auto end_of = [&](const PrefillItem& item) {
    const size_t s = size_t(item.sequence);
    const int num_queries = cu_q[s + 1] - cu_q[s];
    const int last = std::min(item.first_row + kPrefillRows, num_queries * group) - 1;
    return seq_lens[s] - num_queries + last / group;
  };
  std::stable_sort(
      work.prefill.begin(), work.prefill.end(),
      [&](const PrefillItem& a, const PrefillItem& b) { return end_of(a) > end_of(b); });
}

}  // namespace sluice::cuda
