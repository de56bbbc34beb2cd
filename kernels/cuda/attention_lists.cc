#include "kernels/cuda/attention_lists.h"

#include <cstring>

#include "base/check.h"

namespace sluice::cuda {
namespace {

size_t rounded(size_t bytes) { return (bytes + 63) & ~size_t{63}; }

template <class T>
void put(char* to, const std::vector<T>& from) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size() * sizeof(T));
}

}  // namespace

AttentionLists::Layout::Layout(int64_t seqs, int64_t decode_items, int64_t prefill_items) {
  const size_t row = rounded(size_t(seqs) * sizeof(int32_t));
  counts = table_stride + rounded(sizeof(int32_t));
  partial_of = counts + row;
  token_of = partial_of + row;
  decode = token_of + row;
  prefill = decode + rounded(size_t(decode_items) * sizeof(DecodeItem));
  end = prefill + rounded(size_t(prefill_items) * sizeof(PrefillItem));
}

size_t AttentionLists::bytes(const AttentionShape& shape, const OpsLimits& l) {
  return Layout(l.max_seqs, most_decode_items(shape, l.max_seqs, l.max_context),
                most_prefill_items(shape, l.max_seqs, l.max_tokens))
      .end;
}

AttentionLists::AttentionLists(Runtime& runtime, const AttentionShape& shape, const OpsLimits& l,
                               int64_t max_partials)
    : runtime_(runtime),
      shape_(shape),
      max_seqs_(l.max_seqs),
      max_partials_(max_partials),
      capacity_(bytes(shape, l)),
      at_(l.max_seqs, 0, 0),
      device_(allocate(runtime, capacity_, Memory::device)) {
  work_.decode.reserve(size_t(most_decode_items(shape, l.max_seqs, l.max_context)));
  work_.prefill.reserve(size_t(most_prefill_items(shape, l.max_seqs, l.max_tokens)));
  for (auto* list : {&work_.round_ends, &work_.partial_of, &work_.token_of})
    list->reserve(size_t(l.max_seqs));
  for (Staging& s : staging_)
    s = {allocate(runtime, capacity_, Memory::pinned_host), runtime.make_event()};
}

void AttentionLists::plan(const AttnBatch& host, Stream stream) {
  const auto seqs = size_t(host.num_seqs);
  CHECK(int64_t(seqs) <= max_seqs_);
  plan_attention({host.cu_q.as<const int32_t>(), seqs + 1},
                 {host.seq_lens.as<const int32_t>(), seqs}, host.num_decodes, shape_, max_partials_,
                 work_);
  at_ = Layout(max_seqs_, int64_t(work_.decode.size()), int64_t(work_.prefill.size()));
  CHECK(at_.end <= capacity_);
  Staging& staging = staging_[next_];
  next_ = 1 - next_;
  runtime_.sync(staging.uploaded);
  auto* memory = static_cast<char*>(staging.memory.get());
  *reinterpret_cast<int32_t*>(memory + at_.table_stride) =
      int32_t(host.block_tables.stride[0] / host.num_tables);
  auto* counts = reinterpret_cast<int32_t*>(memory + at_.counts);
  for (int round = 0, begin = 0; round < num_rounds(); begin = work_.round_ends[size_t(round++)])
    counts[round] = work_.round_ends[size_t(round)] - begin;
  put(memory + at_.partial_of, work_.partial_of);
  put(memory + at_.token_of, work_.token_of);
  put(memory + at_.decode, work_.decode);
  put(memory + at_.prefill, work_.prefill);
  runtime_.copy(device_.get(), memory, at_.end, stream);
  runtime_.record(staging.uploaded, stream);
}

}  // namespace sluice::cuda
