// Filters that make text or numbers of one value.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja/filters.h"
#include "text/jinja/objects.h"
#include "text/jinja/operators.h"
#include "text/jinja/utf8.h"

namespace sluice::jinja {
namespace {

// The text a filter works on; anything else is printed first, as soft_str does.
Value soft(Runtime& rt, const Value& v) { return v.is_string() ? v : rt.string(to_str(rt, v)); }

Value method(Runtime& rt, const Value& subject, const char* name, Args& args) {
  const char* stable_name = nullptr;
  return string_method(name, &stable_name)(rt, subject, args);
}

Value upper(Runtime& rt, const Value& v, Args& args) {
  return method(rt, soft(rt, v), "upper", args);
}
Value lower(Runtime& rt, const Value& v, Args& args) {
  return method(rt, soft(rt, v), "lower", args);
}
Value capitalize(Runtime& rt, const Value& v, Args& args) {
  return method(rt, soft(rt, v), "capitalize", args);
}
Value trim(Runtime& rt, const Value& v, Args& args) {
  return method(rt, soft(rt, v), "strip", args);
}

Value center(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("center", args, {"width"});
  Args inner{{arg[0] ? *arg[0] : Value(int64_t{80})}, {}};
  return method(rt, soft(rt, v), "center", inner);
}

// Words begin at the start and after blanks, hyphens and opening brackets: not str.title's rule.
Value title(Runtime& rt, const Value& v, Args& args) {
  bind("title", args, {});
  const Value subject = soft(rt, v);
  const std::string_view text = subject.text();
  rt.work(text.size() * 16);
  std::string out;
  size_t word = 0;
  const auto flush = [&](size_t end) {
    if (word >= end) return;
    size_t pos = word;
    utf8::next(text, pos);
    out += utf8::upper(text.substr(word, pos - word));
    out += utf8::lower(text.substr(pos, end - pos));
  };
  for (size_t pos = 0; pos < text.size();) {
    const size_t start = pos;
    const char32_t c = utf8::next(text, pos);
    if (!utf8::is_space(c) && std::u32string_view(U"-({[<").find(c) == std::u32string_view::npos)
      continue;
    flush(start);
    out += text.substr(start, pos - start);
    word = pos;
  }
  flush(text.size());
  return rt.string(std::move(out));
}

Value replace(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("replace", args, {"old", "new", "count"}, 2);
  Args inner{{rt.string(to_str(rt, *arg[0])), rt.string(to_str(rt, *arg[1]))}, {}};
  if (arg[2] && !arg[2]->is_none()) inner.positional.push_back(*arg[2]);
  return method(rt, rt.string(to_str(rt, v)), "replace", inner);
}

Value fallback(Runtime&, const Value& v, Args& args) {
  const auto arg = bind("default", args, {"default_value", "boolean"});
  const bool use = v.is_undefined() || (arg[1] && truthy(*arg[1]) && !truthy(v));
  if (!use) return v;
  return arg[0] ? *arg[0] : make_string("");
}

Value escape(Runtime& rt, const Value& v, Args& args) {
  bind("escape", args, {});
  if (v.safe()) return v;
  return rt.string(escape_html(to_str(rt, v)), true);
}
Value forceescape(Runtime& rt, const Value& v, Args& args) {
  bind("forceescape", args, {});
  return rt.string(escape_html(to_str(rt, v)), true);
}
Value safe(Runtime& rt, const Value& v, Args& args) {
  bind("safe", args, {});
  return rt.string(to_str(rt, v), true);
}
Value string(Runtime& rt, const Value& v, Args& args) {
  bind("string", args, {});
  return soft(rt, v);
}

Value format(Runtime& rt, const Value& v, Args& args) {
  if (!args.positional.empty() && !args.keyword.empty())
    fail("format: positional and keyword arguments cannot be mixed");
  Value values;
  if (args.keyword.empty()) {
    values = rt.list(args.positional, ListObject::Flavor::tuple);
  } else {
    auto dict = std::make_shared<DictObject>();
    for (const auto& [key, value] : args.keyword) dict->set(rt.string(key), value);
    values = rt.dict(std::move(dict));
  }
  const Value subject = soft(rt, v);
  return rt.string(format_percent(rt, subject.text(), values), subject.safe());
}

Value indent(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("indent", args, {"width", "first", "blank"});
  if (v.is_undefined()) fail_undefined(v);
  if (!v.is_string()) fail("indent: can only concatenate str to {}", type_name(v));
  std::string margin(4, ' ');
  if (arg[0] && arg[0]->is_string()) {
    margin = arg[0]->text();
  } else if (arg[0]) {
    const int64_t width = std::max<int64_t>(to_index(*arg[0], "indent: width"), 0);
    rt.check_string(static_cast<size_t>(width));
    margin.assign(static_cast<size_t>(width), ' ');
  }
  const bool first = arg[1] && truthy(*arg[1]);
  const bool blank = arg[2] && truthy(*arg[2]);
  Args none;
  const Value lines = method(rt, rt.string(v.text() + '\n'), "splitlines", none);
  const auto& items = lines.list().items;
  std::string out = first ? margin : "";
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !items[i].text().empty())) out += margin;
    out += items[i].text();
    rt.step();
    rt.work(margin.size());
    rt.check_string(out.size());
  }
  return rt.string(std::move(out), v.safe());
}

Value truncate(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("truncate", args, {"length", "killwords", "end", "leeway"});
  const int64_t length = arg[0] ? to_index(*arg[0], "truncate: length") : 255;
  const std::string end = arg[2] ? to_str(rt, *arg[2]) : "...";
  const int64_t leeway = arg[3] && !arg[3]->is_none() ? to_index(*arg[3], "truncate: leeway") : 5;
  const int64_t end_length = static_cast<int64_t>(utf8::length(end));
  if (length < end_length) fail("truncate: expected length >= {}, got {}", end_length, length);
  if (leeway < 0) fail("truncate: expected leeway >= 0, got {}", leeway);
  const auto have = size_of(rt, v);
  if (!have) fail("object of type '{}' has no len()", type_name(v));
  if (*have <= length || *have - length <= leeway) return v;
  if (!v.is_string()) fail("truncate needs a string, not {}", type_name(v));
  const std::string& text = v.text();
  std::string kept = text.substr(0, utf8::offset(text, static_cast<size_t>(length - end_length)));
  if (!arg[1] || !truthy(*arg[1]))
    if (const size_t space = kept.rfind(' '); space != std::string::npos) kept.resize(space);
  return rt.string(kept + end);
}

Value wordcount(Runtime& rt, const Value& v, Args& args) {
  bind("wordcount", args, {});
  const Value subject = soft(rt, v);
  rt.work(subject.text().size() * 4);
  int64_t words = 0;
  bool inside = false;
  for (size_t pos = 0; pos < subject.text().size();) {
    const bool word = utf8::is_word(utf8::next(subject.text(), pos));
    words += word && !inside;
    inside = word;
  }
  return Value(words);
}

// --- numbers ---

// Python's int(text, base): blanks around, a sign, single underscores. None: not one.
std::optional<Value> parse_int(std::string_view text, int64_t base) {
  text = utf8::strip(text, true, true);
  bool negative = false;
  if (text.starts_with('-') || text.starts_with('+')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  const auto prefixed = [&](char letter, int64_t b) {
    if (text.size() < 3 || text[0] != '0' || (text[1] | 0x20) != letter) return false;
    return base == b || base == 0;
  };
  for (const auto& [letter, b] : {std::pair{'x', 16}, std::pair{'o', 8}, std::pair{'b', 2}}) {
    if (!prefixed(letter, b)) continue;
    base = b;
    text.remove_prefix(text[2] == '_' ? 3 : 2);
    break;
  }
  if (base == 0) base = 10;
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '_' && i > 0 && i + 1 < text.size() && text[i - 1] != '_') continue;
    digits += text[i];
  }
  uint64_t n = 0;
  const auto r =
      std::from_chars(digits.data(), digits.data() + digits.size(), n, static_cast<int>(base));
  if (digits.empty() || digits[0] == '-' || r.ptr != digits.data() + digits.size())
    return std::nullopt;
  if (r.ec == std::errc::result_out_of_range || n > static_cast<uint64_t>(INT64_MAX)) {
    if (base != 10) fail("integer {} does not fit in 64 bits", text.substr(0, 50));
    digits.erase(0, digits.find_first_not_of('0'));
    return make_big_int(negative ? "-" + digits : digits);
  }
  return Value(negative ? -static_cast<int64_t>(n) : static_cast<int64_t>(n));
}

std::optional<double> parse_real(std::string_view text) {
  text = utf8::strip(text, true, true);
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](size_t k) {
      return k < text.size() && text[k] >= '0' && text[k] <= '9';
    };
    if (text[i] == '_' && i > 0 && digit(i - 1) && digit(i + 1)) continue;
    digits += text[i];
  }
  std::string_view s = digits;
  const bool negative = s.starts_with('-');
  if (negative || s.starts_with('+')) s.remove_prefix(1);
  if (s.empty() || s[0] == '-' || s[0] == '+' || s.find('(') != std::string_view::npos)
    return std::nullopt;
  double d = 0;
  const auto r = std::from_chars(s.data(), s.data() + s.size(), d);
  if (r.ptr != s.data() + s.size()) return std::nullopt;
  if (r.ec == std::errc::result_out_of_range) d = std::strtod(digits.c_str(), nullptr);
  if (r.ec == std::errc::result_out_of_range) return d;
  return negative ? -d : d;
}

std::optional<Value> truncated(double d) {
  if (std::isnan(d) || std::isinf(d)) return std::nullopt;
  if (std::fabs(d) >= 9.2e18) fail("{} does not fit in 64 bits", real_repr(d));
  return Value(static_cast<int64_t>(d));
}

Value to_int(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("int", args, {"default", "base"});
  const Value otherwise = arg[0] ? *arg[0] : Value(int64_t{0});
  if (v.is_undefined()) fail_undefined(v);
  if (v.is_integral()) return Value(v.integer());
  if (v.as<BigInt>() != nullptr) return v;
  if (v.kind() == Kind::real) {
    if (std::isinf(v.real())) return otherwise;
    return truncated(v.real()).value_or(otherwise);
  }
  if (!v.is_string()) return otherwise;
  rt.work(v.text().size() * 2);
  const int64_t base = arg[1] ? to_index(*arg[1], "int: base") : 10;
  if (base == 0 || (base >= 2 && base <= 36))
    if (const auto n = parse_int(v.text(), base)) return *n;
  if (const auto d = parse_real(v.text())) return truncated(*d).value_or(otherwise);
  return otherwise;
}

Value to_float(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("float", args, {"default"});
  if (v.is_undefined()) fail_undefined(v);
  if (v.is_number()) return Value(v.real());
  if (v.is_string()) {
    rt.work(v.text().size() * 2);
    if (const auto d = parse_real(v.text())) return Value(*d);
  }
  return arg[0] ? *arg[0] : Value(0.0);
}

Value absolute(Runtime&, const Value& v, Args& args) {
  bind("abs", args, {});
  if (v.is_undefined()) fail_undefined(v);
  if (v.kind() == Kind::real) return Value(std::fabs(v.real()));
  if (!v.is_integral()) fail("bad operand type for abs(): '{}'", type_name(v));
  return v.integer() < 0 ? negate(v) : Value(v.integer());
}

Value round(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("round", args, {"precision", "method"});
  const std::string how = arg[1] ? to_str(rt, *arg[1]) : "common";
  if (how != "common" && how != "ceil" && how != "floor")
    fail("round: method must be common, ceil or floor");
  if (v.is_undefined()) fail_undefined(v);
  if (!v.is_number()) fail("round: a number is needed, not {}", type_name(v));
  const int64_t precision =
      std::clamp<int64_t>(arg[0] ? to_index(*arg[0], "round: precision") : 0, -400, 400);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (how != "common") {
    const double scaled = v.real() * scale;
    if (!std::isfinite(scaled)) fail("round: cannot convert {} to an integer", real_repr(scaled));
    // Adding 0 makes -0 what it is as an integer.
    return Value(((how == "ceil" ? std::ceil(scaled) : std::floor(scaled)) + 0.0) / scale);
  }
  if (v.is_integral() && precision >= 0) return Value(v.integer());
  double d = v.real();
  if (std::isfinite(d)) {
    if (precision >= 0) {
      // printf rounds the exact value half to even, as Python does.
      d = std::strtod(fmt::format("{:.{}f}", d, precision).c_str(), nullptr);
    } else {
      const double unit = std::pow(10.0, static_cast<double>(-precision));
      d = std::isinf(unit) ? 0 : std::nearbyint(d / unit) * unit;
    }
  }
  if (v.is_integral()) return Value(static_cast<int64_t>(d));
  return Value(d);
}

// --- JSON ---

Value tojson(Runtime& rt, const Value& v, Args& args) {
  const auto arg = bind("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = arg[0] && truthy(*arg[0]);
  style.sort_keys = arg[3] && truthy(*arg[3]);
  if (arg[1] && !arg[1]->is_none()) {
    if (arg[1]->is_string()) {
      style.indent = arg[1]->text();
    } else {
      const int64_t width = std::max<int64_t>(to_index(*arg[1], "tojson: indent"), 0);
      rt.check_string(static_cast<size_t>(width));
      style.indent = std::string(static_cast<size_t>(width), ' ');
    }
    style.item_separator.assign(1, ',');
  }
  if (arg[2] && !arg[2]->is_none()) {
    const auto pair = iterate(rt, *arg[2]);
    if (pair->items.size() != 2 || !pair->items[0].is_string() || !pair->items[1].is_string())
      fail("tojson: separators must be two strings");
    style.item_separator = pair->items[0].text();
    style.key_separator = pair->items[1].text();
  }
  return rt.string(to_json(rt, v, style));
}

constexpr FilterEntry entries[] = {
    {"upper", upper},     {"lower", lower},       {"capitalize", capitalize},
    {"title", title},     {"trim", trim},         {"center", center},
    {"replace", replace}, {"default", fallback},  {"d", fallback},
    {"escape", escape},   {"e", escape},          {"forceescape", forceescape},
    {"safe", safe},       {"string", string},     {"format", format},
    {"indent", indent},   {"truncate", truncate}, {"wordcount", wordcount},
    {"int", to_int},      {"float", to_float},    {"abs", absolute},
    {"round", round},     {"tojson", tojson},     {{}, nullptr},
};

}  // namespace

const FilterEntry* string_filters() { return entries; }

}  // namespace sluice::jinja
