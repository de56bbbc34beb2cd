#include "engine/model_config.h"

#include <cmath>
#include <limits>
#include <set>
#include <span>
#include <string_view>

#include "engine/json_util.h"
#include "engine/models/registry.h"
#include "engine/quantization.h"

namespace sluice {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

// Takes keys of one JSON object by name. The first complaint sticks and the rest of the reading
// goes on with defaults, so that callers read straight down and look at status() once. Null counts
// as absent: Hugging Face writes both.
class KeyReader {
 public:
  KeyReader(const Json& json, std::string place) : json_(json), place_(std::move(place)) {}

  const Json* find(std::string_view key) {
    used_.emplace(key);
    const auto it = json_.find(std::string(key));
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  bool contains(const std::string& key) const { return json_.contains(key); }
  int integer(std::string_view key, int64_t low, int64_t high, std::optional<int> fallback) {
    const Json* value = find(key);
    if (!value) return absent(key, fallback);
    if (!value->is_number_integer() || *value < low || *value > high) {
      fail("\"{}\" is {}, expected an integer from {} to {}", key, describe(*value), low, high);
      return static_cast<int>(low);
    }
    return value->get<int>();
  }
  // In (low, high], or [low, high] if `closed`.
  double number(std::string_view key, double low, double high, std::optional<double> fallback,
                bool closed = false) {
    const Json* value = find(key);
    if (!value) return absent(key, fallback);
    const double x = value->is_number() ? value->get<double>() : std::nan("");
    if (!(x <= high && (closed ? x >= low : x > low))) {
      fail("\"{}\" is {}, expected a number {} {} and at most {}", key, describe(*value),
           closed ? "from" : "above", low, high);
      return high;
    }
    return x;
  }
  bool boolean(std::string_view key, bool fallback) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_boolean()) {
      fail("\"{}\" is {}, expected true or false", key, describe(*value));
      return fallback;
    }
    return value->get<bool>();
  }
  std::optional<std::string> text(std::string_view key) {
    const Json* value = find(key);
    if (!value) return {};
    if (!value->is_string()) {
      fail("\"{}\" is {}, expected a string", key, describe(*value));
      return {};
    }
    return value->get<std::string>();
  }
  // An id or a list of ids.
  std::vector<TokenId> ids(std::string_view key, int vocab_size) {
    const Json* value = find(key);
    std::vector<TokenId> result;
    if (!value) return result;
    const Json list = value->is_array() ? *value : Json::array({*value});
    for (const Json& id : list) {
      if (!id.is_number_integer() || id < 0 || id >= vocab_size) {
        fail("\"{}\" has {}, expected token ids from 0 to {}", key, describe(id), vocab_size - 1);
        return result;
      }
      result.push_back(id.get<TokenId>());
    }
    return result;
  }
  // A key that must be absent or have the one value that changes nothing.
  void only(std::string_view key, const Json& neutral) {
    const Json* value = find(key);
    if (value && *value != neutral)
      fail("\"{}\" is {}, only {} is supported", key, describe(*value), neutral.dump());
  }
  // Keys whose value has no meaning here.
  void inert(std::span<const std::string_view> keys) { used_.insert(keys.begin(), keys.end()); }

  std::string unused() const {
    std::string names;
    for (const auto& [key, value] : json_.items()) {
      if (used_.contains(key)) continue;
      if (names.size() > 400) return names + ", ...";
      if (!names.empty()) names += ", ";
      for (const char c : key.substr(0, 80)) names += c >= ' ' && c < 0x7f ? c : '?';
    }
    return names;
  }
  template <class... Args>
  void fail(fmt::format_string<Args...> format, Args&&... args) {
    if (!status_.ok()) return;
    status_ = invalid_argument("{}: {}", place_, fmt::format(format, std::forward<Args>(args)...));
  }
  const absl::Status& status() const { return status_; }

 private:
  template <class T>
  T absent(std::string_view key, const std::optional<T>& fallback) {
    if (!fallback) fail("\"{}\" is missing", key);
    return fallback.value_or(T{1});
  }

  const Json& json_;
  const std::string place_;
  std::set<std::string, std::less<>> used_;
  absl::Status status_;
};

// The rotary settings: `rope_parameters` (newer files, theta inside) or `rope_scaling` beside
// `rope_theta`.
RopeConfig read_rope(KeyReader& file, std::string_view file_name) {
  RopeConfig rope;
  const Json* newer = file.find("rope_parameters");
  const Json* older = file.find("rope_scaling");
  if (newer && older && *newer != *older)
    file.fail("\"rope_parameters\" and \"rope_scaling\" disagree, expected one of them");
  const bool has_theta = file.find("rope_theta") != nullptr;
  rope.theta = file.number("rope_theta", 1, 1e12, rope.theta);
  const Json* json = newer ? newer : older;
  if (!json) return rope;
  const std::string key = newer ? "rope_parameters" : "rope_scaling";
  if (!json->is_object()) {
    file.fail("\"{}\" is {}, expected an object", key, describe(*json));
    return rope;
  }
  KeyReader keys(*json, fmt::format("{}: {}", file_name, key));
  const double theta = keys.number("rope_theta", 1, 1e12, rope.theta);
  if (has_theta && theta != rope.theta)
    keys.fail("\"rope_theta\" is {}, and {} beside it", theta, rope.theta);
  rope.theta = theta;
  keys.only("partial_rotary_factor", 1.0);
  const std::optional<std::string> old_type = keys.text("type");
  const std::string type = keys.text("rope_type").value_or(old_type.value_or(""));
  if (type == "llama3") {
    rope.type = RopeConfig::Type::llama3;
    rope.factor = keys.number("factor", 1, 1e6, {}, true);
    rope.low_freq_factor = keys.number("low_freq_factor", 0, 1e6, {});
    rope.high_freq_factor = keys.number("high_freq_factor", 0, 1e6, {});
    rope.original_max_positions = keys.number("original_max_position_embeddings", 0, 1e9, {});
    if (keys.status().ok() && rope.high_freq_factor <= rope.low_freq_factor)
      keys.fail("\"high_freq_factor\" {} must be above \"low_freq_factor\" {}",
                rope.high_freq_factor, rope.low_freq_factor);
  } else if (type != "default") {
    keys.fail("rope type is \"{}\", supported are default and llama3", type.substr(0, 80));
  }
  if (const std::string unused = keys.unused(); !unused.empty())
    keys.fail("keys that are not supported: {}", unused);
  if (!keys.status().ok()) file.fail("{}", message_of(keys.status()).substr(file_name.size() + 2));
  return rope;
}

void refuse_windows(KeyReader& keys, Family::Window rule) {
  const Json* window = keys.find("sliding_window");
  const bool in_use = keys.boolean("use_sliding_window", rule != Family::Window::if_used);
  if (in_use && rule == Family::Window::unless_null && !keys.contains("sliding_window"))
    keys.fail("\"sliding_window\" is missing, which means 4096: only null is supported");
  if (in_use && window)
    keys.fail("\"sliding_window\" is {}, only full attention is supported", describe(*window));
  if (const Json* types = keys.find("layer_types")) {
    for (const Json& type : types->is_array() ? *types : Json::array({*types}))
      if (type != "full_attention")
        keys.fail("\"layer_types\" has {}, only \"full_attention\" is supported", describe(type));
  }
  keys.find("max_window_layers");
}

void read_shape(KeyReader& keys, const Family& family, ModelConfig& c) {
  c.num_layers = keys.integer("num_hidden_layers", 1, 1024, {});
  c.hidden_size = keys.integer("hidden_size", 1, 1 << 18, {});
  c.ffn_size = keys.integer("intermediate_size", 1, 1 << 20, {});
  c.num_heads = keys.integer("num_attention_heads", 1, 4096, {});
  c.num_kv_heads = keys.integer("num_key_value_heads", 1, 4096, c.num_heads);
  c.vocab_size = keys.integer("vocab_size", 1, 1 << 24, {});
  c.max_positions = keys.integer("max_position_embeddings", 1, 1 << 26, {});
  c.rms_norm_eps = static_cast<float>(keys.number("rms_norm_eps", 0, 1, {}, true));
  const bool has_head_dim = keys.find("head_dim") != nullptr;
  if (!has_head_dim && family.default_head_dim == 0 && c.hidden_size % c.num_heads != 0)
    keys.fail("\"hidden_size\" {} is not a multiple of \"num_attention_heads\" {}", c.hidden_size,
              c.num_heads);
  c.head_dim =
      keys.integer("head_dim", 2, 1024,
                   family.default_head_dim ? family.default_head_dim : c.hidden_size / c.num_heads);
  if (c.head_dim < 2 || c.head_dim % 2 != 0)
    keys.fail("\"head_dim\" is {}, expected an even size from 2 to 1024", c.head_dim);
  if (c.num_heads % c.num_kv_heads != 0)
    keys.fail("\"num_attention_heads\" {} is not a multiple of \"num_key_value_heads\" {}",
              c.num_heads, c.num_kv_heads);
}

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
constexpr std::string_view kInertKeys[] = {
    "model_type",        "_from_model_config",  "transformers_version", "_name_or_path",
    "initializer_range", "use_cache",           "attention_dropout",    "hidden_dropout",
    "pad_token_id",      "unk_token_id",        "output_attentions",    "output_hidden_states",
    "return_dict",       "_attn_implementation"};

absl::Status read_config(const Json& json, ModelConfig& c) {
  constexpr std::string_view kFile = "config.json";
  KeyReader keys(json, std::string(kFile));
  const Json* names = keys.find("architectures");
  if (!names || !names->is_array() || names->size() != 1 || !(*names)[0].is_string())
    return invalid_argument("{}: \"architectures\" must be a list of one name, one of {}", kFile,
                            supported_architectures());
  c.architecture = (*names)[0];
  const Family* family = find_family(c.architecture);
  if (!family)
    return invalid_argument("{}: \"architectures\" is {}, supported are {}", kFile,
                            describe((*names)[0]), supported_architectures());
  for (const char* key : {"quantization_config", "compression_config"}) {
    const Json* quantized = keys.find(key);
    if (!quantized) continue;
    if (absl::Status s = check_quantization(key, *quantized, c.warnings); !s.ok()) return s;
  }
  read_shape(keys, *family, c);
  keys.only("hidden_act", "silu");
  keys.only("partial_rotary_factor", 1.0);
  keys.only("pretraining_tp", 1);
  keys.only("is_encoder_decoder", false);
  c.tied_embeddings = keys.boolean("tie_word_embeddings", false);
  c.qk_norm = family->qk_norm;
  if (family->bias == Family::Bias::qkv) {
    c.qkv_bias = true;
  } else {
    c.qkv_bias = c.o_bias = keys.boolean("attention_bias", false);
    c.mlp_bias = keys.boolean("mlp_bias", false);
  }
  refuse_windows(keys, family->window);
  c.rope = read_rope(keys, kFile);
  c.dtype = read_dtype(keys);
  if (!keys.status().ok()) return keys.status();  // ids are judged by a good vocab_size
  c.eos_ids = keys.ids("eos_token_id", c.vocab_size);
  if (const std::vector<TokenId> bos = keys.ids("bos_token_id", c.vocab_size); !bos.empty())
    c.bos_id = bos.front();
  keys.inert(kInertKeys);
  if (const std::string unused = keys.unused(); !unused.empty())
    c.warnings.push_back(fmt::format("{}: keys that have no effect here: {}", kFile, unused));
  return keys.status();
}

absl::Status read_generation(const Json& json, ModelConfig& c) {
  constexpr std::string_view kFile = "generation_config.json";
  KeyReader keys(json, std::string(kFile));
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
  if (keys.find("eos_token_id")) c.eos_ids = keys.ids("eos_token_id", c.vocab_size);
  if (keys.find("bos_token_id")) {
    const std::vector<TokenId> bos = keys.ids("bos_token_id", c.vocab_size);
    if (!bos.empty()) c.bos_id = bos.front();
  }
  keys.inert(kInertKeys);
  if (const std::string unused = keys.unused(); !unused.empty())
    c.warnings.push_back(fmt::format("{}: keys that have no effect here: {}", kFile, unused));
  return keys.status();
}

absl::StatusOr<Json> read_json(const std::filesystem::path& path) {
  absl::StatusOr<std::string> text = read_text_file(path, kMaxConfigBytes);
  if (!text.ok()) return text.status();
  return parse_json_object(*text, path.filename().string());
}

}  // namespace

absl::StatusOr<ModelConfig> read_model_config(const std::filesystem::path& dir) {
  absl::StatusOr<Json> json = read_json(dir / "config.json");
  if (!json.ok()) return json.status();
  ModelConfig config;
  if (absl::Status s = read_config(*json, config); !s.ok()) return s;
  absl::StatusOr<Json> generation = read_json(dir / "generation_config.json");
  if (generation.ok()) {
    if (absl::Status s = read_generation(*generation, config); !s.ok()) return s;
  } else if (!absl::IsNotFound(generation.status())) {
    return generation.status();
  }
  if (config.eos_ids.empty())
    config.warnings.emplace_back(
        "model: no eos_token_id: answers end only at their length limit or a stop string");
  return config;
}

}  // namespace sluice
