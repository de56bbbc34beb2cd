// The methods of Python's str.
#include <algorithm>

#include "text/jinja/objects.h"
#include "text/jinja/operators.h"
#include "text/jinja/utf8.h"

namespace sluice::jinja {
namespace {

constexpr size_t npos = std::string_view::npos;

std::string_view text_arg(const Value& v, std::string_view method) {
  if (v.is_undefined()) fail_undefined(v);
  if (!v.is_string()) fail("{}() argument must be str, not {}", method, type_name(v));
  return v.text();
}

Value result(Runtime& rt, const Value& self, std::string text) {
  return rt.string(std::move(text), self.safe());
}

// --- strip ---

Value strip_any(Runtime& rt, const Value& self, Args& args, const char* name, bool left,
                bool right) {
  const auto arg = bind(name, args, {"chars"});
  std::string_view text = self.text();
  rt.work(text.size());
  if (!arg[0] || arg[0]->is_none())
    return result(rt, self, std::string(utf8::strip(text, left, right)));
  const std::u32string chars = utf8::decode(text_arg(*arg[0], name));
  rt.step(static_cast<int64_t>(chars.size() / 16));
  const auto listed = [&](char32_t c) {
    rt.step(static_cast<int64_t>(1 + chars.size() / 64));
    return chars.find(c) != std::u32string::npos;
  };
  while (left && !text.empty()) {
    size_t pos = 0;
    if (!listed(utf8::next(text, pos))) break;
    text.remove_prefix(pos);
  }
  while (right && !text.empty()) {
    const size_t start = utf8::previous(text, text.size());
    size_t pos = start;
    if (!listed(utf8::next(text, pos))) break;
    text = text.substr(0, start);
  }
  return result(rt, self, std::string(text));
}

Value strip(Runtime& rt, const Value& self, Args& args) {
  return strip_any(rt, self, args, "strip", true, true);
}
Value lstrip(Runtime& rt, const Value& self, Args& args) {
  return strip_any(rt, self, args, "lstrip", true, false);
}
Value rstrip(Runtime& rt, const Value& self, Args& args) {
  return strip_any(rt, self, args, "rstrip", false, true);
}

// --- split ---

using Parts = std::vector<std::string_view>;

Parts split_space(std::string_view text, int64_t limit, bool from_right) {
  Parts parts;
  while (true) {
    text = utf8::strip(text, !from_right, from_right);
    if (text.empty()) break;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(text);
      break;
    }
    size_t pos = from_right ? text.size() : 0;
    while (from_right ? pos > 0 : pos < text.size()) {
      size_t at = from_right ? utf8::previous(text, pos) : pos;
      const size_t start = at;
      if (utf8::is_space(utf8::next(text, at))) break;
      pos = from_right ? start : at;
    }
    parts.push_back(from_right ? text.substr(pos) : text.substr(0, pos));
    text = from_right ? text.substr(0, pos) : text.substr(pos);
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

Parts split_by(std::string_view text, std::string_view separator, int64_t limit, bool from_right) {
  // Python's two directions can differ where separators overlap ("aaa" by "aa"), so the right one
  // searches from the right, in the mirrored text to stay linear.
  Parts parts;
  if (!from_right) {
    size_t start = 0;
    for (size_t at; (limit < 0 || static_cast<int64_t>(parts.size()) < limit) &&
                    (at = utf8::find(text, separator, start)) != npos;
         start = at + separator.size())
      parts.push_back(text.substr(start, at - start));
    parts.push_back(text.substr(start));
    return parts;
  }
  const std::string mirrored(text.rbegin(), text.rend());
  const std::string mark(separator.rbegin(), separator.rend());
  for (std::string_view part : split_by(mirrored, mark, limit, false)) {
    const size_t end = text.size() - static_cast<size_t>(part.data() - mirrored.data());
    parts.push_back(text.substr(end - part.size(), part.size()));
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

Value split_any(Runtime& rt, const Value& self, Args& args, const char* name, bool from_right) {
  const auto arg = bind(name, args, {"sep", "maxsplit"});
  rt.work(self.text().size() * 8);
  const int64_t limit = arg[1] ? to_index(*arg[1], "maxsplit") : -1;
  Parts parts;
  if (!arg[0] || arg[0]->is_none()) {
    parts = split_space(self.text(), limit, from_right);
  } else {
    const std::string_view separator = text_arg(*arg[0], name);
    if (separator.empty()) fail("empty separator");
    parts = split_by(self.text(), separator, limit, from_right);
  }
  rt.check_items(parts.size());
  std::vector<Value> out;
  out.reserve(parts.size());
  for (std::string_view part : parts) out.push_back(result(rt, self, std::string(part)));
  return rt.list(std::move(out));
}

Value split(Runtime& rt, const Value& self, Args& args) {
  return split_any(rt, self, args, "split", false);
}
Value rsplit(Runtime& rt, const Value& self, Args& args) {
  return split_any(rt, self, args, "rsplit", true);
}

Value splitlines(Runtime& rt, const Value& self, Args& args) {
  const auto arg = bind("splitlines", args, {"keepends"});
  const bool keep = arg[0] && to_index(*arg[0], "splitlines: keepends") != 0;
  const std::string& text = self.text();
  rt.work(text.size() * 8);
  std::vector<Value> out;
  for (size_t pos = 0; pos < text.size();) {
    const size_t start = pos;
    size_t end = pos;
    bool broken = false;
    while (pos < text.size() && !broken) {
      end = pos;
      const char32_t c = utf8::next(text, pos);
      broken = utf8::is_line_break(c);
      if (c == '\r' && pos < text.size() && text[pos] == '\n') ++pos;
    }
    if (!broken) end = pos;
    out.push_back(result(rt, self, text.substr(start, (keep ? pos : end) - start)));
  }
  return rt.list(std::move(out));
}

Value partition_any(Runtime& rt, const Value& self, Args& args, const char* name, bool last) {
  const auto arg = bind(name, args, {"sep"}, 1);
  const std::string_view separator = text_arg(*arg[0], name);
  if (separator.empty()) fail("empty separator");
  const std::string& text = self.text();
  rt.work(text.size() * 2);
  const size_t at = last ? utf8::rfind(text, separator) : utf8::find(text, separator);
  std::string head, mark, tail;
  if (at != npos) {
    head = text.substr(0, at);
    mark = separator;
    tail = text.substr(at + separator.size());
  } else {
    (last ? tail : head) = text;
  }
  return rt.list({result(rt, self, head), result(rt, self, mark), result(rt, self, tail)},
                 ListObject::Flavor::tuple);
}

Value partition(Runtime& rt, const Value& self, Args& args) {
  return partition_any(rt, self, args, "partition", false);
}
Value rpartition(Runtime& rt, const Value& self, Args& args) {
  return partition_any(rt, self, args, "rpartition", true);
}

// --- search ---

// The part of a string that optional start and end arguments leave; `base`: its offset in bytes;
// false when start lies past the end, where nothing is found, not even "".
bool window(Runtime& rt, std::string_view& text, const std::optional<Value>& start,
            const std::optional<Value>& end, size_t& base) {
  rt.work(text.size() * 2);
  base = 0;
  const bool has_start = start && !start->is_none();
  const bool has_end = end && !end->is_none();
  if (!has_start && !has_end) return true;
  const int64_t length = static_cast<int64_t>(utf8::length(text));
  const auto place = [&](const Value& v) {
    const int64_t i = to_index(v, "slice indices");
    return i < 0 ? std::max<int64_t>(i + length, 0) : i;
  };
  const int64_t from = has_start ? place(*start) : 0;
  const int64_t to = has_end ? std::min(place(*end), length) : length;
  if (from > to) return false;
  base = utf8::offset(text, static_cast<size_t>(from));
  const size_t stop = utf8::offset(text, static_cast<size_t>(to));
  text = text.substr(base, stop - base);
  return true;
}

Value with_affix(Runtime& rt, const Value& self, Args& args, const char* name, bool at_start) {
  const auto arg = bind(name, args, {"prefix", "start", "end"}, 1);
  std::string_view text = self.text();
  size_t base;
  if (!window(rt, text, arg[1], arg[2], base)) return Value(false);
  const auto matches = [&](const Value& v) {
    const std::string_view affix = text_arg(v, name);
    return at_start ? text.starts_with(affix) : text.ends_with(affix);
  };
  if (arg[0]->is_list() && arg[0]->list().flavor == ListObject::Flavor::tuple) {
    for (const Value& v : arg[0]->list().items) {
      rt.step();
      if (matches(v)) return Value(true);
    }
    return Value(false);
  }
  return Value(matches(*arg[0]));
}

Value startswith(Runtime& rt, const Value& self, Args& args) {
  return with_affix(rt, self, args, "startswith", true);
}
Value endswith(Runtime& rt, const Value& self, Args& args) {
  return with_affix(rt, self, args, "endswith", false);
}

Value find_any(Runtime& rt, const Value& self, Args& args, const char* name, bool last, bool must) {
  const auto arg = bind(name, args, {"sub", "start", "end"}, 1);
  const std::string_view needle = text_arg(*arg[0], name);
  std::string_view text = self.text();
  size_t base;
  if (window(rt, text, arg[1], arg[2], base)) {
    const size_t at = last ? utf8::rfind(text, needle) : utf8::find(text, needle);
    if (at != npos)
      return Value(
          static_cast<int64_t>(utf8::length(std::string_view(self.text()).substr(0, base + at))));
  }
  if (must) fail("substring not found");
  return Value(int64_t{-1});
}

Value find(Runtime& rt, const Value& self, Args& args) {
  return find_any(rt, self, args, "find", false, false);
}
Value rfind(Runtime& rt, const Value& self, Args& args) {
  return find_any(rt, self, args, "rfind", true, false);
}
Value index(Runtime& rt, const Value& self, Args& args) {
  return find_any(rt, self, args, "index", false, true);
}
Value rindex(Runtime& rt, const Value& self, Args& args) {
  return find_any(rt, self, args, "rindex", true, true);
}

Value count(Runtime& rt, const Value& self, Args& args) {
  const auto arg = bind("count", args, {"sub", "start", "end"}, 1);
  const std::string_view needle = text_arg(*arg[0], "count");
  std::string_view text = self.text();
  size_t base;
  if (!window(rt, text, arg[1], arg[2], base)) return Value(int64_t{0});
  if (needle.empty()) return Value(static_cast<int64_t>(utf8::length(text)) + 1);
  int64_t n = 0;
  for (size_t at = 0; (at = utf8::find(text, needle, at)) != npos; at += needle.size()) ++n;
  return Value(n);
}

// --- change ---

Value replace(Runtime& rt, const Value& self, Args& args) {
  const auto arg = bind("replace", args, {"old", "new", "count"}, 2);
  const std::string_view text = self.text();
  const std::string_view old = text_arg(*arg[0], "replace");
  const std::string_view now = text_arg(*arg[1], "replace");
  int64_t left = arg[2] && !arg[2]->is_none() ? to_index(*arg[2], "count") : -1;
  rt.work(text.size() * 2);
  std::string out;
  size_t pos = 0;
  while (left != 0) {
    const size_t at = utf8::find(text, old, pos);
    if (at == npos) break;
    rt.work(now.size());
    rt.check_string(out.size() + (at - pos) + now.size());
    out += text.substr(pos, at - pos);
    out += now;
    pos = at + old.size();
    --left;
    if (old.empty()) {  // between all characters
      if (pos >= text.size()) break;
      const size_t start = pos;
      utf8::next(text, pos);
      out += text.substr(start, pos - start);
    }
  }
  out += text.substr(std::min(pos, text.size()));
  return result(rt, self, std::move(out));
}

template <std::string (*change)(std::string_view)>
Value changed(Runtime& rt, const Value& self, Args& args) {
  bind("method", args, {});
  rt.work(self.text().size() * 16);
  return result(rt, self, change(self.text()));
}

Value join(Runtime& rt, const Value& self, Args& args) {
  const auto arg = bind("join", args, {"iterable"}, 1);
  const auto list = iterate(rt, *arg[0]);
  std::string out;
  for (size_t i = 0; i < list->items.size(); ++i) {
    const Value& item = list->items[i];
    if (!item.is_string())
      fail("sequence item {}: expected str instance, {} found", i, type_name(item));
    rt.step();
    rt.work(item.text().size() + self.text().size());
    rt.check_string(out.size() + item.text().size() + self.text().size());
    if (i > 0) out += self.text();
    out += item.text();
  }
  return result(rt, self, std::move(out));
}

Value format(Runtime& rt, const Value& self, Args& args) {
  return rt.string(format_braces(rt, self.text(), args));
}

Value remove_affix(Runtime& rt, const Value& self, Args& args, const char* name, bool prefix) {
  const auto arg = bind(name, args, {"affix"}, 1);
  const std::string_view affix = text_arg(*arg[0], name);
  std::string_view text = self.text();
  if (prefix && text.starts_with(affix)) text.remove_prefix(affix.size());
  if (!prefix && text.ends_with(affix)) text.remove_suffix(affix.size());
  return result(rt, self, std::string(text));
}

Value removeprefix(Runtime& rt, const Value& self, Args& args) {
  return remove_affix(rt, self, args, "removeprefix", true);
}
Value removesuffix(Runtime& rt, const Value& self, Args& args) {
  return remove_affix(rt, self, args, "removesuffix", false);
}

Value justify(Runtime& rt, const Value& self, Args& args, const char* name, int side) {
  const auto arg = bind(name, args, {"width", "fillchar"}, 1);
  const int64_t width = to_index(*arg[0], "width");
  const std::string_view fill = arg[1] ? text_arg(*arg[1], name) : " ";
  if (utf8::length(fill) != 1) fail("the fill character must be exactly one character long");
  rt.work(self.text().size());
  const int64_t missing = width - static_cast<int64_t>(utf8::length(self.text()));
  if (missing <= 0) return self;
  if (missing > (int64_t{1} << 40)) rt.check_string(SIZE_MAX);
  rt.check_string(self.text().size() + static_cast<size_t>(missing) * fill.size());
  // Where the odd one goes when centring is CPython's rule.
  const int64_t left = side < 0 ? 0 : side > 0 ? missing : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += self.text();
  for (int64_t i = left; i < missing; ++i) out += fill;
  return result(rt, self, std::move(out));
}

Value ljust(Runtime& rt, const Value& self, Args& args) {
  return justify(rt, self, args, "ljust", -1);
}
Value rjust(Runtime& rt, const Value& self, Args& args) {
  return justify(rt, self, args, "rjust", 1);
}
Value center(Runtime& rt, const Value& self, Args& args) {
  return justify(rt, self, args, "center", 0);
}

Value zfill(Runtime& rt, const Value& self, Args& args) {
  const auto arg = bind("zfill", args, {"width"}, 1);
  const bool has_sign = self.text().starts_with('-') || self.text().starts_with('+');
  const int64_t sign = has_sign ? 1 : 0;
  Args inner{{Value(to_index(*arg[0], "width") - sign), rt.string("0")}, {}};
  const Value padded = rjust(rt, rt.string(self.text().substr(has_sign)), inner);
  return result(rt, self, self.text().substr(0, has_sign) + padded.text());
}

// --- questions ---

template <bool (*is)(char32_t)>
Value all_are(Runtime& rt, const Value& self, Args& args) {
  bind("method", args, {});
  const std::string& text = self.text();
  rt.work(text.size() * 4);
  for (size_t pos = 0; pos < text.size();)
    if (!is(utf8::next(text, pos))) return Value(false);
  return Value(!text.empty());
}

bool is_alnum(char32_t c) { return utf8::is_alpha(c) || utf8::is_numeric(c); }
bool is_ascii(char32_t c) { return c < 0x80; }

template <bool (*wanted)(char32_t), bool (*other)(char32_t)>
Value one_case(Runtime& rt, const Value& self, Args& args) {
  bind("method", args, {});
  rt.work(self.text().size() * 4);
  bool any = false;
  for (size_t pos = 0; pos < self.text().size();) {
    const char32_t c = utf8::next(self.text(), pos);
    if (other(c)) return Value(false);
    any = any || wanted(c);
  }
  return Value(any);
}

struct Entry {
  const char* name;
  Function::Fn fn;
};

constexpr Entry methods[] = {
    {"strip", strip},
    {"lstrip", lstrip},
    {"rstrip", rstrip},
    {"split", split},
    {"rsplit", rsplit},
    {"splitlines", splitlines},
    {"partition", partition},
    {"rpartition", rpartition},
    {"startswith", startswith},
    {"endswith", endswith},
    {"find", find},
    {"rfind", rfind},
    {"index", index},
    {"rindex", rindex},
    {"count", count},
    {"replace", replace},
    {"upper", changed<utf8::upper>},
    {"lower", changed<utf8::lower>},
    {"casefold", changed<utf8::casefold>},
    {"title", changed<utf8::title>},
    {"capitalize", changed<utf8::capitalize>},
    {"swapcase", changed<utf8::swapcase>},
    {"join", join},
    {"format", format},
    {"removeprefix", removeprefix},
    {"removesuffix", removesuffix},
    {"ljust", ljust},
    {"rjust", rjust},
    {"center", center},
    {"zfill", zfill},
    {"isdigit", all_are<utf8::is_digit>},
    {"isdecimal", all_are<utf8::is_decimal>},
    {"isnumeric", all_are<utf8::is_numeric>},
    {"isalpha", all_are<utf8::is_alpha>},
    {"isalnum", all_are<is_alnum>},
    {"isspace", all_are<utf8::is_space>},
    {"isascii", all_are<is_ascii>},
    {"isupper", one_case<utf8::is_upper, utf8::is_lower>},
    {"islower", one_case<utf8::is_lower, utf8::is_upper>},
};

}  // namespace

Function::Fn string_method(std::string_view name, const char** stable_name) {
  for (const Entry& entry : methods) {
    if (name != entry.name) continue;
    *stable_name = entry.name;
    return entry.fn;
  }
  return nullptr;
}

}  // namespace sluice::jinja
