#pragma once

#include <string_view>

#include "text/jinja/ast.h"
#include "text/jinja/limits.h"

namespace sluice::jinja {

// Throws Error, with the line. Filters and tests are resolved here: one that does not exist is an
// error unless it stands under an `if`, where it fails when it is reached, as in Jinja2.
Ast parse(std::string_view source, const Limits& limits);

}  // namespace sluice::jinja
