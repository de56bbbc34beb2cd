#pragma once

#include <memory>

#include "kernels/cuda/attention_work.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

namespace sluice::cuda {

// A step's attention work on the device, for all layers of one shape. Its memory stays where it is,
// so that a captured step finds the next step's lists in the place of its own. Owned by CudaOps;
// its thread only.
class AttentionLists {
 public:
  static size_t bytes(const AttentionShape&, const OpsLimits&);  // on the device
  AttentionLists(Runtime&, const AttentionShape&, const OpsLimits&, int64_t max_partials);

  // Plans the step and uploads the lists. `host`: arrays that may be read here and now.
  void plan(const AttnBatch& host, Stream);

  const AttentionShape& shape() const { return shape_; }
  int num_rounds() const { return int(work_.round_ends.size()); }
  int num_prefill_items() const { return int(work_.prefill.size()); }

  // On the device.
  const int32_t* num_items(int round) const { return device<int32_t>(at_.counts) + round; }
  const DecodeItem* decode_items(int round) const {
    return device<DecodeItem>(at_.decode) + (round == 0 ? 0 : work_.round_ends[size_t(round) - 1]);
  }
  const PrefillItem* prefill_items() const { return device<PrefillItem>(at_.prefill); }
  const int32_t* partial_of() const { return device<int32_t>(at_.partial_of); }
  const int32_t* table_stride() const { return device<int32_t>(at_.table_stride); }
  const int32_t* token_of() const { return device<int32_t>(at_.token_of); }

 private:
  // Bytes from the begin to each list. Those of prefill, which no captured step has, come behind
  // the decode items that there are: what is uploaded is one piece.
  struct Layout {
    size_t table_stride = 0, counts = 0, partial_of = 0, token_of = 0, decode = 0, prefill = 0;
    size_t end = 0;
    Layout(int64_t seqs, int64_t decode_items, int64_t prefill_items);
  };
  template <class T>
  const T* device(size_t at) const {
    return reinterpret_cast<const T*>(static_cast<const char*>(device_.get()) + at);
  }

  Runtime& runtime_;
  const AttentionShape shape_;
  const int64_t max_seqs_, max_partials_;
  const size_t capacity_;
  Layout at_;
  AttentionWork work_;
  const Device::Buffer device_;
  // What is uploaded, in turn: a step may be planned while the one before has yet to read its own.
  struct Staging {
    Device::Buffer memory;
    Event uploaded;
  };
  Staging staging_[2];
  int next_ = 0;
};

}  // namespace sluice::cuda
