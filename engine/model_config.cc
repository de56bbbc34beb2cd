#include "engine/model_config.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "engine/json_util.h"
#include "engine/models/config_keys.h"
#include "engine/models/registry.h"
#include "engine/quantization.h"

namespace sluice {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

std::optional<DType> read_dtype(KeyReader& keys) {
  std::optional<std::string> name = keys.text("torch_dtype");
  if (!name) name = keys.text("dtype");
  keys.find("dtype");
  if (!name) return {};
  if (*name == "float32") return DType::f32;
  if (*name == "float16") return DType::f16;
  if (*name == "bfloat16") return DType::bf16;
  keys.fail("\"dtype\" is \"{}\", supported are float32, float16 and bfloat16",
            name->substr(0, 80));
  return {};
}

// Settings of training, of other software, and of how files were written.
constexpr std::string_view kInertKeys[] = {"model_type",
                                           "_from_model_config",
                                           "transformers_version",
                                           "_name_or_path",
                                           "initializer_range",
                                           "use_cache",
                                           "attention_dropout",
                                           "hidden_dropout",
                                           "attention_probs_dropout_prob",
                                           "hidden_dropout_prob",
                                           "gradient_checkpointing",
                                           "pad_token_id",
                                           "unk_token_id",
                                           "output_attentions",
                                           "output_hidden_states",
                                           "return_dict",
                                           "_attn_implementation",
                                           "embd_pdrop",
                                           "resid_pdrop",
                                           "attn_pdrop",
                                           "auto_map",
                                           "chunk_size_feed_forward",
                                           "cache_implementation",
                                           "bos_token",
                                           "task_specific_params"};

// Null where the file is of no such model.
const TextPart* read_text_part(KeyReader& keys, ModelConfig& c) {
  const Json* names = keys.find("architectures");
  if (!names || !names->is_array() || names->size() != 1 || !(*names)[0].is_string())
    return nullptr;
  const TextPart* part = find_text_part((*names)[0].get<std::string>());
  if (part) c.architecture = part->architecture;
  return part;
}

// Null, with a complaint, where there is none.
const Family* read_architecture(KeyReader& keys, ModelConfig& c) {
  const Json* names = keys.find("architectures");
  if (!names || !names->is_array() || names->size() != 1 || !(*names)[0].is_string()) {
    keys.fail("\"architectures\" must be a list of one name, one of {}", supported_architectures());
    return nullptr;
  }
  c.architecture = (*names)[0];
  const Family* family = find_family(c.architecture);
  if (!family)
    keys.fail("\"architectures\" is {}, supported are {}", describe((*names)[0]),
              supported_architectures());
  return family;
}

void add_unused(const KeyReader& keys, ModelConfig& c) {
  if (const std::string unused = keys.unused(); !unused.empty())
    c.warnings.push_back(
        fmt::format("{}: keys that have no effect here: {}", keys.place(), unused));
}

void review_keys(KeyReader& keys, const Family* family, ConfigReview& review) {
  ModelConfig& c = review.config;
  for (const char* key : {"quantization_config", "compression_config"})
    if (const Json* quantized = keys.find(key)) {
      keys.add(check_quantization(key, *quantized, c.fp8_cache, c.warnings));
      c.fp8_layers = true;
    }
  keys.only("is_encoder_decoder", false);
  if (family) family->read(keys, c);
  c.dtype = read_dtype(keys);
  review.has_sizes = family && !keys.guessed();
  if (review.has_sizes) {
    c.eos_ids = keys.ids("eos_token_id", c.vocab_size);
    if (const std::vector<TokenId> bos = keys.ids("bos_token_id", c.vocab_size); !bos.empty())
      c.bos_id = bos.front();
    refuse_other_traits(keys, c);
    keys.inert(kInertKeys);
    add_unused(keys, c);
  }
  review.problems = keys.complaints();
}

// The text part of a larger model: its own keys, and what the whole says for all of its parts.
void review_text_part(const Json& json, KeyReader& whole, const TextPart& part,
                      ConfigReview& review) {
  const Json* text_config = whole.find("text_config");
  if (!text_config || !text_config->is_object()) {
    review.problems.push_back(
        invalid_argument("config.json: \"text_config\" is {}, expected an object",
                         text_config ? describe(*text_config) : "missing"));
    return;
  }
  Json text = *text_config;
  for (const char* key : {"eos_token_id", "bos_token_id", "torch_dtype", "dtype",
                          "tie_word_embeddings", "quantization_config", "compression_config"})
    if (whole.find(key) && !text.contains(key)) text[key] = json[key];
  KeyReader keys(text, "config.json: text_config");
  keys.find("architectures");
  keys.only("model_type", part.model_type);
  review_keys(keys, find_family(part.family), review);
  review.config.names.text_part = true;
  whole.inert(kInertKeys);
  review.config.warnings.push_back(
      fmt::format("config.json: of {} only the text part is served; keys of the rest: {}",
                  part.architecture, whole.unused()));
}

void review_config(const Json& json, ConfigReview& review) {
  KeyReader keys(json, "config.json");
  if (const TextPart* part = read_text_part(keys, review.config))
    return review_text_part(json, keys, *part, review);
  review_keys(keys, read_architecture(keys, review.config), review);
}

void review_generation(const Json& json, ConfigReview& review) {
  ModelConfig& c = review.config;
  KeyReader keys(json, "generation_config.json");
  const auto number = [&](std::string_view key, double low, double high, bool closed) {
    return keys.find(key) ? std::optional<float>(keys.number(key, low, high, 1.0, closed))
                          : std::nullopt;
  };
  GenerationDefaults& g = c.generation;
  if (keys.find("do_sample")) g.do_sample = keys.boolean("do_sample", false);
  g.temperature = number("temperature", 0, 100, true);
  g.top_p = number("top_p", 0, 1, false);
  g.min_p = number("min_p", 0, 1, true);
  g.repetition_penalty = number("repetition_penalty", 0, 100, false);
  constexpr int64_t kMaxInt = std::numeric_limits<int>::max();
  if (keys.find("top_k")) g.top_k = keys.integer("top_k", 0, kMaxInt, {});
  if (keys.find("max_new_tokens"))
    g.max_new_tokens = keys.integer("max_new_tokens", 1, kMaxInt, {});
  if (review.has_sizes) {  // ids are judged by a good vocab_size
    if (keys.find("eos_token_id")) c.eos_ids = keys.ids("eos_token_id", c.vocab_size);
    if (keys.find("bos_token_id")) {
      const std::vector<TokenId> bos = keys.ids("bos_token_id", c.vocab_size);
      if (!bos.empty()) c.bos_id = bos.front();
    }
    keys.inert(kInertKeys);
    add_unused(keys, c);
  }
  review.problems.insert(review.problems.end(), keys.complaints().begin(), keys.complaints().end());
}

absl::StatusOr<Json> read_json(const std::filesystem::path& path) {
  absl::StatusOr<std::string> text = read_text_file(path, kMaxConfigBytes);
  if (!text.ok()) return text.status();
  return parse_json_object(*text, path.filename().string());
}

}  // namespace

ConfigReview review_model_config(const std::filesystem::path& dir) {
  ConfigReview review;
  absl::StatusOr<Json> json = read_json(dir / "config.json");
  if (json.ok())
    review_config(*json, review);
  else
    review.problems.push_back(json.status());
  absl::StatusOr<Json> generation = read_json(dir / "generation_config.json");
  if (generation.ok())
    review_generation(*generation, review);
  else if (!absl::IsNotFound(generation.status()))
    review.problems.push_back(generation.status());
  if (review.has_sizes && review.config.eos_ids.empty())
    review.config.warnings.emplace_back(
        "model: no eos_token_id: answers end only at their length limit or a stop string");
  return review;
}

absl::StatusOr<ModelConfig> read_model_config(const std::filesystem::path& dir) {
  ConfigReview review = review_model_config(dir);
  if (!review.problems.empty()) return review.problems.front();
  return std::move(review.config);
}

}  // namespace sluice
