#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"
#include "server/api_types.h"

// For the openai_*.cc files only: this header brings in the JSON library.
namespace sluice {

using Json = nlohmann::json;

MaybeError parse_json_object(std::string_view body, Json* out);
// "an object", "the string \"x\"", ...: what a value is, for error messages; short.
std::string quote_value(const Json& value);

// Reads typed fields of one JSON object. The first error is kept and ends the reading; a null is an
// absent field. Remembers which names were asked for, so that the others can be reported.
class Fields {
 public:
  // `path`: in front of names in errors, "stream_options." or nothing.
  Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {}

  const Json* find(const char* name);      // null when absent or null
  bool read(const char* name, bool* out);  // all: true when present and right
  bool read(const char* name, std::optional<bool>* out);
  bool read(const char* name, std::optional<double>* out);
  bool read(const char* name, std::optional<int64_t>* out);
  bool read(const char* name, std::string* out);
  bool read(const char* name, std::vector<int64_t>* out);
  bool read(const char* name, std::vector<std::string>* out);  // a string counts as a list of one

  // A known field that cannot be honoured: an error unless it is null, false, empty or `harmless`.
  void refuse(const char* name, const Json& harmless = nullptr);
  void ignore(const char* name) { find(name); }

  void fail(ErrorKind kind, std::string_view name, std::string message);
  bool failed() const { return error_.has_value(); }
  const MaybeError& error() const { return error_; }
  void collect_unknown(std::vector<std::string>* out) const;
  std::string name_of(std::string_view name) const { return path_ + std::string(name); }

 private:
  void wrong_type(const char* name, const char* wanted, const Json& value);

  const Json& object_;
  const std::string path_;
  std::set<std::string, std::less<>> known_;
  MaybeError error_;
};

// The fields that chat and completions have in common.
void read_common_fields(Fields&, ApiRequest*);
std::optional<int64_t> to_integer(const Json& value);

}  // namespace sluice
