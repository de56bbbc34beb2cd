#include "server/cli_manual.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "config/fields.h"
#include "server/manual.h"

namespace sluice {
namespace {

// What the list of knobs says of an option that is one of them.
void add_field(const std::vector<Field>& fields, OptionText* option) {
  for (const Field& f : fields) {
    if (std::ranges::find(option->names, "--" + std::string(f.name)) == option->names.end())
      continue;
    option->knob = true;
    option->choices.assign(f.choices.begin(), f.choices.end());
    if (std::holds_alternative<bool*>(f.value)) option->choices = {"true", "false"};
  }
}

CommandText describe(const CLI::App& app, const std::vector<Field>& fields) {
  CommandText command{app.get_name(), app.get_description(), {}, {}};
  for (const CLI::Option* o : app.get_options()) {
    OptionText option;
    for (const std::string& name : o->get_snames()) option.names.push_back("-" + name);
    for (const std::string& name : o->get_lnames()) option.names.push_back("--" + name);
    if (option.names.empty()) option.names.push_back(o->get_name(true));
    option.help = o->get_description();
    option.takes_value = o->get_items_expected_max() > 0;
    add_field(fields, &option);
    command.options.push_back(std::move(option));
  }
  for (const CLI::App* sub : app.get_subcommands({}))
    command.commands.push_back(describe(*sub, fields));
  return command;
}

CommandText describe(const CLI::App& program) {
  Config defaults;
  CommandText text = describe(program, fields_of(defaults));
  text.name = "sluice";  // the parser has the path it was started by
  return text;
}

}  // namespace

void add_manual(CLI::App& program) {
  program.add_subcommand("man", "Print the man page, in roff")->callback([&program] {
    fmt::print("{}", man_page(describe(program)));
  });
  CLI::App* command =
      program.add_subcommand("completion", "Print a shell's completion of this command line");
  auto shell = std::make_shared<std::string>();
  command->add_option("SHELL", *shell, "Which shell")
      ->required()
      ->check(CLI::IsMember(completion_shells()));
  command->callback([&program, shell] { fmt::print("{}", completion(describe(program), *shell)); });
}

}  // namespace sluice
