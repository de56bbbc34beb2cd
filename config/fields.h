#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "config/config.h"

namespace sluice {

// One knob: where it lives, how it is called, what it may be. Flags, environment, TOML file,
// --help, --print-config and docs/configuration.md are all made from the list below.
struct Field {
  std::string_view name;  // "server.http_port": --server.http_port, SLUICE_SERVER_HTTP_PORT,
                          // [server] http_port
  std::variant<std::string*, int*, int64_t*, double*, bool*> value;
  std::string_view help;
  std::string_view flag = "";                  // a second, short flag: "--port"
  double min = 0, max = 0;                     // numbers; equal: any
  std::vector<std::string_view> choices = {};  // strings; empty: any
  bool bytes = false;                          // accepts 512MiB, 2GB, ...
  bool live = false;                           // SIGHUP changes it; the others need a restart
};

// The list, bound to `config`, in the order of config.h.
std::vector<Field> fields_of(Config& config);

// Parses `text` into the field. The error names the knob, the value and the limit.
absl::Status set_field(const Field& field, std::string_view text);
// The field's present value, as set_field would read it.
std::string text_of(const Field& field);
// "SLUICE_SERVER_HTTP_PORT".
std::string environment_name(std::string_view field_name);

}  // namespace sluice
