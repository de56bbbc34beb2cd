// The evaluator: expressions and calls.
#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/objects.h"
#include "text/jinja/operators.h"
#include "text/jinja/runtime.h"

namespace sluice::jinja {

std::vector<std::optional<Value>> bind(std::string_view callee, Args& args,
                                       std::initializer_list<std::string_view> names,
                                       size_t required) {
  std::vector<std::optional<Value>> out(names.size());
  if (args.positional.size() > names.size())
    fail("{}() takes at most {} arguments, {} given", callee, names.size(), args.positional.size());
  for (size_t i = 0; i < args.positional.size(); ++i) out[i] = args.positional[i];
  for (const auto& [key, value] : args.keyword) {
    const auto at = std::find(names.begin(), names.end(), key);
    if (at == names.end()) fail("{}() got an unexpected keyword argument '{}'", callee, key);
    auto& slot = out[static_cast<size_t>(at - names.begin())];
    if (slot) fail("{}() got multiple values for argument '{}'", callee, key);
    slot = value;
  }
  for (size_t i = 0; i < required; ++i)
    if (!out[i]) fail("{}() misses its argument '{}'", callee, names.begin()[i]);
  return out;
}

Value Runtime::eval(const Expr& e) {
  const Nested nested(*this);
  step();
  line_ = e.line;
  switch (e.type) {
    case ExprType::constant:
      return e.constant;
    case ExprType::name:
      return eval_name(e);
    case ExprType::list:
    case ExprType::tuple:
    case ExprType::dict:
      return eval_literal(e);
    case ExprType::attr:
      return get_attribute(*this, eval(*e.children[0]), e.text);
    case ExprType::item: {
      const Value object = eval(*e.children[0]);
      return get_item(*this, object, eval(*e.children[1]));
    }
    case ExprType::slice:
      return eval_slice(e);
    case ExprType::call:
      return eval_call(e);
    case ExprType::filter:
      return eval_filter(e, eval(*e.children[0]));
    case ExprType::test:
      return Value(eval_test(e));
    case ExprType::unary:
      return eval_unary(e);
    case ExprType::binary: {
      const Value left = eval(*e.children[0]);
      const Value right = eval(*e.children[1]);
      line_ = e.line;
      return arithmetic(*this, e.op, left, right);
    }
    case ExprType::logical_not:
      return Value(!truthy(eval(*e.children[0])));
    case ExprType::logical_and: {
      Value left = eval(*e.children[0]);
      return truthy(left) ? eval(*e.children[1]) : left;
    }
    case ExprType::logical_or: {
      Value left = eval(*e.children[0]);
      return truthy(left) ? left : eval(*e.children[1]);
    }
    case ExprType::concat:
      return eval_concat(e);
    case ExprType::compare:
      return eval_compare(e);
    case ExprType::conditional:
      if (truthy(eval(*e.children[1]))) return eval(*e.children[0]);
      if (e.children.size() > 2) return eval(*e.children[2]);
      return make_undefined(
          "the inline if-expression evaluated to false and no else section was defined");
    case ExprType::ns_ref:
      break;
  }
  fail("this cannot be evaluated");
}

Value Runtime::eval_name(const Expr& e) {
  for (Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    step(static_cast<int64_t>(scope->variables.size() / 32));
    if (const Value* found = scope->find(e.id)) return *found;
  }
  const auto& global = globals_[static_cast<size_t>(e.id)];
  if (global) return *global;
  return undefined_name(e.id);
}

Value Runtime::undefined_name(int id) const {
  return make_undefined(fmt::format("'{}' is undefined", ast_.names[static_cast<size_t>(id)]));
}

Value Runtime::eval_literal(const Expr& e) {
  if (e.type == ExprType::dict) {
    auto dict = std::make_shared<DictObject>();
    for (size_t i = 0; i + 1 < e.children.size(); i += 2) {
      const Value key = eval(*e.children[i]);
      dict->set(key, eval(*e.children[i + 1]));
    }
    return this->dict(std::move(dict));
  }
  std::vector<Value> items;
  items.reserve(e.children.size());
  for (const ExprPtr& child : e.children) items.push_back(eval(*child));
  return list(std::move(items),
              e.type == ExprType::list ? ListObject::Flavor::list : ListObject::Flavor::tuple);
}

Value Runtime::eval_slice(const Expr& e) {
  const Value object = eval(*e.children[0]);
  const auto part = [&](size_t i) { return e.children[i] ? eval(*e.children[i]) : Value(); };
  const Value start = part(1);
  const Value stop = part(2);
  return slice(*this, object, start, stop, part(3));
}

Value Runtime::eval_unary(const Expr& e) {
  const Value v = eval(*e.children[0]);
  if (e.op == Op::sub) return negate(v);
  if (v.is_undefined()) fail_undefined(v);
  if (!v.is_number()) fail("bad operand type for unary +: '{}'", type_name(v));
  return v.kind() == Kind::boolean ? Value(v.integer()) : v;
}

Value Runtime::eval_compare(const Expr& e) {
  Value left = eval(*e.children[0]);
  for (size_t i = 0; i < e.ops.size(); ++i) {
    Value right = eval(*e.children[i + 1]);
    line_ = e.line;
    if (!compare(*this, e.ops[i], left, right)) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Value Runtime::eval_concat(const Expr& e) {
  std::vector<Value> parts;
  parts.reserve(e.children.size());
  for (const ExprPtr& child : e.children) parts.push_back(eval(*child));
  line_ = e.line;
  std::string out;
  for (const Value& part : parts) {
    out += to_str(*this, part);
    check_string(out.size());
  }
  return string(std::move(out));
}

Args Runtime::eval_args(const Expr& e) {
  Args args;
  const auto add_keyword = [&](const std::string& key, Value v) {
    for (const auto& [other, value] : args.keyword)
      if (other == key) fail("multiple values for keyword argument '{}'", key);
    step(static_cast<int64_t>(args.keyword.size() / 8));
    args.keyword.emplace_back(key, std::move(v));
  };
  for (const Argument& arg : e.args) {
    Value v = eval(*arg.value);
    switch (arg.how) {
      case Argument::How::positional:
        args.positional.push_back(std::move(v));
        break;
      case Argument::How::keyword:
        add_keyword(arg.keyword, std::move(v));
        break;
      case Argument::How::star: {
        const auto list = iterate(*this, v);
        step(static_cast<int64_t>(list->items.size()));
        args.positional.insert(args.positional.end(), list->items.begin(), list->items.end());
        break;
      }
      case Argument::How::star_star:
        if (!v.is_dict()) fail("argument after ** must be a mapping, not {}", type_name(v));
        if (v.dict().entries.size() > 1000) fail("more than 1000 keyword arguments");
        for (const auto& [key, value] : v.dict().entries) {
          if (!key.is_string()) fail("keywords must be strings");
          add_keyword(key.text(), value);
        }
    }
  }
  line_ = e.line;
  return args;
}

Value Runtime::eval_call(const Expr& e) {
  const Value callee = eval(*e.children[0]);
  Args args = eval_args(e);
  return call(callee, args);
}

Value Runtime::call(const Value& callee, Args& args) {
  const Nested nested(*this);
  step();
  if (callee.is_undefined()) fail_undefined(callee);
  if (auto* function = callee.as<Function>()) return function->fn(*this, function->self, args);
  if (auto* macro = callee.as<Macro>()) return call_macro(*macro, args);
  if (auto* joiner = callee.as<Joiner>()) {
    bind("joiner", args, {});
    return std::exchange(joiner->used, true) ? joiner->separator : string("");
  }
  if (auto* loop = callee.as<LoopObject>()) return call_loop(*loop, args);
  fail("'{}' object is not callable", type_name(callee));
}

Value Runtime::eval_filter(const Expr& e, const Value& subject) {
  Args args = eval_args(e);
  if (e.filter == nullptr) fail("{}", no_filter(e.text));
  return e.filter(*this, subject, args);
}

bool Runtime::eval_test(const Expr& e) {
  const Value subject = eval(*e.children[0]);
  Args args = eval_args(e);
  if (e.test == nullptr) fail("no test named '{}'", e.text);
  return e.test(*this, subject, args);
}

Value Runtime::apply_filter(const std::string& name, const Value& subject, Args& args) {
  const Nested nested(*this);
  const FilterFn filter = find_filter(name);
  if (filter == nullptr) fail("{}", no_filter(name));
  return filter(*this, subject, args);
}

bool Runtime::apply_test(const std::string& name, const Value& subject, Args& args) {
  const TestFn test = find_test(name);
  if (test == nullptr) fail("no test named '{}'", name.substr(0, 100));
  return test(*this, subject, args);
}

}  // namespace sluice::jinja
