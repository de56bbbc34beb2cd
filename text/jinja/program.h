#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "text/jinja/limits.h"

namespace sluice::jinja {

struct Ast;
class Value;

using Variables = std::vector<std::pair<std::string, Value>>;

// A compiled template: what the rest of Sluice sees of this folder. Immutable, thread-safe. Behaves
// as Jinja2 does in the way transformers sets it up for chat templates: immutable sandbox,
// trim_blocks, lstrip_blocks, loop controls, generation blocks, a tojson without HTML escapes.
class Program {
 public:
  // invalid_argument with the line for anything Jinja2 would refuse, and for what is not supported:
  // inheritance, includes, imports, blocks, filters of no use in a prompt (no_filter of filters.h).
  // Integers beyond 64 bits are kept, compared and printed, not computed with.
  static absl::StatusOr<Program> compile(std::string_view source, const Limits& limits = {});

  // invalid_argument with the line when the template raises, errs or runs into a limit.
  absl::StatusOr<std::string> render(const Variables& variables) const;

 private:
  Program(std::shared_ptr<const Ast> ast, const Limits& limits)
      : ast_(std::move(ast)), limits_(limits) {}
  std::shared_ptr<const Ast> ast_;
  Limits limits_;
};

// JSON text as template values: key order kept, integers of any size. `what` names it in errors.
absl::StatusOr<Value> parse_json(std::string_view text, std::string_view what);

}  // namespace sluice::jinja
