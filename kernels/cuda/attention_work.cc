#include "kernels/cuda/attention_work.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"

namespace sluice::cuda {
namespace {

int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

void add_decode(int sequence, int seq_len, const AttentionShape& shape, int64_t max_partials,
                AttentionWork& work, int64_t& partials) {
  const int visible = shape.window > 0 ? std::max(seq_len - shape.window, 0) : 0;
  const int first = visible / kDecodeChunk, end = int(ceil_div(seq_len, kDecodeChunk));
  const int64_t mine =
      end - first > 1 ? int64_t{end - first} * shape.num_kv_heads * shape.group : 0;
  CHECK(mine <= max_partials);
  if (partials + mine > max_partials) {  // a new round
    work.round_ends.push_back(int32_t(work.decode.size()));
    partials = 0;
  }
  work.partial_of.back() = int32_t(partials);
  partials += mine;
  work.num_partials = std::max(work.num_partials, partials);
  for (int head = 0; head < shape.num_kv_heads; ++head) {
    for (int chunk = first; chunk < end; ++chunk)
      work.decode.push_back({sequence, head, chunk, first});
  }
}

}  // namespace

void plan_attention(std::span<const int32_t> cu_q, std::span<const int32_t> seq_lens,
                    int num_decodes, const AttentionShape& shape, int64_t max_partials,
                    AttentionWork& work) {
  work.decode.clear(), work.round_ends.clear(), work.prefill.clear();
  work.partial_of.clear(), work.token_of.clear();
  work.num_partials = 0;
  int64_t partials = 0;  // of the round
  for (int s = 0; s < int(seq_lens.size()); ++s) {
    const int num_queries = cu_q[size_t(s) + 1] - cu_q[size_t(s)];
    work.partial_of.push_back(0);
    work.token_of.push_back(cu_q[size_t(s)]);
    if (s < num_decodes) {
      CHECK(num_queries == 1);
      add_decode(s, seq_lens[size_t(s)], shape, max_partials, work, partials);
      continue;
    }
    for (int row = 0; row < num_queries * shape.group; row += kPrefillRows) {
      for (int head = 0; head < shape.num_kv_heads; ++head)
        work.prefill.push_back({s, head, row, 0});
    }
  }
  if (!work.decode.empty()) work.round_ends.push_back(int32_t(work.decode.size()));
  // By how far into its context an item's last row is.
  const auto end_of = [&](const PrefillItem& item) {
    const size_t s = size_t(item.sequence);
    const int num_queries = cu_q[s + 1] - cu_q[s];
    const int last = std::min(item.first_row + kPrefillRows, num_queries * shape.group) - 1;
    return seq_lens[s] - num_queries + last / shape.group;
  };
  // Of equals the earlier one first: a stable sort would allocate.
  std::sort(work.prefill.begin(), work.prefill.end(),
            [&](const PrefillItem& a, const PrefillItem& b) {
              const int left = end_of(a), right = end_of(b);
              return left != right ? left > right
                                   : std::tie(a.sequence, a.first_row, a.kv_head) <
                                         std::tie(b.sequence, b.first_row, b.kv_head);
            });
}

int64_t num_partials(const AttentionShape& shape, int64_t tokens) {
  return ceil_div(tokens, kDecodeChunk) * shape.num_kv_heads * shape.group;
}

int64_t most_decode_items(const AttentionShape& shape, int64_t sequences, int64_t tokens) {
  return sequences * ceil_div(tokens, kDecodeChunk) * shape.num_kv_heads;
}

int64_t most_prefill_items(const AttentionShape& shape, int64_t sequences, int64_t new_tokens) {
  return (sequences + ceil_div(new_tokens * shape.group, kPrefillRows)) * shape.num_kv_heads;
}

}  // namespace sluice::cuda
