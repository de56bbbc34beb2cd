// Python's str() and repr(), and json.dumps.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja/objects.h"
#include "text/jinja/operators.h"
#include "text/jinja/utf8.h"

namespace sluice::jinja {
namespace {

using Flavor = ListObject::Flavor;

void append_repr(Runtime& rt, std::string& out, const Value& v);

void append_items(Runtime& rt, std::string& out, const std::vector<Value>& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(rt, out, items[i]);
  }
}

void append_list(Runtime& rt, std::string& out, const ListObject& list) {
  switch (list.flavor) {
    case Flavor::list:
      out += '[';
      append_items(rt, out, list.items);
      out += ']';
      return;
    case Flavor::tuple:
      out += '(';
      append_items(rt, out, list.items);
      out += list.items.size() == 1 ? ",)" : ")";
      return;
    case Flavor::range:
      out += fmt::format("range({}, {}", list.range.start, list.range.stop);
      out += list.range.step == 1 ? ")" : fmt::format(", {})", list.range.step);
      return;
    case Flavor::generator:
      // Python prints an address here; no template can want it.
      fail("a generator cannot be printed; use |list");
    default:
      out += list.flavor == Flavor::keys     ? "dict_keys(["
             : list.flavor == Flavor::values ? "dict_values(["
                                             : "dict_items([";
      append_items(rt, out, list.items);
      out += "])";
  }
}

void append_repr(Runtime& rt, std::string& out, const Value& v) {
  const Runtime::Nested nested(rt);
  rt.step();
  rt.check_string(out.size());
  switch (v.kind()) {
    case Kind::undefined:
      out += "Undefined";
      return;
    case Kind::none:
      out += "None";
      return;
    case Kind::boolean:
      out += v.boolean() ? "True" : "False";
      return;
    case Kind::integer:
      out += std::to_string(v.integer());
      return;
    case Kind::real:
      out += real_repr(v.real());
      return;
    case Kind::string:
      rt.work(v.text().size() * 4);
      if (v.safe()) out += "Markup(";
      out += quoted(v.text());
      if (v.safe()) out += ')';
      return;
    case Kind::list:
      append_list(rt, out, v.list());
      return;
    case Kind::dict: {
      out += '{';
      bool first = true;
      for (const auto& [key, value] : v.dict().entries) {
        if (!first) out += ", ";
        first = false;
        append_repr(rt, out, key);
        out += ": ";
        append_repr(rt, out, value);
      }
      out += '}';
      return;
    }
    case Kind::object:
      out += static_cast<SpecialObject*>(v.object().get())->repr(rt);
  }
}

void append_hex(std::string& out, char prefix, int digits, char32_t c) {
  out += fmt::format("\\{}{:0{}x}", prefix, static_cast<uint32_t>(c), digits);
}

class JsonWriter {
 public:
  JsonWriter(Runtime& rt, const JsonStyle& style) : rt_(rt), style_(style) {}

  void value(const Value& v, size_t level) {
    const Runtime::Nested nested(rt_);
    rt_.step();
    rt_.check_string(out.size());
    switch (v.kind()) {
      case Kind::none:
        out += "null";
        return;
      case Kind::boolean:
        out += v.boolean() ? "true" : "false";
        return;
      case Kind::integer:
        out += std::to_string(v.integer());
        return;
      case Kind::real:
        real(v.real());
        return;
      case Kind::string:
        string(v.text());
        return;
      case Kind::list:
        if (v.list().flavor <= Flavor::tuple) return list(v.list(), level);
        break;
      case Kind::dict:
        return dict(v.dict(), level);
      case Kind::object:
        if (const auto* big = v.as<BigInt>()) {
          out += big->digits;
          return;
        }
        break;
      default:
        break;
    }
    fail("Object of type {} is not JSON serializable", type_name(v));
  }

  std::string out;

 private:
  void real(double d) {
    if (std::isnan(d)) {
      out += "NaN";
    } else if (std::isinf(d)) {
      out += d > 0 ? "Infinity" : "-Infinity";
    } else {
      out += real_repr(d);
    }
  }

  void string(std::string_view s) {
    rt_.work(s.size() * 4);
    out += '"';
    for (size_t pos = 0; pos < s.size();) {
      const size_t start = pos;
      const char32_t c = utf8::next(s, pos);
      static constexpr std::string_view special = "\"\\\n\r\t\f\b";
      const size_t k = c < 0x80 ? special.find(static_cast<char>(c)) : std::string_view::npos;
      if (k != std::string_view::npos) {
        out += '\\';
        out += "\"\\nrtfb"[k];
      } else if (c < 0x20 || (style_.ensure_ascii && c > 0x7E)) {
        if (c > 0xFFFF) {
          append_hex(out, 'u', 4, 0xD800 + ((c - 0x10000) >> 10));
          append_hex(out, 'u', 4, 0xDC00 + ((c - 0x10000) & 0x3FF));
        } else {
          append_hex(out, 'u', 4, c);
        }
      } else {
        out += s.substr(start, pos - start);
      }
    }
    out += '"';
  }

  void newline(size_t level) {
    if (!style_.indent) return;
    rt_.check_string(style_.indent->size() * level + out.size());
    rt_.work(style_.indent->size() * level);
    out += '\n';
    for (size_t i = 0; i < level; ++i) out += *style_.indent;
  }

  void list(const ListObject& list, size_t level) {
    if (list.items.empty()) {
      out += "[]";
      return;
    }
    out += '[';
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out += style_.item_separator;
      newline(level + 1);
      value(list.items[i], level + 1);
    }
    newline(level);
    out += ']';
  }

  void key(const Value& k) {
    if (k.is_string()) return string(k.text());
    if (k.kind() > Kind::real || k.is_undefined())
      fail("keys must be str, int, float, bool or None, not {}", type_name(k));
    out += '"';
    value(k, 0);
    out += '"';
  }

  void dict(const DictObject& dict, size_t level) {
    if (dict.entries.empty()) {
      out += "{}";
      return;
    }
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys)
      std::stable_sort(entries.begin(), entries.end(),
                       [&](auto* a, auto* b) { return less(rt_, a->first, b->first); });
    out += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out += style_.item_separator;
      newline(level + 1);
      key(entries[i]->first);
      out += style_.key_separator;
      value(entries[i]->second, level + 1);
    }
    newline(level);
    out += '}';
  }

  Runtime& rt_;
  const JsonStyle& style_;
};

}  // namespace

std::string to_str(Runtime& rt, const Value& v) {
  if (v.is_string()) {
    rt.work(v.text().size());
    return v.text();
  }
  if (v.is_undefined()) return "";
  return repr(rt, v);
}

std::string repr(Runtime& rt, const Value& v) {
  std::string out;
  append_repr(rt, out, v);
  rt.check_string(out.size());
  return out;
}

// The shortest digits that read back as the same number; exponents from 1e16 and below 1e-4.
std::string real_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<size_t>(end.ptr - buffer));
  const size_t e = text.find('e');
  const int exponent = std::atoi(std::string(text.substr(e + 1)).c_str());
  if (exponent < -4 || exponent >= 16) {
    return fmt::format("{}e{}{:02}", text.substr(0, e), exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::fixed);
  std::string out(buffer, fixed.ptr);
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

std::string quoted(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t pos = 0; pos < text.size();) {
    const size_t start = pos;
    const char32_t c = utf8::next(text, pos);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (utf8::is_printable(c)) {
      out += text.substr(start, pos - start);
    } else if (c < 0x100) {
      append_hex(out, 'x', 2, c);
    } else if (c < 0x10000) {
      append_hex(out, 'u', 4, c);
    } else {
      append_hex(out, 'U', 8, c);
    }
  }
  out += quote;
  return out;
}

std::string escape_html(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (char c : s) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string to_json(Runtime& rt, const Value& v, const JsonStyle& style) {
  JsonWriter writer(rt, style);
  writer.value(v, 0);
  rt.check_string(writer.out.size());
  return std::move(writer.out);
}

}  // namespace sluice::jinja
