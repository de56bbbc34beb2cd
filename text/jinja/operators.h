#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/jinja/runtime.h"

// What Python's operators and built-in functions do with values.
namespace sluice::jinja {

bool truthy(const Value&);
bool equals(Runtime&, const Value& a, const Value& b);
bool less(Runtime&, const Value& a, const Value& b);  // fails for what has no order
bool contains(Runtime&, const Value& container, const Value& item);
bool compare(Runtime&, Op op, const Value& a, const Value& b);
Value arithmetic(Runtime&, Op op, const Value& a, const Value& b);
Value add(Runtime&, const Value& a, const Value& b);
Value negate(const Value&);

// obj.name and obj[key]: undefined when there is none, an error on undefined itself.
Value get_attribute(Runtime&, const Value& object, std::string_view name);
Value get_item(Runtime&, const Value& object, const Value& key);
Value slice(Runtime&, const Value& object, const Value& start, const Value& stop,
            const Value& step);

// What `for` and the filters run over: a list's own items, a string's characters, a dict's keys,
// nothing for undefined. Generators give their items once. Fails for what is not iterable.
std::shared_ptr<const ListObject> iterate(Runtime&, const Value&);
bool iterable(const Value&);
std::optional<int64_t> size_of(Runtime&, const Value&);  // Python's len; none: it has none

std::string to_str(Runtime&, const Value&);
std::string repr(Runtime&, const Value&);
std::string real_repr(double);
std::string quoted(std::string_view text);  // as Python's repr quotes a str
int64_t to_index(const Value&, std::string_view what);

[[noreturn]] void fail_undefined(const Value&);

std::string escape_html(std::string_view);

// Python's "%" on strings and str.format.
std::string format_percent(Runtime&, std::string_view format, const Value& values);
std::string format_braces(Runtime&, std::string_view format, Args& args);

// json.dumps. `indent` without a value: one line.
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
std::string to_json(Runtime&, const Value&, const JsonStyle&);

}  // namespace sluice::jinja
