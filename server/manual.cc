#include "server/manual.h"

#include <fmt/format.h>

#include "base/version.h"
#include "config/fields.h"

namespace sluice {
namespace {

// --- roff ---

std::string roff(std::string_view text) {
  std::string out;
  if (text.starts_with('.') || text.starts_with('\'')) out += "\\&";
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  return out;
}

bool positional(const OptionText& o) { return !o.names.front().starts_with('-'); }

std::string option_entries(const CommandText& command) {
  std::string out;
  for (const OptionText& o : command.options) {
    if (o.knob || o.names.front() == "-h") continue;
    std::string names;
    for (const std::string& name : o.names)
      names += fmt::format("{}\\fB{}\\fR", names.empty() ? "" : ", ", roff(name));
    if (o.takes_value && !positional(o)) names += " \\fIVALUE\\fR";
    out += fmt::format(".TP\n{}\n{}\n", names, roff(o.help));
  }
  return out;
}

std::string command_entries(const CommandText& parent, const std::string& path) {
  std::string out;
  for (const CommandText& c : parent.commands) {
    const std::string name = path + c.name;
    out += fmt::format(".SS {}\n{}.\n", roff(name), roff(c.help));
    const std::string options = option_entries(c);
    if (!options.empty()) out += ".RS\n" + options + ".RE\n";
    out += command_entries(c, name + " ");
  }
  return out;
}

std::string knob_entries() {
  Config defaults;
  std::string out, section;
  for (const Field& f : fields_of(defaults)) {
    const std::string name(f.name);
    if (const std::string of = name.substr(0, name.find('.')); of != section) {
      section = of;
      out += fmt::format(".SS [{}]\n", section);
    }
    std::string meaning(f.help);
    if (!f.choices.empty()) meaning += fmt::format(" ({})", fmt::join(f.choices, ", "));
    if (f.min != f.max) meaning += fmt::format(" ({} to {})", f.min, f.max);
    const std::string value = text_of(f);
    out += fmt::format(".TP\n\\fB\\-\\-{}\\fR{}, \\fB{}\\fR\n{}.{}\n", roff(name),
                       f.flag.empty() ? "" : fmt::format(", \\fB{}\\fR", roff(f.flag)),
                       environment_name(f.name), roff(meaning),
                       value.empty() ? "" : fmt::format(" Default: {}.", roff(value)));
  }
  return out;
}

// --- shells ---

std::string single_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  }
  return out + "'";
}

// fish: a backslash escapes inside of single quotes, too.
std::string fish_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

// Calls visit(command, path) for every command, "sluice bench serve" after "sluice bench".
template <class Visit>
void walk(const CommandText& command, const std::string& path, Visit&& visit) {
  visit(command, path);
  for (const CommandText& c : command.commands) walk(c, path + " " + c.name, visit);
}

std::vector<std::string> flags_of(const CommandText& command) {
  std::vector<std::string> out;
  for (const OptionText& o : command.options)
    if (!positional(o)) out.insert(out.end(), o.names.begin(), o.names.end());
  return out;
}

// The lines that find out which command the words so far are of, for bash and zsh alike.
std::string path_cases(const CommandText& program) {
  std::string all;
  walk(program, program.name, [&](const CommandText& c, const std::string& path) {
    if (&c != &program) all += fmt::format("{}\"{}\"", all.empty() ? "" : "|", path);
  });
  return all;
}

std::string bash_completion(const CommandText& program) {
  std::string words, values;
  walk(program, program.name, [&](const CommandText& c, const std::string& path) {
    std::vector<std::string> all = flags_of(c);
    for (const CommandText& sub : c.commands) all.push_back(sub.name);
    words += fmt::format("    \"{}\") words=\"{}\" ;;\n", path, fmt::join(all, " "));
    for (const OptionText& o : c.options) {
      if (o.choices.empty()) continue;
      std::string keys;
      for (const std::string& name : o.names)
        keys += fmt::format("{}\"{} {}\"", keys.empty() ? "" : "|", path, name);
      values += fmt::format("    {}) choices=\"{}\" ;;\n", keys, fmt::join(o.choices, " "));
    }
  });
  // bash splits at = too: `--dtype=fp8` comes as three words.
  return fmt::format(R"(# bash completion for sluice, printed by `sluice completion bash`.
_sluice() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} path=sluice words= choices= i
  if [ "$cur" = = ]; then
    cur=
  elif [ "$prev" = = ] && [ "$COMP_CWORD" -ge 2 ]; then
    prev=${{COMP_WORDS[COMP_CWORD-2]}}
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$path ${{COMP_WORDS[i]}}" in
    {}) path="$path ${{COMP_WORDS[i]}}" ;;
    esac
  done
  case $path in
{}  esac
  case "$path $prev" in
{}  esac
  if [ -n "$choices" ]; then
    COMPREPLY=($(compgen -W "$choices" -- "$cur"))
  elif [[ $cur == -* || $path == sluice || $path == "sluice bench" ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  else
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}}
complete -F _sluice sluice
)",
                     path_cases(program), words, values);
}

// A description inside of brackets of an _arguments specification.
std::string zsh_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_completion(const CommandText& program) {
  std::string cases;
  walk(program, program.name, [&](const CommandText& c, const std::string& path) {
    if (!c.commands.empty()) {
      std::string names;
      for (const CommandText& sub : c.commands)
        names += " " + single_quoted(sub.name + ":" + zsh_text(sub.help));
      cases +=
          fmt::format("    '{}') commands=({} ); _describe command commands ;;\n", path, names);
      return;
    }
    std::string specs;
    for (const OptionText& o : c.options) {
      if (positional(o)) continue;
      for (const std::string& name : o.names) {
        std::string spec = fmt::format(
            "{}{}[{}]", name, o.takes_value && name.size() > 2 ? "=" : "", zsh_text(o.help));
        if (o.takes_value)
          spec += o.choices.empty() ? ":value:_files"
                                    : fmt::format(":value:({})", fmt::join(o.choices, " "));
        specs += " \\\n      " + single_quoted(spec);
      }
    }
    cases += fmt::format("    '{}') _arguments{} '*:file:_files' ;;\n", path, specs);
  });
  return fmt::format(R"(#compdef sluice
# zsh completion for sluice, printed by `sluice completion zsh`.
_sluice() {{
  local command=sluice i
  local -a commands
  for ((i = 2; i < CURRENT; i++)); do
    case "$command $words[i]" in
    {}) command="$command $words[i]" ;;
    esac
  done
  case $command in
{}  esac
}}
_sluice "$@"
)",
                     path_cases(program), cases);
}

std::string fish_completion(const CommandText& program) {
  std::string out =
      "# fish completion for sluice, printed by `sluice completion fish`.\n"
      "function __sluice_at\n"
      "    set -l words (commandline -opc)\n"
      "    set -l path sluice\n"
      "    for word in $words[2..-1]\n"
      "        if contains -- \"$path $word\" $__sluice_paths\n"
      "            set path \"$path $word\"\n"
      "        end\n"
      "    end\n"
      "    test \"$path\" = \"$argv\"\n"
      "end\n"
      "set -g __sluice_paths";
  walk(program, program.name, [&](const CommandText& c, const std::string& path) {
    if (&c != &program) out += " " + fish_quoted(path);
  });
  out += '\n';
  walk(program, program.name, [&](const CommandText& c, const std::string& path) {
    const std::string head =
        fmt::format("complete -c sluice -n {}", fish_quoted("__sluice_at " + path));
    for (const CommandText& sub : c.commands)
      out += fmt::format("{} -f -a {} -d {}\n", head, sub.name, fish_quoted(sub.help));
    for (const OptionText& o : c.options) {
      if (positional(o)) continue;
      out += head;
      for (const std::string& name : o.names)
        out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      if (o.takes_value) out += " -r";
      if (!o.choices.empty())
        out += " -f -a " + fish_quoted(fmt::format("{}", fmt::join(o.choices, " ")));
      out += " -d " + fish_quoted(o.help) + "\n";
    }
  });
  return out;
}

}  // namespace

std::string man_page(const CommandText& program) {
  return fmt::format(
      ".\\\" Printed by `sluice man`.\n"
      ".TH SLUICE 1 \"\" \"sluice {}\" \"User Commands\"\n"
      ".SH NAME\nsluice \\- serve large language models over HTTP and gRPC\n"
      ".SH SYNOPSIS\n.B sluice\n.I COMMAND\n.RI [ OPTION ...]\n.br\n"
      ".B sluice serve\n.I DIR\n.RI [ OPTION ...]\n"
      ".SH DESCRIPTION\n"
      "One process that loads a model directory (Hugging Face layout) and answers an\n"
      "OpenAI\\-compatible HTTP API with server\\-sent events, and the same API over gRPC.\n"
      ".SH COMMANDS\n{}"
      ".SH KNOBS\n"
      "Each can be given as a flag, as an environment variable, or in a TOML file "
      "(\\fB\\-\\-config\\fR)\n"
      "under its section. Flags win over the environment, the environment over the file.\n{}"
      ".SH SIGNALS\n.TP\n\\fBSIGTERM\\fR, \\fBSIGINT\\fR\n"
      "Drain: readiness falls, new work is refused after\n.BR server.drain_delay_seconds ,\n"
      "what runs then may end within\n.BR server.drain_seconds .\nA second one ends the drain.\n"
      ".TP\n\\fBSIGHUP\\fR\nRead the configuration again, and change what can change.\n"
      ".SH EXIT STATUS\n.TP\n0\nDone.\n.TP\n1\nFailed; of\n.BR serve :\n"
      "starting it again may help.\n"
      ".TP\n2\nThe command line is wrong.\n.TP\n78\n.B serve\n"
      "cannot start with this configuration, model or memory limit.\n"
      ".SH FILES\n.TP\n.I /etc/sluice/sluice.toml\n"
      "Settings of the service that the Debian package installs.\n",
      kVersion, command_entries(program, ""), knob_entries());
}

std::vector<std::string> completion_shells() { return {"bash", "zsh", "fish"}; }

std::string completion(const CommandText& program, const std::string& shell) {
  if (shell == "bash") return bash_completion(program);
  return shell == "zsh" ? zsh_completion(program) : fish_completion(program);
}

}  // namespace sluice
