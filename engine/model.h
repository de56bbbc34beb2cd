#pragma once

#include "kernels/comm.h"
#include "kernels/ops.h"
#include "kvcache/kv_store.h"

namespace sluice {

class Arena;  // bump allocator over one device buffer, reset every step

// Everything a forward pass may touch. Passed explicitly; there is no global context.
struct ForwardContext {
  Ops& ops;
  Comm& comm;
  KvStore& kv;
  Arena& scratch;
  const AttnBatch& attn;
};

// One class per architecture family, written once for all devices against Ops.
// Weights are members; hidden() is a straight-line read of the paper.
class Model {
 public:
  virtual ~Model() = default;
  // Layers of this stage: token ids in on the first stage, hidden states otherwise.
  // Returns [num_tokens, hidden].
  virtual Tensor hidden(const ForwardContext&, Tensor ids_or_hidden, Tensor positions) = 0;
  // Final norm and head for the wanted rows: f32 [num_rows, vocab].
  virtual Tensor logits(const ForwardContext&, Tensor hidden, Tensor rows) = 0;
  virtual KvShape kv_shape() const = 0;
};

}  // namespace sluice
