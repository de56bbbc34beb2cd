#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

namespace sluice::jinja {

// What goes wrong in a template. Thrown inside text/jinja only: Program turns it into a Status.
struct Error {
  std::string message;
  int line = 0;  // 0: the program adds the line it was at
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error{fmt::format(format, std::forward<Args>(args)...)};
}

template <class... Args>
[[noreturn]] void fail_at(int line, fmt::format_string<Args...> format, Args&&... args) {
  throw Error{fmt::format(format, std::forward<Args>(args)...), line};
}

}  // namespace sluice::jinja
