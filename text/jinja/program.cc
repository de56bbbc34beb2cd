#include "text/jinja/program.h"

#include <absl/container/flat_hash_map.h>

#include "text/jinja/objects.h"
#include "text/jinja/parser.h"
#include "text/jinja/runtime.h"

namespace sluice::jinja {
namespace {

absl::Status to_status(const Error& error, int line) {
  if (error.line != 0) line = error.line;
  if (line == 0) return invalid_argument("chat template: {}", error.message);
  return invalid_argument("chat template, line {}: {}", line, error.message);
}

std::vector<std::optional<Value>> resolve(const Ast& ast, const Variables& variables) {
  absl::flat_hash_map<std::string_view, const Value*> given;
  for (const auto& [name, value] : variables) given[name] = &value;
  std::vector<std::optional<Value>> globals;
  globals.reserve(ast.names.size());
  for (const std::string& name : ast.names) {
    const auto at = given.find(name);
    globals.push_back(at != given.end() ? std::optional(*at->second) : global_function(name));
  }
  return globals;
}

}  // namespace

absl::StatusOr<Program> Program::compile(std::string_view source, const Limits& limits) {
  try {
    return Program(std::make_shared<const Ast>(parse(source, limits)), limits);
  } catch (const Error& error) {
    return to_status(error, 0);
  }
}

absl::StatusOr<std::string> Program::render(const Variables& variables) const {
  Runtime runtime(*ast_, limits_, resolve(*ast_, variables));
  try {
    return runtime.run();
  } catch (const Error& error) {
    return to_status(error, runtime.line());
  }
}

}  // namespace sluice::jinja
