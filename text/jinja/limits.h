#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::jinja {

// What one template may cost. A template comes with a model that somebody downloaded: it must not
// be able to hang the daemon or to eat its memory. Every bound is far above what honest ones need.
struct Limits {
  size_t template_bytes = 1 << 20;
  int parse_depth = 100;      // nested blocks, brackets and operators
  int64_t steps = 5'000'000;  // nodes evaluated, and bytes moved or compared in units of 64
  int depth = 600;            // nested evaluation: a macro call takes about six
  size_t output_bytes = 16 << 20;
  size_t value_bytes = 16 << 20;   // one string
  size_t value_items = 1'000'000;  // one list or dict
  size_t total_bytes = 128 << 20;  // all values made in one rendering, freed ones too
};

// Lists in lists in lists: what recursion over a value can bear.
inline constexpr int kMaxNesting = 200;

}  // namespace sluice::jinja
