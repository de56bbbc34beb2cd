#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "config/config.h"
#include "engine/model.h"
#include "engine/safetensors.h"
#include "kernels/device.h"

namespace sluice {

class KeyReader;

struct LoadOptions {
  std::optional<DType> dtype;  // of the linear layers in memory; absent: as stored
  int max_len = 0;             // positions to serve
  int threads = 1;             // that pack
  bool plan_only = false;      // check every tensor and count, but load none
};

// Where a family keeps the tensors of a decoder, without ".weight" and ".bias"; null: it has none.
// Defaults are Llama's.
struct TensorNames {
  const char* base = "model.";  // before all but the head; some files leave it out
  const char* embedding = "embed_tokens";
  const char* positions = nullptr;   // learned
  int first_position = 0;            // its row for position 0
  const char* layer = "layers.{}.";  // before all of the following, up to `down`
  // A norm before attention or MLP is of their input, one after it of their output.
  const char* before_attention = "input_layernorm";
  const char* after_attention = nullptr;
  const char* before_mlp = "post_attention_layernorm";
  const char* after_mlp = nullptr;
  const char* q = "self_attn.q_proj";  // or all of q, k and v
  const char* k = "self_attn.k_proj";
  const char* v = "self_attn.v_proj";
  const char* q_norm = "self_attn.q_norm";
  const char* k_norm = "self_attn.k_norm";
  const char* o = "self_attn.o_proj";
  const char* gate = "mlp.gate_proj";  // null: there is no gate, or it is in `up`
  const char* up = "mlp.up_proj";
  const char* down = "mlp.down_proj";
  const char* final_norm = "norm";
  const char* head = "lm_head";
  // How a fused q, k, v lies in its tensor: all queries, all keys, all values; or these of one KV
  // head after those of another.
  bool qkv_by_kv_head = false;
  bool transposed = false;  // linear layers of `layer` are stored as [in_features, out_features]
};

// An architecture, as config.json names it. Adding one that the decoder can compute is such a line
// beside its relatives' (llama.cc, gemma.cc, gpt.cc).
struct Family {
  const char* architecture;
  TensorNames names;
  // Sets the shape and the traits from config.json. What it does not take of the file is named in a
  // warning afterwards; what it cannot serve it refuses.
  void (*read)(KeyReader&, ModelConfig&);
};
std::span<const Family> llama_families();
std::span<const Family> gemma_families();

const Family* find_family(std::string_view architecture);
std::string supported_architectures();  // for messages

// Loads the directory `config.path` for `device` and logs what it takes. Refuses, with one line,
// what cannot be served.
absl::StatusOr<std::unique_ptr<Model>> load_model(const Config::Model& config, Device& device,
                                                  int threads);
// The same checks and a Model that answers everything except hidden() and logits(): no tensor is
// read and no memory taken. For memory plans.
absl::StatusOr<std::unique_ptr<Model>> plan_model(const Config::Model& config, Device& device);

}  // namespace sluice
