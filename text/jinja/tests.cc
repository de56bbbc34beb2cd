// What may stand after `is`.
#include "text/jinja/filters.h"
#include "text/jinja/objects.h"
#include "text/jinja/operators.h"
#include "text/jinja/utf8.h"

namespace sluice::jinja {
namespace {

using Flavor = ListObject::Flavor;

Value one(Args& args, const char* name) { return *bind(name, args, {"other"}, 1)[0]; }

template <Op op>
bool compared(Runtime& rt, const Value& v, Args& args) {
  return compare(rt, op, v, one(args, "comparison"));
}

bool modulo_is(Runtime& rt, const Value& v, const Value& by, int64_t wanted) {
  return equals(rt, arithmetic(rt, Op::mod, v, by), Value(wanted));
}
bool odd(Runtime& rt, const Value& v, Args&) { return modulo_is(rt, v, Value(int64_t{2}), 1); }
bool even(Runtime& rt, const Value& v, Args&) { return modulo_is(rt, v, Value(int64_t{2}), 0); }
bool divisibleby(Runtime& rt, const Value& v, Args& args) {
  return modulo_is(rt, v, one(args, "divisibleby"), 0);
}

bool defined(Runtime&, const Value& v, Args&) { return !v.is_undefined(); }
bool undefined(Runtime&, const Value& v, Args&) { return v.is_undefined(); }
bool none(Runtime&, const Value& v, Args&) { return v.is_none(); }
bool boolean(Runtime&, const Value& v, Args&) { return v.kind() == Kind::boolean; }
bool is_true(Runtime&, const Value& v, Args&) { return v.kind() == Kind::boolean && v.boolean(); }
bool is_false(Runtime&, const Value& v, Args&) { return v.kind() == Kind::boolean && !v.boolean(); }
bool integer(Runtime&, const Value& v, Args&) {
  return v.kind() == Kind::integer || v.as<BigInt>() != nullptr;
}
bool real(Runtime&, const Value& v, Args&) { return v.kind() == Kind::real; }
bool number(Runtime&, const Value& v, Args&) { return v.is_number() || v.as<BigInt>() != nullptr; }
bool string(Runtime&, const Value& v, Args&) { return v.is_string(); }
bool mapping(Runtime&, const Value& v, Args&) { return v.is_dict(); }
bool sequence(Runtime&, const Value& v, Args&) {
  return v.is_string() || v.is_dict() || v.is_undefined() || (v.is_list() && v.list().indexable());
}
bool is_iterable(Runtime&, const Value& v, Args&) { return iterable(v); }
bool callable(Runtime&, const Value& v, Args&) {
  return v.is_undefined() || v.as<Function>() != nullptr || v.as<Macro>() != nullptr ||
         v.as<Joiner>() != nullptr || v.as<LoopObject>() != nullptr;
}
bool escaped(Runtime&, const Value& v, Args&) { return v.safe(); }

bool sameas(Runtime& rt, const Value& v, Args& args) {
  const Value other = one(args, "sameas");
  if (v.kind() != other.kind()) return false;
  if (v.object()) return v.object() == other.object();
  return equals(rt, v, other);
}

bool cased(Runtime& rt, const Value& v, const char* method) {
  const char* stable_name = nullptr;
  Args none_given;
  return truthy(string_method(method, &stable_name)(rt, rt.string(to_str(rt, v)), none_given));
}
bool lower(Runtime& rt, const Value& v, Args&) { return cased(rt, v, "islower"); }
bool upper(Runtime& rt, const Value& v, Args&) { return cased(rt, v, "isupper"); }

// The name is looked up in a dict: what cannot be a key is an error.
std::string_view name_of(const Value& v) {
  hash_key(v);
  return v.is_string() ? std::string_view(v.text()) : std::string_view();
}
bool is_filter(Runtime&, const Value& v, Args&) { return find_filter(name_of(v)) != nullptr; }
bool is_test(Runtime&, const Value& v, Args&) { return find_test(name_of(v)) != nullptr; }

struct Entry {
  std::string_view name;
  TestFn fn;
};

constexpr Entry entries[] = {
    {"defined", defined},
    {"undefined", undefined},
    {"none", none},
    {"boolean", boolean},
    {"true", is_true},
    {"false", is_false},
    {"integer", integer},
    {"float", real},
    {"number", number},
    {"string", string},
    {"mapping", mapping},
    {"sequence", sequence},
    {"iterable", is_iterable},
    {"callable", callable},
    {"escaped", escaped},
    {"sameas", sameas},
    {"lower", lower},
    {"upper", upper},
    {"filter", is_filter},
    {"test", is_test},
    {"odd", odd},
    {"even", even},
    {"divisibleby", divisibleby},
    {"in", compared<Op::in>},
    {"eq", compared<Op::eq>},
    {"==", compared<Op::eq>},
    {"equalto", compared<Op::eq>},
    {"ne", compared<Op::ne>},
    {"!=", compared<Op::ne>},
    {"lt", compared<Op::lt>},
    {"<", compared<Op::lt>},
    {"lessthan", compared<Op::lt>},
    {"le", compared<Op::le>},
    {"<=", compared<Op::le>},
    {"gt", compared<Op::gt>},
    {">", compared<Op::gt>},
    {"greaterthan", compared<Op::gt>},
    {"ge", compared<Op::ge>},
    {">=", compared<Op::ge>},
};

}  // namespace

TestFn find_test(std::string_view name) {
  for (const Entry& entry : entries)
    if (entry.name == name) return entry.fn;
  return nullptr;
}

}  // namespace sluice::jinja
