#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/status.h"

// For .cc files only: parsing is heavy to compile. Files of a model directory are input like any
// other, so size, nesting and repeated keys are bounded here, once.
namespace sluice {

using Json = nlohmann::json;

// The whole of a regular file, at most max_bytes. Messages name the file without its folder.
absl::StatusOr<std::string> read_text_file(const std::filesystem::path&, size_t max_bytes);

// One JSON value that is an object. `what` opens every message. Refused beside bad syntax: nesting
// deeper than 32 and a key that occurs twice in one object (which of the two counts is anybody's
// guess).
absl::StatusOr<Json> parse_json_object(std::string_view text, std::string_view what);

// "4096", "a string", "null": what was found, short enough for one line.
std::string describe(const Json&);

}  // namespace sluice
