#include "config/load.h"

#include <toml++/toml.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "base/check.h"
#include "config/fields.h"

namespace sluice {
namespace {

// Read by the command line before the knobs: names the file itself.
constexpr std::string_view kFileVariable = "SLUICE_CONFIG";

const Field* find_field(const std::vector<Field>& fields, std::string_view name) {
  const auto it = std::ranges::find(fields, name, &Field::name);
  return it == fields.end() ? nullptr : &*it;
}

absl::StatusOr<std::string> toml_text(const toml::node& node) {
  if (const auto* s = node.as_string()) return s->get();
  if (const auto* i = node.as_integer()) return fmt::format("{}", i->get());
  if (const auto* d = node.as_floating_point()) return fmt::format("{}", d->get());
  if (const auto* b = node.as_boolean()) return std::string(b->get() ? "true" : "false");
  return invalid_argument("must be a string, number or boolean");
}

absl::Status apply_table(const toml::table& table, const std::string& prefix,
                         const std::vector<Field>& fields) {
  for (const auto& [key, node] : table) {
    const std::string name = prefix + std::string(key.str());
    const std::string place = fmt::format("line {}", node.source().begin.line);
    if (const auto* inner = node.as_table(); inner && prefix.empty()) {
      if (absl::Status s = apply_table(*inner, name + ".", fields); !s.ok()) return s;
      continue;
    }
    const Field* field = find_field(fields, name);
    if (!field) return invalid_argument("{}: unknown key '{}'", place, name);
    const auto text = toml_text(node);
    if (!text.ok()) return annotate(text.status(), fmt::format("{}: {}", place, name));
    if (absl::Status s = set_field(*field, *text); !s.ok()) return annotate(s, place);
  }
  return absl::OkStatus();
}

absl::Status apply_file(const std::string& path, const std::vector<Field>& fields) {
  // Relative to nothing else; a directory or unreadable file is toml++'s error to word.
  if (!std::filesystem::is_regular_file(path))
    return not_found("configuration file {}: no such file", path);
  try {
    const toml::table table = toml::parse_file(path);
    return annotate(apply_table(table, "", fields), path);
  } catch (const toml::parse_error& error) {
    return invalid_argument("{}: line {}: {}", path, error.source().begin.line,
                            error.description());
  }
}

absl::Status apply_environment(const std::vector<std::string>& environment,
                               const std::vector<Field>& fields) {
  for (const std::string& entry : environment) {
    const size_t equals = entry.find('=');
    const std::string name = entry.substr(0, equals);
    if (!name.starts_with("SLUICE_") || name == kFileVariable) continue;
    const auto it = std::ranges::find_if(
        fields, [&](const Field& f) { return environment_name(f.name) == name; });
    if (it == fields.end())
      return invalid_argument("environment variable {}: no such setting", name);
    if (absl::Status s = set_field(*it, entry.substr(equals + 1)); !s.ok())
      return annotate(s, fmt::format("environment variable {}", name));
  }
  return absl::OkStatus();
}

std::string toml_quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string section_of(std::string_view name) {
  return std::string(name.substr(0, name.find('.')));
}

}  // namespace

absl::StatusOr<Config> load_config(const ConfigSources& sources) {
  Config config;
  const std::vector<Field> fields = fields_of(config);
  if (!sources.file.empty())
    if (absl::Status s = apply_file(sources.file, fields); !s.ok()) return s;
  if (absl::Status s = apply_environment(sources.environment, fields); !s.ok()) return s;
  for (const auto& [name, value] : sources.flags) {
    const Field* field = find_field(fields, name);
    if (!field) return invalid_argument("--{}: no such setting", name);
    if (absl::Status s = set_field(*field, value); !s.ok()) return s;
  }
  return config;
}

std::string print_config(Config config) {
  std::string out, section;
  for (const Field& field : fields_of(config)) {
    if (section_of(field.name) != section) {
      out += fmt::format("{}[{}]\n", section.empty() ? "" : "\n", section_of(field.name));
      section = section_of(field.name);
    }
    const bool quoted = std::holds_alternative<std::string*>(field.value);
    out += fmt::format("{} = {}\n", field.name.substr(section.size() + 1),
                       quoted ? toml_quote(text_of(field)) : text_of(field));
  }
  return out;
}

std::vector<KnobChange> take_live_knobs(Config& running, Config fresh) {
  std::vector<KnobChange> changes;
  const std::vector<Field> now = fields_of(running), wanted = fields_of(fresh);
  for (size_t i = 0; i < now.size(); ++i) {
    const KnobChange change{std::string(now[i].name), text_of(now[i]), text_of(wanted[i]),
                            now[i].live};
    if (change.from == change.to) continue;
    if (change.live) CHECK(set_field(now[i], change.to).ok());  // it was read from such a text
    changes.push_back(change);
  }
  return changes;
}

std::string config_reference() {
  Config defaults;
  std::string out =
      "# Configuration\n\n"
      "Every knob can be given as a flag, an environment variable or a key of a TOML file "
      "(`--config FILE`). Flags win over the environment, the environment over the file. "
      "Knobs marked * change in a running daemon on SIGHUP (docs/operations.md). "
      "This page is printed by `sluice config-reference`.\n\n"
      "| Knob (flag `--KNOB`) | Short flag | Environment | Default | Meaning |\n"
      "|---|---|---|---|---|\n";
  for (const Field& f : fields_of(defaults)) {
    std::string meaning(f.help);
    if (!f.choices.empty()) meaning += fmt::format(" ({})", fmt::join(f.choices, ", "));
    if (f.min != f.max) meaning += fmt::format(" ({} to {})", f.min, f.max);
    const std::string value = text_of(f);
    out += fmt::format("| `{}`{} | {} | `{}` | {} | {} |\n", f.name, f.live ? " *" : "",
                       f.flag.empty() ? "" : fmt::format("`{}`", f.flag), environment_name(f.name),
                       value.empty() ? "" : fmt::format("`{}`", value), meaning);
  }
  return out;
}

}  // namespace sluice
