// config.json and, behind a zero byte, generation_config.json, up to the tensors that they ask for.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "engine/layers.h"
#include "engine/model_config.h"
#include "engine/models/dense.h"
#include "tests/fuzz/files.h"

namespace sluice {
namespace {

void check_rope(const RopeConfig& rope, const ModelConfig& c) {
  for (const double frequency : rope_frequencies(rope, c.rotary_dim, c.max_positions))
    CHECK(std::isfinite(frequency) && frequency >= 0);
  CHECK(std::isfinite(rope.attention_factor));
}

void check_served(const ModelConfig& c) {
  CHECK(c.head_dim >= 2 && c.rotary_dim <= c.head_dim);
  CHECK(c.layers.size() == size_t(c.num_layers) && c.max_positions > 0);
  using Part = LayerConfig::Part;
  CHECK(c.most(&LayerConfig::num_heads) > 0);
  for (const LayerConfig& layer : c.layers) {
    CHECK((layer.num_heads > 0) == (layer.attention == Part::whole));
    CHECK((layer.num_kv_heads > 0) == (layer.attention == Part::whole));
    CHECK((layer.ffn_size > 0) == (layer.mlp == Part::whole));
    if (layer.num_kv_heads > 0) CHECK(layer.num_heads % layer.num_kv_heads == 0);
    if (!c.alibi.empty()) CHECK(c.alibi.size() == size_t(layer.num_heads));
  }
  CHECK(std::isfinite(c.attention_scale) && std::isfinite(c.embedding_scale) &&
        std::isfinite(c.residual_scale) && std::isfinite(c.logits_scale));
  for (const TokenId id : c.eos_ids) CHECK(id >= 0 && id < c.vocab_size);
  if (c.rotary_dim > 0) {
    check_rope(c.rope, c);
    check_rope(c.local_rope, c);
  }
}

}  // namespace

void fuzz_one(std::string_view input) {
  static const FuzzDir dir;
  const TwoFiles files(input);
  dir.put("config.json", files.first);
  dir.put("generation_config.json", files.second.empty() ? "{}" : files.second);
  const ConfigReview review = review_model_config(dir.path());
  const ModelConfig& c = review.config;
  for (const absl::Status& problem : review.problems) check_line(problem);
  for (const std::string& warning : c.warnings) check_line(warning);
  CHECK(read_model_config(dir.path()).ok() == review.problems.empty());
  if (review.problems.empty()) check_served(c);
  // As many tensors as a file asks for: what is too slow to list a thousand times a second is left
  // out.
  if (!review.has_sizes || c.num_layers * std::max(c.num_experts, 1) > 200) return;
  const WeightReview weights = review_checkpoint(c, Safetensors());
  CHECK(!weights.problems.empty() && weights.unused.empty());
  for (const absl::Status& problem : weights.problems) check_line(problem);
}

}  // namespace sluice
