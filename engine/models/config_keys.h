#pragma once

#include <initializer_list>

#include "engine/model_config.h"

// What families share in reading config.json.
namespace sluice {

class KeyReader;  // engine/json_util.h

// The keys of a decoder's shape. Defaults are those that most families use. Heads and MLP may be
// lists, of a size for each layer; they may also be beside the key, as "<key>_per_layer".
struct ShapeKeys {
  const char* num_layers = "num_hidden_layers";
  const char* hidden_size = "hidden_size";
  const char* ffn_size = "intermediate_size";  // null: by default_ffn
  const char* num_heads = "num_attention_heads";
  const char* num_kv_heads = "num_key_value_heads";  // null: as many as heads
  const char* max_positions = "max_position_embeddings";
  const char* head_dim = "head_dim";  // null: hidden_size / heads
  const char* eps = "rms_norm_eps";
  int default_head_dim = 0;   // 0: hidden_size / heads
  int default_ffn = 0;        // 0: the key must be there; n: n times hidden_size
  double default_eps = 0;     // 0: the key must be there
  int default_positions = 0;  // likewise, and the following
  int default_heads = 0, default_kv_heads = 0, default_vocab = 0;
};
// Also attention_scale, to 1 / sqrt(head_dim), and `layers`, to full attention.
void read_shape(KeyReader&, const ShapeKeys&, ModelConfig&);

// Scores with linear biases. Slopes go from 2^-(max / heads) down to 2^-max, all times `factor`
// (Press et al. 2022; where heads are no power of two, further slopes lie between those).
void set_alibi(KeyReader&, double max, double factor, ModelConfig&);

// Whether and where config.json asks for a sliding window. `layer_types`, where it is there, must
// agree, or decides where `by_layer_types` says so.
struct WindowRule {
  enum class When { never, if_set, if_used } when = When::never;
  int if_absent = 0;            // what leaving out "sliding_window" means; 0: none
  bool by_layer_types = false;  // layers may differ
  int pattern = 1;              // n > 1: every n-th layer sees everything
};
void read_windows(KeyReader&, const WindowRule&, ModelConfig&);

// `rope_parameters` (newer files, theta inside) or `rope_scaling` beside `rope_theta`. The
// family rotates `partial_rotary_factor` of each head, `share` where that is not there; 0: all of
// it, always.
void read_rope(KeyReader&, double share, ModelConfig&);
// The object under `key` of `parent`; `theta` is what it means to leave that, or all, out.
RopeConfig read_rope_object(KeyReader& parent, const char* key, double theta, ModelConfig&);

// Keys by which some models differ and which the family did not read: a file that sets one asks for
// another model than would be computed, and is refused.
void refuse_other_traits(KeyReader&, const ModelConfig&);

// The activation under `key`, one of `supported`.
Activation read_activation(KeyReader&, const char* key, const char* fallback,
                           std::initializer_list<Activation> supported);

}  // namespace sluice
