#include "text/json_reader.h"

#include "text/utf8.h"

namespace sluice {
namespace {

const Json kNull;

}  // namespace

At At::operator[](const std::string& key) const {
  const auto found = json.is_object() ? json.find(key) : json.end();
  return {json.is_object() && found != json.end() ? *found : kNull,
          path.empty() ? key : path + "." + key};
}

absl::Status wrong(const At& at, std::string_view wanted) {
  std::string found =
      at.null() ? "missing" : at.json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (found.size() > 80) found = found.substr(0, 80) + "...";
  return invalid_argument("{}: {}, found {}", at.path, wanted, found);
}

absl::Status want_object(const At& at) {
  return at.json.is_object() ? absl::OkStatus() : wrong(at, "must be an object");
}
absl::Status want_array(const At& at) {
  return at.json.is_array() ? absl::OkStatus() : wrong(at, "must be an array");
}

absl::StatusOr<std::string> read_string(const At& at) {
  if (!at.json.is_string()) return wrong(at, "must be a string");
  return at.json.get<std::string>();
}

absl::StatusOr<bool> read_bool(const At& at, std::optional<bool> otherwise) {
  if (at.null() && otherwise) return *otherwise;
  if (!at.json.is_boolean()) return wrong(at, "must be true or false");
  return at.json.get<bool>();
}

absl::StatusOr<TokenId> read_id(const At& at) {
  if (!at.json.is_number_integer() || at.json < 0 || at.json > kMaxTokenId)
    return wrong(at, fmt::format("must be a token id from 0 to {}", kMaxTokenId));
  return at.json.get<TokenId>();
}

absl::StatusOr<std::string> read_character(const At& at) {
  absl::StatusOr<std::string> text = read_string(at);
  if (!text.ok()) return text.status();
  if (text->empty() || utf8_step(*text, 0).length != text->size())
    return wrong(at, "must be one character");
  return text;
}

absl::Status want_off(const At& at, const Json& off, std::string_view why) {
  if (at.null() || at.json == off) return absl::OkStatus();
  return wrong(at, fmt::format("{} is not supported", why));
}

absl::StatusOr<std::string> read_type(const At& at) {
  if (absl::Status status = want_object(at); !status.ok()) return status;
  return read_string(at["type"]);
}

absl::StatusOr<Json> parse_json(const std::string& text) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& error) {
    return invalid_argument("not valid JSON: {}", error.what());
  }
}

}  // namespace sluice
