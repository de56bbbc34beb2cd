#pragma once

#include <string>

#include "engine/model.h"
#include "engine/weights.h"

namespace sluice {

// The mixture of experts in the place of a layer's MLP (Shazeer et al. 2017): gated SiLUs, of which
// each token takes the likeliest few, and one more for all where the model has a shared expert.
struct ExpertLayer {
  Weight router;       // [experts, hidden]; [experts + 1, hidden] with a shared expert's gate
  Weight up;           // [experts * 2 * ffn, hidden]: of each expert the gate, then up
  Weight down;         // [experts * hidden, ffn]
  Weight shared_up;    // [2 * shared ffn, hidden]
  Weight shared_down;  // [hidden, shared ffn]

  // `at`: the layer's prefix.
  void list(WeightList&, const ModelConfig&, const std::string& at);

  // Scratch of one step.
  struct Buffers {
    Tensor logits;         // f32 [num_tokens, rows of the router]
    Tensor experts;        // i32 [num_tokens, experts of a token]
    Tensor weights;        // f32, the same
    Tensor up, activated;  // [num_tokens * experts of a token, 2 * ffn], [.., ffn]
    Tensor out;            // [.., hidden]
    Tensor shared_up, shared_activated, shared_out;
  };
  static Buffers take(Arena&, DType act, const ModelConfig&, int64_t num_tokens);

  // out [num_tokens, hidden] = the mixture of x. Not in place.
  void run(Ops&, const ModelConfig&, Tensor out, Tensor x, const Buffers&) const;
};

}  // namespace sluice
