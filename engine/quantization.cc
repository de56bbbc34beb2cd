#include "engine/quantization.h"

#include <algorithm>
#include <span>

#include "engine/json_util.h"

namespace sluice {
namespace {

// A key of an object, and the values it may have; none: any. A key that is absent is null.
struct Rule {
  const char* key;
  std::vector<Json> values;
};

// The value of a key, null where there is none.
const Json& at(const Json& object, const char* key) {
  static const Json kNull;
  const auto it = object.find(key);
  return it == object.end() ? kNull : *it;
}

absl::Status check_object(const std::string& place, const Json& object,
                          std::span<const Rule> rules) {
  if (!object.is_object())
    return invalid_argument("{}: is {}, expected an object", place, describe(object));
  for (const Rule& rule : rules) {
    const Json& value = at(object, rule.key);
    if (rule.values.empty() ||
        std::find(rule.values.begin(), rule.values.end(), value) != rule.values.end())
      continue;
    std::vector<std::string> words;
    for (const Json& v : rule.values) words.push_back(v.dump());
    return invalid_argument("{}: \"{}\" is {}, supported: {}", place, rule.key, describe(value),
                            fmt::join(words, ", "));
  }
  for (const auto& [key, value] : object.items()) {
    const auto known = [&key = key](const Rule& r) { return key == r.key; };
    if (std::none_of(rules.begin(), rules.end(), known))
      return invalid_argument("{}: key {} is not supported", place, describe(Json(key)));
  }
  return absl::OkStatus();
}

// Names of layers. They are for whoever quantises: here each tensor says what it is.
absl::Status check_names(const std::string& place, const Json& object, const char* key) {
  const Json& names = at(object, key);
  const auto is_text = [](const Json& name) { return name.is_string(); };
  if (names.is_null() || (names.is_array() && std::all_of(names.begin(), names.end(), is_text)))
    return absl::OkStatus();
  return invalid_argument("{}: \"{}\" is {}, expected a list of names", place, key,
                          describe(names));
}

// How numbers of one kind are quantised.
std::vector<Rule> arguments(std::vector<Json> strategies, std::vector<Json> dynamic) {
  return {{"num_bits", {8}},
          {"type", {"float"}},
          {"strategy", std::move(strategies)},
          {"symmetric", {true, nullptr}},
          {"dynamic", std::move(dynamic)},
          {"group_size", {nullptr}},
          {"block_structure", {nullptr}},
          {"actorder", {nullptr}},
          // Settings of the quantiser, and the type of scales: each scale has one of its own.
          {"observer", {}},
          {"observer_kwargs", {}},
          {"scale_dtype", {}},
          {"zp_dtype", {}}};
}

absl::Status check_group(const std::string& place, const Json& group,
                         std::vector<std::string>& warnings) {
  const Rule rules[] = {{"weights", {}},
                        {"input_activations", {}},
                        {"output_activations", {nullptr}},
                        {"targets", {}},
                        {"format", {nullptr, "float-quantized"}}};
  if (absl::Status s = check_object(place, group, rules); !s.ok()) return s;
  if (absl::Status s = check_names(place, group, "targets"); !s.ok()) return s;
  if (absl::Status s = check_object(place + ".weights", at(group, "weights"),
                                    arguments({"tensor", "channel"}, {false, nullptr}));
      !s.ok())
    return s;
  const Json& inputs = at(group, "input_activations");
  if (inputs.is_null()) {
    warnings.push_back(fmt::format(
        "{}: \"input_activations\" is null: a device that multiplies in fp8 quantises them too",
        place));
    return absl::OkStatus();
  }
  return check_object(place + ".input_activations", inputs,
                      arguments({"token", "tensor"}, {true, false, nullptr}));
}

// What is kept of keys and values, where anything is said of them.
absl::Status check_cache(const std::string& place, const Json& json, bool& fp8_cache) {
  const Json& scheme = at(json, "kv_cache_scheme");
  fp8_cache = !scheme.is_null();
  if (!fp8_cache) return absl::OkStatus();
  return check_object(place + ".kv_cache_scheme", scheme, arguments({"tensor"}, {false, nullptr}));
}

absl::Status check_compressed(const std::string& place, const Json& json, bool& fp8_cache,
                              std::vector<std::string>& warnings) {
  const Rule rules[] = {{"quant_method", {}},
                        {"format", {"float-quantized"}},
                        {"config_groups", {}},
                        {"ignore", {}},
                        {"kv_cache_scheme", {}},
                        {"quantization_status", {nullptr, "compressed", "frozen"}},
                        {"sparsity_config", {}},
                        {"transform_config", {nullptr, Json::object()}},
                        {"global_compression_ratio", {}},
                        {"version", {}}};
  if (absl::Status s = check_object(place, json, rules); !s.ok()) return s;
  if (absl::Status s = check_names(place, json, "ignore"); !s.ok()) return s;
  if (absl::Status s = check_cache(place, json, fp8_cache); !s.ok()) return s;
  const Json& sparsity = at(json, "sparsity_config");
  if (!sparsity.is_null() && sparsity != Json::object() &&
      (!sparsity.is_object() || at(sparsity, "format") != "dense"))
    return invalid_argument(
        "{}: \"sparsity_config\" is {}, only one of format \"dense\" is supported", place,
        sparsity.is_object() ? "of format " + describe(at(sparsity, "format"))
                             : describe(sparsity));
  const Json& groups = at(json, "config_groups");
  if (!groups.is_object() || groups.empty())
    return invalid_argument("{}: \"config_groups\" is {}, expected an object of groups", place,
                            groups.empty() && groups.is_object() ? "empty" : describe(groups));
  for (const auto& [name, group] : groups.items()) {
    if (absl::Status s = check_group(place + ".config_groups." + short_name(name), group, warnings);
        !s.ok())
      return s;
  }
  return absl::OkStatus();
}

absl::Status check_fp8(const std::string& place, const Json& json, bool& fp8_cache) {
  const Rule rules[] = {
      {"quant_method", {}},           {"activation_scheme", {"dynamic", "static"}},
      {"fmt", {nullptr, "e4m3"}},     {"weight_block_size", {nullptr}},
      {"ignored_layers", {}},         {"dequantize", {nullptr, false}},
      {"modules_to_not_convert", {}}, {"kv_cache_scheme", {nullptr, "static"}}};
  if (absl::Status s = check_object(place, json, rules); !s.ok()) return s;
  fp8_cache = !at(json, "kv_cache_scheme").is_null();
  for (const char* key : {"ignored_layers", "modules_to_not_convert"})
    if (absl::Status s = check_names(place, json, key); !s.ok()) return s;
  return absl::OkStatus();
}

}  // namespace

absl::Status check_quantization(const std::string& key, const Json& json, bool& fp8_cache,
                                std::vector<std::string>& warnings) {
  const std::string place = "config.json: " + key;
  if (!json.is_object())
    return invalid_argument("{}: is {}, expected an object", place, describe(json));
  const Json& method = at(json, "quant_method");
  if (method == "compressed-tensors") return check_compressed(place, json, fp8_cache, warnings);
  if (method == "fp8") return check_fp8(place, json, fp8_cache);
  return invalid_argument(
      "{}: \"quant_method\" is {}, supported: \"compressed-tensors\" (of fp8), \"fp8\"", place,
      describe(method));
}

}  // namespace sluice
