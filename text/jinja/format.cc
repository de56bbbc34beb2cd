// Python's two ways to format strings: '%s' % x and '{}'.format(x).
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "text/jinja/operators.h"
#include "text/jinja/utf8.h"

namespace sluice::jinja {
namespace {

constexpr int kMaxWidth = 10'000;  // of one field: more is nobody's layout

struct Spec {
  char fill_byte = ' ';
  std::string fill = " ";
  char align = 0;  // < > ^ =
  char sign = '-';
  bool alternate = false;
  bool comma = false;
  int width = 0;
  int precision = -1;
  char type = 0;
};

int number(std::string_view s, size_t& i) {
  int n = 0;
  for (; i < s.size() && s[i] >= '0' && s[i] <= '9'; ++i) {
    n = n * 10 + (s[i] - '0');
    if (n > kMaxWidth) fail("width or precision above {} in a format", kMaxWidth);
  }
  return n;
}

std::string pad(std::string body, const Spec& spec, char default_align) {
  const size_t length = utf8::length(body);
  if (length >= static_cast<size_t>(spec.width)) return body;
  const size_t missing = static_cast<size_t>(spec.width) - length;
  const char align = spec.align != 0 ? spec.align : default_align;
  size_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  std::string out;
  size_t skip = 0;
  if (align == '=' && !body.empty() && (body[0] == '-' || body[0] == '+' || body[0] == ' ')) {
    out += body[0];
    skip = 1;
  }
  for (size_t i = 0; i < left; ++i) out += spec.fill;
  out += std::string_view(body).substr(skip);
  for (size_t i = left; i < missing; ++i) out += spec.fill;
  return out;
}

std::string with_commas(const std::string& digits) {
  const size_t start = !digits.empty() && (digits[0] == '-' || digits[0] == '+') ? 1 : 0;
  size_t end = digits.find_first_of(".eE");
  if (end == std::string::npos) end = digits.size();
  std::string out = digits.substr(0, start);
  for (size_t i = start; i < end; ++i) {
    if (i > start && (end - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out + digits.substr(end);
}

std::string format_integer(int64_t n, const Spec& spec) {
  const char type = spec.type == 0 ? 'd' : spec.type;
  const bool negative = n < 0;
  uint64_t magnitude = negative ? 0 - static_cast<uint64_t>(n) : static_cast<uint64_t>(n);
  const int base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  char buffer[72];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, magnitude, base);
  std::string digits(buffer, end.ptr);
  if (type == 'X')
    for (char& c : digits) c = static_cast<char>(c >= 'a' ? c - 32 : c);
  if (spec.precision > static_cast<int>(digits.size()))
    digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
  if (spec.comma) digits = with_commas(digits);
  if (spec.alternate && base != 10) digits.insert(0, std::string("0") + type);
  if (negative) return "-" + digits;
  if (spec.sign != '-') return spec.sign + digits;
  return digits;
}

std::string format_real(double d, const Spec& spec) {
  const char type = spec.type == 0 ? 'g' : spec.type;
  std::string text;
  if (spec.type == 0 && spec.precision < 0) {
    text = real_repr(d);
  } else {
    const bool percent = type == '%';
    const char format[] = {'%', spec.alternate ? '#' : '-', '.', '*', percent ? 'f' : type, 0};
    const int precision = spec.precision < 0 ? 6 : spec.precision;
    const double value = percent ? d * 100 : d;
    const int size = std::snprintf(nullptr, 0, format, precision, value);
    text.resize(static_cast<size_t>(size) + 1);
    std::snprintf(text.data(), text.size(), format, precision, value);
    text.pop_back();
    if (percent) text += '%';
  }
  if (spec.comma) text = with_commas(text);
  if (spec.sign != '-' && text[0] != '-') text.insert(0, 1, spec.sign);
  return text;
}

// --- "%" ---

class Percent {
 public:
  Percent(Runtime& rt, std::string_view format, const Value& values)
      : rt_(rt), format_(format), values_(values) {}

  std::string run() {
    std::string out;
    for (size_t i = 0; i < format_.size();) {
      if (format_[i] != '%') {
        out += format_[i++];
        continue;
      }
      ++i;
      field(out, i);
      rt_.step();
      rt_.check_string(out.size());
    }
    if (is_tuple() && next_ < values_.list().items.size())
      fail("not all arguments converted during string formatting");
    // What has items by key or index may be left unused.
    const bool has_items = values_.is_undefined() || values_.is_dict() ||
                           (values_.is_list() && values_.list().indexable());
    if (!has_items && next_ == 0) fail("not all arguments converted during string formatting");
    return out;
  }

 private:
  bool is_tuple() const {
    return values_.is_list() && values_.list().flavor == ListObject::Flavor::tuple;
  }

  Value next_value() {
    if (is_tuple() && next_ < values_.list().items.size()) return values_.list().items[next_++];
    if (!is_tuple() && next_++ == 0) return values_;
    fail("not enough arguments for format string");
  }

  int star(size_t& i) {
    if (i >= format_.size() || format_[i] != '*') return number(format_, i);
    ++i;
    const int64_t n = to_index(next_value(), "width");
    if (n < -kMaxWidth || n > kMaxWidth) fail("width or precision above {} in a format", kMaxWidth);
    return static_cast<int>(n);
  }

  void field(std::string& out, size_t& i) {
    std::optional<Value> named;
    if (i < format_.size() && format_[i] == '(') {
      const size_t close = format_.find(')', i);
      if (close == std::string_view::npos) fail("incomplete format key");
      if (!values_.is_dict()) fail("format requires a mapping");
      const std::string_view key = format_.substr(i + 1, close - i - 1);
      const Value* v = values_.dict().find(key);
      if (v == nullptr) fail("no value for the format key '{}'", key);
      named = *v;
      i = close + 1;
    }
    Spec spec;
    bool zero = false;
    for (;
         i < format_.size() && std::string_view("-+ 0#").find(format_[i]) != std::string_view::npos;
         ++i) {
      if (format_[i] == '-') spec.align = '<';
      if (format_[i] == '0') zero = true;
      if (format_[i] == '#') spec.alternate = true;
      if (format_[i] == '+' || (format_[i] == ' ' && spec.sign == '-')) spec.sign = format_[i];
    }
    spec.width = star(i);
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (i < format_.size() && format_[i] == '.') spec.precision = std::max(0, star(++i));
    if (i >= format_.size()) fail("incomplete format");
    const char type = format_[i++];
    if (type == '%') {
      out += '%';
      return;
    }
    convert(out, type, named ? *named : next_value(), spec, zero);
  }

  void convert(std::string& out, char type, const Value& v, Spec spec, bool zero) {
    if (type == 's' || type == 'r' || type == 'a') {
      std::string text = type == 's' ? to_str(rt_, v) : repr(rt_, v);
      if (spec.precision >= 0) text.resize(utf8::offset(text, static_cast<size_t>(spec.precision)));
      out += pad(std::move(text), spec, '>');
      return;
    }
    if (std::string_view("diuxXoeEfFgG").find(type) == std::string_view::npos)
      fail("unsupported format character '{}'", type);
    if (v.is_undefined()) fail_undefined(v);
    if (!v.is_number()) fail("%{} format: a real number is required, not {}", type, type_name(v));
    if (zero && spec.align == 0) {
      spec.fill = "0";
      spec.align = '=';
    }
    spec.type = type == 'i' || type == 'u' ? 'd' : type;
    if (std::string_view("dxXo").find(spec.type) == std::string_view::npos) {
      out += pad(format_real(v.real(), spec), spec, '>');
      return;
    }
    if (v.kind() == Kind::real && (spec.type != 'd' || !(std::fabs(v.real()) < 9e18)))
      fail("%{} format: an integer is required, not float", type);
    const int64_t n = v.kind() == Kind::real ? static_cast<int64_t>(v.real()) : v.integer();
    out += pad(format_integer(n, spec), spec, '>');
  }

  Runtime& rt_;
  std::string_view format_;
  const Value& values_;
  size_t next_ = 0;
};

// --- "{}" ---

Spec parse_spec(std::string_view s) {
  Spec spec;
  size_t i = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!s.empty()) {
    size_t second = 0;
    utf8::next(s, second);
    if (second < s.size() && is_align(s[second])) {
      spec.fill = s.substr(0, second);
      spec.align = s[second];
      i = second + 1;
    } else if (is_align(s[0])) {
      spec.align = s[0];
      i = 1;
    }
  }
  if (i < s.size() && (s[i] == '+' || s[i] == '-' || s[i] == ' ')) spec.sign = s[i++];
  if (i < s.size() && s[i] == '#') {
    spec.alternate = true;
    ++i;
  }
  if (i < s.size() && s[i] == '0' && spec.align == 0) {
    spec.fill = "0";
    spec.align = '=';
    ++i;
  }
  spec.width = number(s, i);
  if (i < s.size() && s[i] == ',') {
    spec.comma = true;
    ++i;
  }
  if (i < s.size() && s[i] == '.') spec.precision = number(s, ++i);
  if (i < s.size()) spec.type = s[i++];
  if (i < s.size()) fail("invalid format specifier '{}'", s);
  return spec;
}

std::string apply_spec(Runtime& rt, const Value& v, std::string_view text) {
  if (text.empty()) return to_str(rt, v);
  const Spec spec = parse_spec(text);
  const bool real_type = std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  if (v.kind() == Kind::integer || (v.kind() == Kind::boolean && spec.type != 0)) {
    if (spec.type != 0 && real_type) return pad(format_real(v.real(), spec), spec, '>');
    if (spec.type == 0 || std::string_view("dxXob").find(spec.type) != std::string_view::npos)
      return pad(format_integer(v.integer(), spec), spec, '>');
  } else if (v.kind() == Kind::real) {
    if (spec.type == 0 || real_type) return pad(format_real(v.real(), spec), spec, '>');
  } else if (v.is_string() || v.kind() == Kind::boolean) {
    if ((spec.type == 0 || spec.type == 's') && spec.align != '=') {
      std::string body = to_str(rt, v);
      if (spec.precision >= 0) body.resize(utf8::offset(body, static_cast<size_t>(spec.precision)));
      return pad(std::move(body), spec, '<');
    }
  } else if (v.is_undefined()) {
    return "";
  } else {
    fail("unsupported format string passed to {}.__format__", type_name(v));
  }
  fail("invalid format specifier '{}' for an object of type '{}'", text, type_name(v));
}

class Braces {
 public:
  Braces(Runtime& rt, Args& args) : rt_(rt), args_(args) {}

  std::string run(std::string_view format, int level) {
    if (level > 1) fail("format specifiers nested too deeply");
    std::string out;
    for (size_t i = 0; i < format.size();) {
      const char c = format[i];
      if ((c == '{' || c == '}') && i + 1 < format.size() && format[i + 1] == c) {
        out += c;
        i += 2;
      } else if (c == '}') {
        fail("single '}}' in a format string");
      } else if (c == '{') {
        out += field(format, i, level);
      } else {
        out += c;
        ++i;
      }
      rt_.check_string(out.size());
    }
    return out;
  }

 private:
  std::string field(std::string_view format, size_t& i, int level) {
    rt_.step();
    const size_t start = ++i;
    int open = 1;
    for (; i < format.size(); ++i) {
      if (format[i] == '{') ++open;
      if (format[i] == '}' && --open == 0) break;
    }
    if (i >= format.size()) fail("expected '}}' in a format string");
    std::string_view body = format.substr(start, i - start);
    ++i;
    std::string spec;
    if (const size_t colon = body.find(':'); colon != std::string_view::npos) {
      spec = run(body.substr(colon + 1), level + 1);
      body = body.substr(0, colon);
    }
    char conversion = 0;
    if (const size_t bang = body.find('!'); bang != std::string_view::npos) {
      if (bang + 2 != body.size()) fail("bad conversion in a format string");
      conversion = body[bang + 1];
      body = body.substr(0, bang);
    }
    Value v = lookup(body);
    if (conversion == 'r' || conversion == 'a') {
      v = rt_.string(repr(rt_, v));
    } else if (conversion == 's') {
      v = rt_.string(to_str(rt_, v));
    } else if (conversion != 0) {
      fail("unknown conversion '{}' in a format string", conversion);
    }
    return apply_spec(rt_, v, spec);
  }

  static bool all_digits(std::string_view s) {
    return !s.empty() && s.find_first_not_of("0123456789") == std::string_view::npos;
  }

  Value first(std::string_view name) {
    if (name.empty() || all_digits(name)) {
      size_t i = 0;
      const size_t index = name.empty() ? next_++ : static_cast<size_t>(number(name, i));
      if (index >= args_.positional.size())
        fail("replacement index {} out of range for positional arguments", index);
      return args_.positional[index];
    }
    for (const auto& [key, value] : args_.keyword)
      if (key == name) return value;
    fail("no value for '{}' in a format string", name);
  }

  Value lookup(std::string_view path) {
    size_t i = std::min(path.find_first_of(".["), path.size());
    Value v = first(path.substr(0, i));
    while (i < path.size()) {
      rt_.step();
      if (path[i] == '[') {
        const size_t close = path.find(']', i);
        if (close == std::string_view::npos) fail("missing ']' in a format string");
        const std::string_view key = path.substr(i + 1, close - i - 1);
        size_t k = 0;
        v = get_item(rt_, v,
                     all_digits(key) ? Value(static_cast<int64_t>(number(key, k)))
                                     : rt_.string(std::string(key)));
        i = close + 1;
      } else {
        const size_t end = std::min(path.find_first_of(".[", i + 1), path.size());
        v = get_attribute(rt_, v, path.substr(i + 1, end - i - 1));
        i = end;
      }
    }
    return v;
  }

  Runtime& rt_;
  Args& args_;
  size_t next_ = 0;
};

}  // namespace

std::string format_percent(Runtime& rt, std::string_view format, const Value& values) {
  return Percent(rt, format, values).run();
}

std::string format_braces(Runtime& rt, std::string_view format, Args& args) {
  return Braces(rt, args).run(format, 0);
}

}  // namespace sluice::jinja
