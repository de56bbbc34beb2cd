#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "text/jinja/objects.h"
#include "text/jinja/utf8.h"

namespace sluice::jinja {
namespace {

using Flavor = ListObject::Flavor;

const char* symbol(Op op) {
  static constexpr const char* symbols[] = {"+",  "-", "*",  "/", "//", "%",  "** or pow()", "==",
                                            "!=", "<", "<=", ">", ">=", "in", "not in"};
  return symbols[static_cast<size_t>(op)];
}

[[noreturn]] void fail_operands(Op op, const Value& a, const Value& b) {
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  if (op == Op::add && a.is_string())
    fail("can only concatenate str (not \"{}\") to str", type_name(b));
  fail("unsupported operand type(s) for {}: '{}' and '{}'", symbol(op), type_name(a), type_name(b));
}

[[noreturn]] void fail_overflow() {
  fail("arithmetic on integers that do not fit in 64 bits is not supported");
}

int64_t floor_div(int64_t a, int64_t b) {
  const int64_t q = a / b;
  return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

Value power(const Value& a, const Value& b) {
  if (!a.is_integral() || !b.is_integral() || b.integer() < 0) {
    if (a.real() == 0 && b.real() < 0) fail("0.0 cannot be raised to a negative power");
    const double r = std::pow(a.real(), b.real());
    if (std::isnan(r) && !std::isnan(a.real()) && !std::isnan(b.real()))
      fail("a negative number cannot be raised to a fraction");
    if (std::isinf(r) && !std::isinf(a.real()) && !std::isinf(b.real()))
      fail("numerical result out of range");
    return Value(r);
  }
  int64_t result = 1;
  int64_t base = a.integer();
  for (int64_t n = b.integer(); n > 0; n >>= 1) {
    if ((n & 1) != 0 && __builtin_mul_overflow(result, base, &result)) fail_overflow();
    if (n > 1 && __builtin_mul_overflow(base, base, &base)) fail_overflow();
  }
  return Value(result);
}

Value integers(Op op, int64_t a, int64_t b) {
  int64_t r = 0;
  if ((op == Op::floordiv || op == Op::mod) && b == 0) fail("integer division or modulo by zero");
  if ((op == Op::floordiv || op == Op::mod) && b == -1) {
    if (op == Op::mod) return Value(int64_t{0});
    if (__builtin_sub_overflow(int64_t{0}, a, &r)) fail_overflow();
    return Value(r);
  }
  bool overflow = false;
  switch (op) {
    case Op::add:
      overflow = __builtin_add_overflow(a, b, &r);
      break;
    case Op::sub:
      overflow = __builtin_sub_overflow(a, b, &r);
      break;
    case Op::mul:
      overflow = __builtin_mul_overflow(a, b, &r);
      break;
    case Op::floordiv:
      r = floor_div(a, b);
      break;
    default:
      r = a - floor_div(a, b) * b;
  }
  if (overflow) fail_overflow();
  return Value(r);
}

Value reals(Op op, double a, double b) {
  if ((op == Op::floordiv || op == Op::mod) && b == 0) fail("float floor division by zero");
  switch (op) {
    case Op::add:
      return Value(a + b);
    case Op::sub:
      return Value(a - b);
    case Op::mul:
      return Value(a * b);
    default: {
      double mod = std::fmod(a, b);
      double div = (a - mod) / b;
      if (mod != 0 && (b < 0) != (mod < 0)) {
        mod += b;
        div -= 1;
      } else if (mod == 0) {
        mod = std::copysign(0.0, b);
      }
      if (op == Op::mod) return Value(mod);
      double whole = std::floor(div);
      if (div - whole > 0.5) whole += 1;
      return Value(div == 0 ? std::copysign(0.0, a / b) : whole);
    }
  }
}

// 'ab' * 3 and [1] * 3.
Value repeat(Runtime& rt, const Value& v, int64_t times) {
  const size_t n = times > 0 ? static_cast<size_t>(times) : 0;
  if (v.is_string()) {
    const std::string& text = v.text();
    if (!text.empty()) rt.check_string(n > SIZE_MAX / text.size() ? SIZE_MAX : n * text.size());
    std::string out;
    if (!text.empty()) out.reserve(n * text.size());
    for (size_t i = 0; i < n && !text.empty(); ++i) out += text;
    return rt.string(std::move(out), v.safe());
  }
  const auto& items = v.list().items;
  if (!items.empty()) rt.check_items(n > SIZE_MAX / items.size() ? SIZE_MAX : n * items.size());
  std::vector<Value> out;
  for (size_t i = 0; i < n && !items.empty(); ++i)
    out.insert(out.end(), items.begin(), items.end());
  return rt.list(std::move(out), v.list().flavor);
}

bool is_sequence_operand(const Value& v) {
  return v.is_string() || (v.is_list() && v.list().flavor <= Flavor::tuple);
}

bool lists_equal(Runtime& rt, const ListObject& a, const ListObject& b) {
  const auto kind = [](Flavor f) { return f == Flavor::items ? Flavor::keys : f; };
  if (kind(a.flavor) != kind(b.flavor) || a.items.size() != b.items.size()) return false;
  if (a.flavor == Flavor::generator || a.flavor == Flavor::values) return &a == &b;
  for (size_t i = 0; i < a.items.size(); ++i)
    if (!equals(rt, a.items[i], b.items[i])) return false;
  return true;
}

bool dicts_equal(Runtime& rt, const DictObject& a, const DictObject& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(key);
    if (other == nullptr || !equals(rt, value, *other)) return false;
  }
  return true;
}

bool is_int(const Value& v) { return v.is_integral() || v.as<BigInt>() != nullptr; }

// Of an integer, or of one and a real: below, equal to or above zero as a is to b.
int big_order(const Value& a, const Value& b) {
  const auto digits = [](const Value& v) {
    const auto* big = v.as<BigInt>();
    return big != nullptr ? big->digits : std::to_string(v.integer());
  };
  if (!is_int(a) || !is_int(b)) {
    const auto real = [&](const Value& v) {
      return is_int(v) ? std::strtod(digits(v).c_str(), nullptr) : v.real();
    };
    return real(a) < real(b) ? -1 : real(a) > real(b) ? 1 : 0;
  }
  const std::string x = digits(a);
  const std::string y = digits(b);
  if ((x[0] == '-') != (y[0] == '-')) return x[0] == '-' ? -1 : 1;
  const int larger = x.size() != y.size() ? (x.size() < y.size() ? -1 : 1) : x.compare(y);
  return x[0] == '-' ? -larger : larger;
}

bool big_numbers(const Value& a, const Value& b) {
  const auto number = [](const Value& v) {
    return is_int(v) || (v.kind() == Kind::real && !std::isnan(v.real()));
  };
  return (a.as<BigInt>() != nullptr && number(b)) || (b.as<BigInt>() != nullptr && number(a));
}

}  // namespace

void fail_undefined(const Value& v) { fail("{}", v.undefined().message); }

bool truthy(const Value& v) {
  switch (v.kind()) {
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
      return v.boolean();
    case Kind::integer:
      return v.integer() != 0;
    case Kind::real:
      return v.real() != 0;
    case Kind::string:
      return !v.text().empty();
    case Kind::list:
      return v.list().flavor == Flavor::generator || !v.list().items.empty();
    case Kind::dict:
      return !v.dict().entries.empty();
    case Kind::object:
      if (auto* loop = v.as<LoopObject>()) return loop->length() != 0;
      return true;
  }
  return true;
}

bool equals(Runtime& rt, const Value& a, const Value& b) {
  rt.step();
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
    return a.real() == b.real();
  }
  if (big_numbers(a, b)) return big_order(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  if (a.object() && a.object() == b.object()) return true;
  const Runtime::Nested nested(rt);
  switch (a.kind()) {
    case Kind::string:
      rt.work(std::min(a.text().size(), b.text().size()));
      return a.text() == b.text();
    case Kind::list:
      return lists_equal(rt, a.list(), b.list());
    case Kind::dict:
      return dicts_equal(rt, a.dict(), b.dict());
    case Kind::object:
      return false;
    default:
      return true;  // None, undefined
  }
}

bool less(Runtime& rt, const Value& a, const Value& b) {
  rt.step();
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() < b.integer();
    return a.real() < b.real();
  }
  if (big_numbers(a, b)) return big_order(a, b) < 0;
  if (a.is_string() && b.is_string()) {
    rt.work(std::min(a.text().size(), b.text().size()));
    return a.text() < b.text();
  }
  if (a.is_list() && b.is_list() && a.list().flavor <= Flavor::tuple &&
      a.list().flavor == b.list().flavor) {
    const Runtime::Nested nested(rt);
    const auto& x = a.list().items;
    const auto& y = b.list().items;
    for (size_t i = 0; i < x.size() && i < y.size(); ++i)
      if (!equals(rt, x[i], y[i])) return less(rt, x[i], y[i]);
    return x.size() < y.size();
  }
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  fail("'<' not supported between instances of '{}' and '{}'", type_name(a), type_name(b));
}

bool contains(Runtime& rt, const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) {
      fail("'in <string>' requires string as left operand, not {}", type_name(item));
    }
    rt.work(container.text().size());
    return utf8::find(container.text(), item.text()) != std::string_view::npos;
  }
  if (container.is_dict()) return container.dict().find(item) != nullptr;
  const auto items = iterate(rt, container);
  for (const Value& v : items->items)
    if (equals(rt, v, item)) return true;
  return false;
}

bool compare(Runtime& rt, Op op, const Value& a, const Value& b) {
  switch (op) {
    case Op::eq:
      return equals(rt, a, b);
    case Op::ne:
      return !equals(rt, a, b);
    case Op::in:
      return contains(rt, b, a);
    case Op::not_in:
      return !contains(rt, b, a);
    case Op::lt:
      return less(rt, a, b);
    case Op::gt:
      return less(rt, b, a);
    default:
      break;
  }
  const bool le = op == Op::le;
  if ((a.is_number() && (std::isnan(a.real()))) || (b.is_number() && std::isnan(b.real())))
    return false;
  return le ? !less(rt, b, a) : !less(rt, a, b);
}

Value add(Runtime& rt, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    rt.check_string(a.text().size() + b.text().size());
    rt.work(a.text().size() + b.text().size());
    if (!a.safe() && !b.safe()) return rt.string(a.text() + b.text());
    // Where one side is marked safe, the other is escaped.
    const auto part = [](const Value& v) { return v.safe() ? v.text() : escape_html(v.text()); };
    return rt.string(part(a) + part(b), true);
  }
  if (a.is_list() && b.is_list() && a.list().flavor == b.list().flavor &&
      a.list().flavor <= Flavor::tuple) {
    rt.check_items(a.list().items.size() + b.list().items.size());
    std::vector<Value> items = a.list().items;
    items.insert(items.end(), b.list().items.begin(), b.list().items.end());
    return rt.list(std::move(items), a.list().flavor);
  }
  if (big_numbers(a, b)) fail_overflow();
  if (!a.is_number() || !b.is_number()) fail_operands(Op::add, a, b);
  if (a.is_integral() && b.is_integral()) return integers(Op::add, a.integer(), b.integer());
  return reals(Op::add, a.real(), b.real());
}

Value arithmetic(Runtime& rt, Op op, const Value& a, const Value& b) {
  if (op == Op::add) return add(rt, a, b);
  if (op == Op::mul && is_sequence_operand(a) && b.is_integral()) return repeat(rt, a, b.integer());
  if (op == Op::mul && is_sequence_operand(b) && a.is_integral()) return repeat(rt, b, a.integer());
  if (op == Op::mod && a.is_string()) {
    return rt.string(format_percent(rt, a.text(), b), a.safe());
  }
  if (big_numbers(a, b)) fail_overflow();
  if (!a.is_number() || !b.is_number()) fail_operands(op, a, b);
  if (op == Op::pow) return power(a, b);
  if (op == Op::div) {
    if (b.real() == 0) fail("division by zero");
    return Value(a.real() / b.real());
  }
  if (a.is_integral() && b.is_integral()) return integers(op, a.integer(), b.integer());
  return reals(op, a.real(), b.real());
}

Value negate(const Value& v) {
  if (v.is_undefined()) fail_undefined(v);
  if (v.kind() == Kind::real) return Value(-v.real());
  if (!v.is_integral()) fail("bad operand type for unary -: '{}'", type_name(v));
  return integers(Op::sub, 0, v.integer());
}

int64_t to_index(const Value& v, std::string_view what) {
  if (v.is_undefined()) fail_undefined(v);
  if (!v.is_integral()) fail("{} must be an integer, not {}", what, type_name(v));
  return v.integer();
}

std::optional<int64_t> size_of(Runtime& rt, const Value& v) {
  switch (v.kind()) {
    case Kind::undefined:
      return 0;
    case Kind::string:
      rt.work(v.text().size());
      return static_cast<int64_t>(utf8::length(v.text()));
    case Kind::list:
      if (v.list().flavor == Flavor::generator) return std::nullopt;
      return static_cast<int64_t>(v.list().items.size());
    case Kind::dict:
      return static_cast<int64_t>(v.dict().entries.size());
    case Kind::object:
      if (auto* loop = v.as<LoopObject>()) return loop->length();
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

bool iterable(const Value& v) {
  return v.is_string() || v.is_list() || v.is_dict() || v.is_undefined() ||
         v.as<LoopObject>() != nullptr;
}

std::shared_ptr<const ListObject> iterate(Runtime& rt, const Value& v) {
  if (v.is_list()) {
    auto list = v.list_ptr();
    if (list->flavor != Flavor::generator) return list;
    if (list->consumed) return std::make_shared<ListObject>();
    list->consumed = true;
    return list;
  }
  if (!iterable(v)) fail("'{}' object is not iterable", type_name(v));
  if (v.is_undefined()) return std::make_shared<ListObject>();
  std::vector<Value> items;
  if (v.is_string()) {
    const std::string& text = v.text();
    rt.check_items(utf8::length(text));
    rt.step(static_cast<int64_t>(text.size()));
    for (size_t pos = 0; pos < text.size();) {
      const size_t start = pos;
      utf8::next(text, pos);
      items.push_back(rt.string(text.substr(start, pos - start)));
    }
  } else if (v.is_dict()) {
    for (const auto& [key, value] : v.dict().entries) items.push_back(key);
  } else {
    auto* loop = v.as<LoopObject>();
    while (loop->advance()) {
      rt.step();
      items.push_back(rt.list({*loop->current, v}, Flavor::tuple));
    }
  }
  return rt.list(std::move(items)).list_ptr();
}

}  // namespace sluice::jinja
