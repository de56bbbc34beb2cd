#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/types.h"

// Reading a tokenizer's files: every value is checked, and errors name it by its path.
namespace sluice {

using Json = nlohmann::json;

// Ids index tables, so a file may not name far ones. The largest vocabularies have 0.3 million.
inline constexpr TokenId kMaxTokenId = (1 << 22) - 1;
inline constexpr int kMaxJsonDepth = 16;  // of stages inside stages

// A value and the path by which errors name it. The value outlives this.
struct At {
  const Json& json;
  std::string path;

  At operator[](const std::string& key) const;  // null where there is no such key
  At operator[](size_t index) const { return {json[index], fmt::format("{}[{}]", path, index)}; }
  bool null() const { return json.is_null(); }
  size_t size() const { return json.size(); }
};

// "path: wanted, found ...", in one short line.
absl::Status wrong(const At& at, std::string_view wanted);

absl::Status want_object(const At& at);
absl::Status want_array(const At& at);
absl::StatusOr<std::string> read_string(const At& at);
// `otherwise`: what a missing value means; none: it must be there.
absl::StatusOr<bool> read_bool(const At& at, std::optional<bool> otherwise);
absl::StatusOr<TokenId> read_id(const At& at);
// A string that is one character.
absl::StatusOr<std::string> read_character(const At& at);
// For options whose absence, null, or one value means that they are off.
absl::Status want_off(const At& at, const Json& off, std::string_view why);
// The "type" of an object.
absl::StatusOr<std::string> read_type(const At& at);
absl::StatusOr<Json> parse_json(const std::string& text);

}  // namespace sluice
