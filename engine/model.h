#pragma once

#include <cstddef>

#include "engine/arena.h"
#include "engine/model_config.h"
#include "kernels/comm.h"
#include "kernels/ops.h"
#include "kvcache/kv_store.h"

namespace sluice {

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
//
// A step: scratch.reset(), hidden(), then logits() of the rows that want them. Tensors returned
// live in the context's scratch until its next reset(). Nothing is allocated. Engine thread only.
class Model {
 public:
  virtual ~Model() = default;
  // Layers of this stage: token ids (i32 [num_tokens]) in on the first stage, hidden states
  // otherwise. positions: i32 [num_tokens], each below max_len(). Returns [num_tokens, hidden].
  virtual Tensor hidden(const ForwardContext&, Tensor ids_or_hidden, Tensor positions) = 0;
  // Final norm and head for the wanted rows (i32 [num_rows], indices into hidden):
  // f32 [num_rows, vocab].
  virtual Tensor logits(const ForwardContext&, Tensor hidden, Tensor rows) = 0;

  // What the directory says: vocabulary, eos ids, sampling defaults.
  virtual const ModelConfig& config() const = 0;
  // Positions that can be served: the model's own limit, or the smaller one asked for.
  virtual int max_len() const = 0;
  // Layers, head sizes and scales. block_size and dtype are the cache's choice: the runner sets
  // them.
  virtual KvShape kv_shape() const = 0;
  // What its layers ask of attention: each number of heads once.
  virtual std::vector<AttentionHeads> heads() const = 0;
  // Of the linear layers in memory; f32 only if all are. Decides what `cache.dtype = auto` means,
  // unless config().fp8_cache does.
  virtual DType weight_dtype() const = 0;
  // Most inputs of a layer that multiplies in fp8 (OpsLimits::max_fp8_inputs).
  virtual int max_fp8_inputs() const = 0;
  // Device memory held: packed weights, norms and the rotary table.
  virtual size_t weight_bytes() const = 0;
  // What hidden() of max_tokens rows and logits() of max_logit_rows of them take of the Arena.
  // The runner adds what it takes itself.
  virtual size_t scratch_bytes(int64_t max_tokens, int64_t max_logit_rows) const = 0;
};

}  // namespace sluice
