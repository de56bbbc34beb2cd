// Renders templates for scripts (fuzz.py): a line of stdin is {"template": TEXT, "variables":
// {NAME: JSON TEXT}}, its line of stdout {"text": TEXT} or {"error": ONE LINE}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "text/jinja/program.h"
#include "text/jinja/value.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;

// Values come as JSON texts, because the library would round long integers.
absl::StatusOr<std::string> render(const Json& request) {
  const auto program = jinja::Program::compile(request["template"].get<std::string>());
  if (!program.ok()) return program.status();
  jinja::Variables variables;
  for (const auto& [name, text] : request["variables"].items()) {
    auto value = jinja::parse_json(text.get<std::string>(), name);
    if (!value.ok()) return value.status();
    variables.emplace_back(name, *std::move(value));
  }
  return program->render(variables);
}

}  // namespace
}  // namespace sluice

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    const auto text = sluice::render(sluice::Json::parse(line));
    sluice::Json answer;
    if (text.ok())
      answer["text"] = *text;
    else
      answer["error"] = std::string(sluice::message_of(text.status()));
    std::cout << answer.dump() << std::endl;
  }
}
