#pragma once

#include <string_view>

#include "text/jinja/runtime.h"

namespace sluice::jinja {

// Null when there is none of that name.
FilterFn find_filter(std::string_view name);
// Why there is none: Jinja2 has it and it is of no use in a prompt, or nobody has it.
std::string no_filter(std::string_view name);
TestFn find_test(std::string_view name);

// One table per file of filters; each ends with an entry without a name.
struct FilterEntry {
  std::string_view name;
  FilterFn fn;
};
const FilterEntry* string_filters();
const FilterEntry* sequence_filters();

}  // namespace sluice::jinja
