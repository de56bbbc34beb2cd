#include "server/openai_fields.h"

#include <cmath>
#include <utility>

#include "server/openai_api.h"

namespace sluice {
namespace {

// The library's parser does not recurse, but whoever walks the document (a template) does.
bool too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxJsonDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace

MaybeError parse_json_object(std::string_view body, Json* out) {
  if (too_deep(body))
    return api_error(ErrorKind::invalid, "", "the JSON body is nested deeper than {} levels",
                     kMaxJsonDepth);
  try {
    *out = Json::parse(body.begin(), body.end());
  } catch (const Json::parse_error& e) {
    return api_error(ErrorKind::invalid, "", "the body is not valid JSON in UTF-8 (at byte {})",
                     e.byte);
  } catch (const Json::exception&) {
    return api_error(ErrorKind::invalid, "",
                     "the body is not valid JSON: a number is out of range");
  }
  if (!out->is_object())
    return api_error(ErrorKind::invalid, "", "the body must be a JSON object, not {}",
                     quote_value(*out));
  return std::nullopt;
}

std::string quote_value(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_null()) return "null";
  if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    if (text.size() > 40) return "a string";
    return "the string \"" + text + "\"";
  }
  return value.dump();
}

std::optional<int64_t> to_integer(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto n = value.get<uint64_t>();
    if (n > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(n);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    // Clients without an integer type write 16.0.
    const double d = value.get<double>();
    if (std::trunc(d) == d && std::abs(d) <= 9007199254740992.0) return static_cast<int64_t>(d);
  }
  return std::nullopt;
}

const Json* Fields::find(const char* name) {
  known_.insert(name);
  if (failed()) return nullptr;
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool Fields::read(const char* name, bool* out) {
  const Json* value = find(name);
  if (value == nullptr) return false;
  if (!value->is_boolean()) {
    wrong_type(name, "a boolean", *value);
    return false;
  }
  *out = value->get<bool>();
  return true;
}

bool Fields::read(const char* name, std::optional<bool>* out) {
  bool value = false;
  if (!read(name, &value)) return false;
  *out = value;
  return true;
}

bool Fields::read(const char* name, std::optional<double>* out) {
  const Json* value = find(name);
  if (value == nullptr) return false;
  if (!value->is_number()) {
    wrong_type(name, "a number", *value);
    return false;
  }
  *out = value->get<double>();
  return true;
}

bool Fields::read(const char* name, std::optional<int64_t>* out) {
  const Json* value = find(name);
  if (value == nullptr) return false;
  const std::optional<int64_t> n = to_integer(*value);
  if (!n) {
    wrong_type(name, "an integer", *value);
    return false;
  }
  *out = n;
  return true;
}

bool Fields::read(const char* name, std::string* out) {
  const Json* value = find(name);
  if (value == nullptr) return false;
  if (!value->is_string()) {
    wrong_type(name, "a string", *value);
    return false;
  }
  *out = value->get<std::string>();
  return true;
}

bool Fields::read(const char* name, std::vector<int64_t>* out) {
  const Json* value = find(name);
  if (value == nullptr) return false;
  if (!value->is_array()) {
    wrong_type(name, "an array of integers", *value);
    return false;
  }
  for (const Json& item : *value) {
    const std::optional<int64_t> n = to_integer(item);
    if (!n) {
      wrong_type(name, "an array of integers", item);
      return false;
    }
    out->push_back(*n);
  }
  return true;
}

bool Fields::read(const char* name, std::vector<std::string>* out) {
  const Json* value = find(name);
  if (value == nullptr) return false;
  if (value->is_string()) {
    out->push_back(value->get<std::string>());
    return true;
  }
  if (!value->is_array()) {
    wrong_type(name, "a string or an array of strings", *value);
    return false;
  }
  for (const Json& item : *value) {
    if (!item.is_string()) {
      wrong_type(name, "a string or an array of strings", item);
      return false;
    }
    out->push_back(item.get<std::string>());
  }
  return true;
}

void Fields::refuse(const char* name, const Json& harmless) {
  const Json* value = find(name);
  if (value == nullptr || *value == harmless) return;
  const bool empty = (value->is_boolean() && !value->get<bool>()) ||
                     (value->is_string() && value->get_ref<const std::string&>().empty()) ||
                     (value->is_structured() && value->empty());
  if (empty) return;
  fail(ErrorKind::unsupported, name, name_of(name) + " is not supported by this server");
}

void Fields::fail(ErrorKind kind, std::string_view name, std::string message) {
  if (!failed()) error_ = ApiError{kind, std::move(message), name_of(name)};
}

void Fields::collect_unknown(std::vector<std::string>* out) const {
  for (const auto& item : object_.items())
    if (!known_.contains(item.key())) out->push_back(name_of(item.key()));
}

void Fields::wrong_type(const char* name, const char* wanted, const Json& value) {
  fail(ErrorKind::invalid, name,
       name_of(name) + " must be " + wanted + ", not " + quote_value(value));
}

}  // namespace sluice
