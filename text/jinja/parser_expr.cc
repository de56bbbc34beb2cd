#include "text/jinja/filters.h"
#include "text/jinja/parser_base.h"

namespace sluice::jinja {

bool ExpressionParser::skip_op(std::string_view op) {
  if (!current().is_op(op)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_name(std::string_view name) {
  if (!current().is_name(name)) return false;
  take();
  return true;
}

void ExpressionParser::expect_op(std::string_view op) {
  if (!skip_op(op)) fail_at(current().line, "expected '{}', got {}", op, describe(current()));
}

void ExpressionParser::expect_name(std::string_view name) {
  if (!skip_name(name)) fail_at(current().line, "expected '{}', got {}", name, describe(current()));
}

std::string ExpressionParser::expect_any_name() {
  if (current().type != TokenType::name)
    fail_at(current().line, "expected a name, got {}", describe(current()));
  return take().text;
}

int ExpressionParser::intern(const std::string& name) {
  const auto [at, is_new] = ids_.try_emplace(name, static_cast<int>(names_.size()));
  if (is_new) names_.push_back(name);
  return at->second;
}

ExprPtr ExpressionParser::make(ExprType type, int line, std::vector<ExprPtr> children) {
  auto e = std::make_unique<Expr>();
  e->type = type;
  e->line = line;
  for (const ExprPtr& child : children)
    if (child && child->depth >= e->depth) e->depth = child->depth + 1;
  if (e->depth > limits_.parse_depth)
    fail_at(line, "expression nested deeper than {}", limits_.parse_depth);
  e->children = std::move(children);
  return e;
}

ExprPtr ExpressionParser::make(ExprType type, int line, ExprPtr a, ExprPtr b) {
  std::vector<ExprPtr> children;
  children.push_back(std::move(a));
  if (b) children.push_back(std::move(b));
  return make(type, line, std::move(children));
}

ExprPtr ExpressionParser::expression(bool with_conditional) {
  const Nested nested(*this);
  return with_conditional ? conditional() : logical_or();
}

ExprPtr ExpressionParser::conditional() {
  const size_t unresolved = unresolved_.size();
  ExprPtr value = logical_or();
  while (current().is_name("if")) {
    const int line = take().line;
    std::vector<ExprPtr> children;
    children.push_back(std::move(value));
    children.push_back(logical_or());
    if (skip_name("else")) {
      const Nested nested(*this);
      children.push_back(conditional());
    }
    value = make(ExprType::conditional, line, std::move(children));
    unresolved_.resize(unresolved);
  }
  return value;
}

ExprPtr ExpressionParser::logical_or() {
  ExprPtr left = logical_and();
  while (current().is_name("or")) {
    const int line = take().line;
    left = make(ExprType::logical_or, line, std::move(left), logical_and());
  }
  return left;
}

ExprPtr ExpressionParser::logical_and() {
  ExprPtr left = logical_not();
  while (current().is_name("and")) {
    const int line = take().line;
    left = make(ExprType::logical_and, line, std::move(left), logical_not());
  }
  return left;
}

ExprPtr ExpressionParser::logical_not() {
  if (!current().is_name("not")) return compare();
  const Nested nested(*this);
  const int line = take().line;
  return make(ExprType::logical_not, line, logical_not());
}

ExprPtr ExpressionParser::compare() {
  static constexpr std::pair<std::string_view, Op> operators[] = {
      {"==", Op::eq}, {"!=", Op::ne}, {"<", Op::lt}, {"<=", Op::le}, {">", Op::gt}, {">=", Op::ge}};
  const int line = current().line;
  std::vector<ExprPtr> operands;
  std::vector<Op> ops;
  operands.push_back(sum());
  for (;;) {
    const size_t before = ops.size();
    for (const auto& [text, op] : operators)
      if (ops.size() == before && skip_op(text)) ops.push_back(op);
    if (ops.size() == before && skip_name("in")) ops.push_back(Op::in);
    if (ops.size() == before && current().is_name("not") && look().is_name("in")) {
      take();
      take();
      ops.push_back(Op::not_in);
    }
    if (ops.size() == before) break;
    operands.push_back(sum());
  }
  if (ops.empty()) return std::move(operands[0]);
  ExprPtr e = make(ExprType::compare, line, std::move(operands));
  e->ops = std::move(ops);
  return e;
}

ExprPtr ExpressionParser::sum() {
  ExprPtr left = concat();
  while (current().is_op("+") || current().is_op("-")) {
    const Token token = take();
    left = make(ExprType::binary, token.line, std::move(left), concat());
    left->op = token.text == "+" ? Op::add : Op::sub;
  }
  return left;
}

ExprPtr ExpressionParser::concat() {
  const int line = current().line;
  std::vector<ExprPtr> parts;
  parts.push_back(product());
  while (skip_op("~")) parts.push_back(product());
  if (parts.size() == 1) return std::move(parts[0]);
  return make(ExprType::concat, line, std::move(parts));
}

ExprPtr ExpressionParser::product() {
  ExprPtr left = power();
  for (;;) {
    const Token& t = current();
    const Op op = t.is_op("*")    ? Op::mul
                  : t.is_op("/")  ? Op::div
                  : t.is_op("//") ? Op::floordiv
                  : t.is_op("%")  ? Op::mod
                                  : Op::add;
    if (op == Op::add) return left;
    const int line = take().line;
    left = make(ExprType::binary, line, std::move(left), power());
    left->op = op;
  }
}

ExprPtr ExpressionParser::power() {
  ExprPtr left = unary();
  while (current().is_op("**")) {
    const int line = take().line;
    left = make(ExprType::binary, line, std::move(left), unary());
    left->op = Op::pow;
  }
  return left;
}

ExprPtr ExpressionParser::unary(bool with_filter) {
  ExprPtr e;
  if (current().is_op("-") || current().is_op("+")) {
    const Nested nested(*this);
    const Token token = take();
    e = make(ExprType::unary, token.line, unary(false));
    e->op = token.text == "-" ? Op::sub : Op::add;
  } else {
    e = primary();
  }
  e = postfix(std::move(e));
  return with_filter ? filters_and_tests(std::move(e)) : std::move(e);
}

void ExpressionParser::note_special(const std::string& name, int id) {
  for (MacroDef* macro : macros_) {
    if (name == "varargs") {
      macro->uses_varargs = true;
      macro->varargs_id = id;
    } else if (name == "kwargs") {
      macro->uses_kwargs = true;
      macro->kwargs_id = id;
    } else if (name == "caller") {
      macro->uses_caller = true;
      macro->caller_id = id;
    }
  }
}

ExprPtr ExpressionParser::name_or_constant(const Token& token, bool with_namespace) {
  const std::string& name = token.text;
  ExprPtr e = make(ExprType::constant, token.line);
  if (name == "true" || name == "True") {
    e->constant = Value(true);
  } else if (name == "false" || name == "False") {
    e->constant = Value(false);
  } else if (name != "none" && name != "None") {
    e->id = intern(name);
    if (with_namespace && skip_op(".")) {
      e->type = ExprType::ns_ref;
      e->text = expect_any_name();
    } else {
      e->type = ExprType::name;
      note_special(name, e->id);
    }
  }
  return e;
}

ExprPtr ExpressionParser::primary(bool with_namespace) {
  switch (current().type) {
    case TokenType::name:
      return name_or_constant(take(), with_namespace);
    case TokenType::string: {
      ExprPtr e = make(ExprType::constant, current().line);
      std::string text;
      while (current().type == TokenType::string) text += take().text;
      e->constant = make_string(std::move(text));
      return e;
    }
    case TokenType::integer:
    case TokenType::real: {
      ExprPtr e = make(ExprType::constant, current().line);
      e->constant = take().number;
      return e;
    }
    default:
      break;
  }
  if (skip_op("(")) {
    ExprPtr e = tuple(true, {}, true);
    expect_op(")");
    return e;
  }
  if (current().is_op("[")) return list();
  if (current().is_op("{")) return dict();
  fail_at(current().line, "unexpected {}", describe(current()));
}

bool ExpressionParser::tuple_end(std::string_view end_name) const {
  const Token& t = current();
  return t.type == TokenType::variable_end || t.type == TokenType::block_end || t.is_op(")") ||
         (!end_name.empty() && t.is_name(end_name));
}

ExprPtr ExpressionParser::tuple(bool with_conditional, std::string_view end_name,
                                bool parenthesized) {
  const int line = current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (!tuple_end(end_name)) {
    items.push_back(expression(with_conditional));
    if (!skip_op(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  if (!is_tuple && !parenthesized)
    fail_at(line, "expected an expression, got {}", describe(current()));
  return make(ExprType::tuple, line, std::move(items));
}

void ExpressionParser::check_assignable(const Expr& target) const {
  if (target.type == ExprType::tuple) {
    for (const ExprPtr& item : target.children) check_assignable(*item);
    return;
  }
  if (target.type != ExprType::name && target.type != ExprType::ns_ref)
    fail_at(target.line, "can't assign to this");
}

ExprPtr ExpressionParser::assign_target(std::string_view end_name, bool with_namespace) {
  const int line = current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (!tuple_end(end_name)) {
    items.push_back(primary(with_namespace));
    if (!skip_op(",")) break;
    is_tuple = true;
  }
  if (items.empty()) fail_at(line, "expected a name to assign to, got {}", describe(current()));
  ExprPtr target = is_tuple ? make(ExprType::tuple, line, std::move(items)) : std::move(items[0]);
  check_assignable(*target);
  return target;
}

ExprPtr ExpressionParser::list() {
  const int line = take().line;
  std::vector<ExprPtr> items;
  while (!current().is_op("]")) {
    if (!items.empty()) expect_op(",");
    if (current().is_op("]")) break;
    items.push_back(expression());
  }
  expect_op("]");
  return make(ExprType::list, line, std::move(items));
}

ExprPtr ExpressionParser::dict() {
  const int line = take().line;
  std::vector<ExprPtr> items;
  while (!current().is_op("}")) {
    if (!items.empty()) expect_op(",");
    if (current().is_op("}")) break;
    items.push_back(expression());
    expect_op(":");
    items.push_back(expression());
  }
  expect_op("}");
  return make(ExprType::dict, line, std::move(items));
}

ExprPtr ExpressionParser::postfix(ExprPtr e) {
  for (;;) {
    if (current().is_op(".") || current().is_op("[")) {
      e = subscript(std::move(e));
    } else if (current().is_op("(")) {
      e = call(std::move(e));
    } else {
      return e;
    }
  }
}

ExprPtr ExpressionParser::filters_and_tests(ExprPtr e) {
  for (;;) {
    if (current().is_op("|")) {
      e = filters(std::move(e));
    } else if (current().is_name("is")) {
      e = test(std::move(e));
    } else if (current().is_op("(")) {
      e = call(std::move(e));
    } else {
      return e;
    }
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr object) {
  const Token open = take();
  if (open.text == "[") return subscribed(std::move(object), open.line);
  const Token token = take();
  if (token.type == TokenType::name) {
    ExprPtr e = make(ExprType::attr, open.line, std::move(object));
    e->text = token.text;
    return e;
  }
  if (token.type != TokenType::integer) fail_at(token.line, "expected name or number after '.'");
  ExprPtr index = make(ExprType::constant, token.line);
  index->constant = token.number;
  return make(ExprType::item, open.line, std::move(object), std::move(index));
}

// After `[`.
ExprPtr ExpressionParser::subscribed(ExprPtr object, int line) {
  const auto ends = [&] { return current().is_op("]") || current().is_op(","); };
  std::vector<ExprPtr> keys;
  while (!current().is_op("]")) {
    if (!keys.empty()) expect_op(",");
    ExprPtr first = current().is_op(":") ? nullptr : expression();
    if (!current().is_op(":")) {
      keys.push_back(std::move(first));
      continue;
    }
    std::vector<ExprPtr> children;
    children.push_back(std::move(object));
    children.push_back(std::move(first));
    take();
    children.push_back(current().is_op(":") || ends() ? nullptr : expression());
    children.push_back(skip_op(":") && !ends() ? expression() : nullptr);
    if (!keys.empty() || !current().is_op("]"))
      fail_at(line, "a slice cannot be combined with other subscripts");
    take();
    return make(ExprType::slice, line, std::move(children));
  }
  take();
  ExprPtr key =
      keys.size() == 1 ? std::move(keys[0]) : make(ExprType::tuple, line, std::move(keys));
  return make(ExprType::item, line, std::move(object), std::move(key));
}

std::vector<Argument> ExpressionParser::call_args() {
  expect_op("(");
  std::vector<Argument> args;
  bool keywords = false;
  while (!current().is_op(")")) {
    if (!args.empty()) {
      expect_op(",");
      if (current().is_op(")")) break;
    }
    Argument arg;
    if (skip_op("*")) {
      arg.how = Argument::How::star;
    } else if (skip_op("**")) {
      arg.how = Argument::How::star_star;
    } else if (current().type == TokenType::name && look().is_op("=")) {
      arg.how = Argument::How::keyword;
      arg.keyword = take().text;
      take();
    }
    keywords = keywords || arg.how != Argument::How::positional;
    if (keywords && arg.how == Argument::How::positional)
      fail_at(current().line, "positional argument after a keyword argument");
    arg.value = expression();
    args.push_back(std::move(arg));
  }
  expect_op(")");
  return args;
}

ExprPtr ExpressionParser::with_args(ExprPtr e) {
  e->args = call_args();
  for (const Argument& arg : e->args)
    if (arg.value->depth >= e->depth) e->depth = arg.value->depth + 1;
  if (e->depth > limits_.parse_depth)
    fail_at(e->line, "expression nested deeper than {}", limits_.parse_depth);
  return e;
}

ExprPtr ExpressionParser::call(ExprPtr callee) {
  return with_args(make(ExprType::call, current().line, std::move(callee)));
}

ExprPtr ExpressionParser::filters(ExprPtr subject, bool start_inline) {
  while (start_inline || current().is_op("|")) {
    if (!start_inline) take();
    start_inline = false;
    const int line = current().line;
    ExprPtr e = make(ExprType::filter, line, std::move(subject));
    e->text = expect_any_name();
    e->filter = find_filter(e->text);
    if (e->filter == nullptr) unresolved_.push_back({no_filter(e->text), line});
    subject = current().is_op("(") ? with_args(std::move(e)) : std::move(e);
  }
  return subject;
}

ExprPtr ExpressionParser::test(ExprPtr subject) {
  const int line = take().line;
  const bool negated = skip_name("not");
  ExprPtr e = make(ExprType::test, line, std::move(subject));
  e->text = expect_any_name();
  e->test = find_test(e->text);
  if (e->test == nullptr) unresolved_.push_back({fmt::format("no test named '{}'", e->text), line});
  const Token& t = current();
  if (t.is_op("(")) {
    e = with_args(std::move(e));
  } else if (t.type == TokenType::string || t.type == TokenType::integer ||
             t.type == TokenType::real || t.is_op("[") || t.is_op("{") ||
             (t.type == TokenType::name && t.text != "else" && t.text != "or" && t.text != "and")) {
    if (t.is_name("is")) fail_at(line, "tests cannot be chained with is");
    Argument arg;
    arg.value = postfix(primary());
    if (arg.value->depth >= e->depth) e->depth = arg.value->depth + 1;
    e->args.push_back(std::move(arg));
  }
  return negated ? make(ExprType::logical_not, line, std::move(e)) : std::move(e);
}

}  // namespace sluice::jinja
