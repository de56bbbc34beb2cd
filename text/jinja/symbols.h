#pragma once

#include "text/jinja/ast.h"

namespace sluice::jinja {

// Fills in every scope's `unset`: the names that Jinja2, which decides that before a template runs,
// takes for the scope's own, and which are therefore undefined in it until they are set, whatever
// the caller gave: those that a scope sets before it reads them and that no scope around it knows.
// Names that only some branches of an `if` set are not among them.
void find_unset(Ast& ast);

}  // namespace sluice::jinja
