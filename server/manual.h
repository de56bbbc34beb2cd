#pragma once

#include <string>
#include <vector>

namespace sluice {

// What the command line takes, for the man page and for shells: made from the parser and the list
// of knobs, so that neither can say anything else.
struct OptionText {
  std::vector<std::string> names;  // "--port"; a positional argument's name alone, as "DIR"
  std::string help;
  std::vector<std::string> choices;  // of its value; empty: any
  bool takes_value = true;
  bool knob = false;  // of config/fields.h
};
struct CommandText {
  std::string name, help;
  std::vector<OptionText> options;
  std::vector<CommandText> commands;
};

// sluice(1), in roff.
std::string man_page(const CommandText& program);
// Completion for `shell`, one of completion_shells().
std::string completion(const CommandText& program, const std::string& shell);
std::vector<std::string> completion_shells();

}  // namespace sluice
