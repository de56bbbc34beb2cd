// The evaluator: statements, scopes, macros and the budget.
#include "text/jinja/objects.h"
#include "text/jinja/operators.h"
#include "text/jinja/runtime.h"

namespace sluice::jinja {

class Runtime::Entered {
 public:
  Entered(Runtime& rt, const std::vector<int>& unset) : Entered(rt, rt.scope_, unset) {}
  Entered(Runtime& rt, std::shared_ptr<Scope> parent, const std::vector<int>& unset)
      : rt_(rt), outer_(rt.scope_) {
    rt.scope_ = std::make_shared<Scope>();
    rt.scope_->parent = std::move(parent);
    rt.unset(unset);
  }
  ~Entered() { rt_.scope_ = std::move(outer_); }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;

 private:
  Runtime& rt_;
  std::shared_ptr<Scope> outer_;
};

// Sends output to a string until it is destroyed.
class Runtime::Captured {
 public:
  Captured(Runtime& rt, std::string* text) : rt_(rt), outer_(std::exchange(rt.out_, text)) {}
  ~Captured() { rt_.out_ = outer_; }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;

 private:
  Runtime& rt_;
  std::string* outer_;
};

// Ends a loop, however it is left. Where somebody still holds it (its function has two references)
// it is kept, because it may hold itself.
struct LoopEnd {
  std::vector<std::shared_ptr<SpecialObject>>& kept;
  const std::shared_ptr<LoopObject>& loop;
  ~LoopEnd() {
    loop->close();
    if (loop.use_count() > 2) kept.push_back(loop);
  }
};

Value* Scope::find(int id) {
  for (auto& [name, value] : variables)
    if (name == id) return &value;
  return nullptr;
}

void Scope::set(int id, Value v) {
  if (Value* old = find(id)) {
    *old = std::move(v);
  } else {
    variables.emplace_back(id, std::move(v));
  }
}

Runtime::Runtime(const Ast& ast, const Limits& limits, std::vector<std::optional<Value>> globals)
    : ast_(ast),
      limits_(limits),
      globals_(std::move(globals)),
      scope_(std::make_shared<Scope>()),
      steps_(limits.steps) {
  captured_.push_back(scope_);
}

// Cuts what may be cycles, and chains too long for a recursive destructor: everything that can take
// part in one is in these two lists.
Runtime::~Runtime() {
  for (auto& scope : captured_) scope->variables.clear();
  for (auto& object : kept_) {
    if (auto* ns = dynamic_cast<Namespace*>(object.get())) {
      ns->attributes.entries.clear();
    } else if (auto* loop = dynamic_cast<LoopObject*>(object.get())) {
      loop->cut();
    }
  }
}

std::string Runtime::run() {
  std::string out;
  out_ = &out;
  unset(ast_.unset);
  exec(ast_.body);
  return out;
}

void Runtime::unset(const std::vector<int>& names) {
  step(static_cast<int64_t>(names.size() / 4));
  for (const int id : names) {
    auto& value = unset_values_[id];
    if (value.is_none()) value = undefined_name(id);
    scope_->variables.emplace_back(id, value);
  }
}

void Runtime::out_of_steps() const {
  fail("the template runs too long: over {} steps", limits_.steps);
}

void Runtime::too_deep() const { fail("nested deeper than {} calls", limits_.depth); }

void Runtime::allocate(size_t bytes) {
  allocated_ += bytes;
  if (allocated_ > limits_.total_bytes)
    fail("the template uses too much memory: over {} bytes", limits_.total_bytes);
}

void Runtime::check_string(size_t bytes) const {
  if (bytes > limits_.value_bytes) fail("a string of over {} bytes", limits_.value_bytes);
}

void Runtime::check_items(size_t count) const {
  if (count > limits_.value_items) fail("a sequence of over {} items", limits_.value_items);
}

Value Runtime::string(std::string text, bool safe) {
  check_string(text.size());
  allocate(text.size() + 64);
  return make_string(std::move(text), safe);
}

Value Runtime::list(std::vector<Value> items, ListObject::Flavor flavor) {
  check_items(items.size());
  allocate(items.size() * sizeof(Value) + 96);
  step(static_cast<int64_t>(items.size() / 8));
  auto list = std::make_shared<ListObject>();
  list->flavor = flavor;
  for (const Value& v : items) list->depth = std::max(list->depth, v.depth() + 1);
  if (list->depth > kMaxNesting) fail("values nested deeper than {}", kMaxNesting);
  list->items = std::move(items);
  return Value(std::move(list));
}

Value Runtime::dict(std::shared_ptr<DictObject> dict) {
  check_items(dict->entries.size());
  allocate(dict->entries.size() * 128 + 128);
  return Value(std::move(dict));
}

void Runtime::emit(std::string_view text) {
  work(text.size());
  if (out_->size() + text.size() > limits_.output_bytes)
    fail("the output is longer than {} bytes", limits_.output_bytes);
  allocate(text.size());
  out_->append(text);
}

void Runtime::emit(const Value& v) {
  if (v.is_string()) return emit(std::string_view(v.text()));
  emit(std::string_view(to_str(*this, v)));
}

Runtime::Flow Runtime::exec(const Body& body) {
  for (const Stmt& s : body) {
    const Flow flow = exec(s);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Runtime::Flow Runtime::exec(const Stmt& s) {
  const Nested nested(*this);
  step();
  line_ = s.line;
  switch (s.type) {
    case StmtType::data:
      emit(std::string_view(s.text));
      return Flow::normal;
    case StmtType::output:
      emit(eval(*s.value));
      return Flow::normal;
    case StmtType::choose:
      return choose(s);
    case StmtType::loop:
      return loop(s, eval(*s.value), scope_, 1);
    case StmtType::set:
      assign(*s.target, eval(*s.value));
      return Flow::normal;
    case StmtType::set_block: {
      Value text = string(capture(s.body, s.unset));
      assign(*s.target, s.filter ? filtered(*s.filter, std::move(text)) : std::move(text));
      return Flow::normal;
    }
    case StmtType::macro:
      scope_->set(s.target->id, Value(std::static_pointer_cast<SpecialObject>(make_macro(s))));
      return Flow::normal;
    case StmtType::call_block:
      call_block(s);
      return Flow::normal;
    case StmtType::filter_block: {
      const Value text = filtered(*s.filter, string(capture(s.body, s.unset)));
      if (!text.is_string()) fail("a filter block must give a string, not {}", type_name(text));
      emit(text);
      return Flow::normal;
    }
    case StmtType::with:
      return with(s);
    case StmtType::scope: {
      const Entered scope(*this, s.unset);
      return exec(s.body);
    }
    case StmtType::stop:
      return Flow::stop;
    case StmtType::skip:
      return Flow::skip;
  }
  return Flow::normal;
}

// A chain of filters whose innermost has no subject: `text` is it.
Value Runtime::filtered(const Expr& filter, Value text) {
  const Nested nested(*this);
  if (filter.children[0] != nullptr) text = filtered(*filter.children[0], std::move(text));
  line_ = filter.line;
  return eval_filter(filter, text);
}

Runtime::Flow Runtime::choose(const Stmt& s) {
  for (const Stmt& branch : s.branches)
    if (branch.value == nullptr || truthy(eval(*branch.value))) return exec(branch.body);
  return Flow::normal;
}

Runtime::Flow Runtime::loop(const Stmt& s, const Value& source,
                            const std::shared_ptr<Scope>& outside, int64_t level) {
  const auto items = iterate(*this, source);
  auto loop = std::make_shared<LoopObject>();
  const Value loop_value(std::static_pointer_cast<SpecialObject>(loop));
  const LoopEnd end{kept_, loop};
  loop->level = level;
  if (s.recursive) {
    loop->recursive = &s;
    loop->outside = outside;
  }
  loop->pull = [this, &s, items, outside, next = size_t{0}]() mutable -> std::optional<Value> {
    while (next < items->items.size()) {
      const Value& item = items->items[next++];
      if (s.test == nullptr) return item;
      const Entered scope(*this, outside, {});
      assign(*s.target, item);
      if (truthy(eval(*s.test))) return item;
    }
    return std::nullopt;
  };
  if (s.test == nullptr) loop->known_length = static_cast<int64_t>(items->items.size());
  // As in Jinja2, whose flag is cleared at the end of the body: a loop whose every round was cut
  // short by break or continue runs its else.
  bool completed = false;
  while (loop->advance()) {
    step();
    const Entered scope(*this, outside, s.unset);
    scope_->variables.emplace_back(s.loop_id, loop_value);
    assign(*s.target, *loop->current);
    const Flow flow = exec(s.body);
    if (flow == Flow::stop) break;
    completed = completed || flow == Flow::normal;
  }
  if (!completed && !s.otherwise.empty()) {
    const Entered scope(*this, outside, s.otherwise_unset);
    return exec(s.otherwise);
  }
  return Flow::normal;
}

// The same statement over other items, one level down; what it prints is the call's value.
Value Runtime::call_loop(const LoopObject& loop, Args& args) {
  if (loop.recursive == nullptr)
    fail("the loop must have the 'recursive' marker to be called recursively");
  const auto arg = bind("loop", args, {"iterable"}, 1);
  std::string text;
  {
    const Captured captured(*this, &text);
    this->loop(*loop.recursive, *arg[0], loop.outside, loop.level + 1);
  }
  return string(std::move(text));
}

Runtime::Flow Runtime::with(const Stmt& s) {
  std::vector<Value> values;
  for (const auto& [target, value] : s.bindings) values.push_back(eval(*value));
  const Entered scope(*this, s.unset);
  for (size_t i = 0; i < values.size(); ++i) assign(*s.bindings[i].first, values[i]);
  return exec(s.body);
}

void Runtime::assign(const Expr& target, const Value& v) {
  line_ = target.line;
  switch (target.type) {
    case ExprType::name:
      step(static_cast<int64_t>(scope_->variables.size() / 32));
      scope_->set(target.id, v);
      return;
    case ExprType::ns_ref: {
      const Value owner = eval_name(target);
      auto* ns = owner.as<Namespace>();
      if (ns == nullptr) fail("cannot assign attribute on non-namespace object");
      check_namespace_name(target.text);
      check_items(ns->attributes.entries.size());
      allocate(128);
      ns->attributes.set(string(target.text), v);
      return;
    }
    default: {
      const auto items = iterate(*this, v);
      const size_t wanted = target.children.size();
      if (items->items.size() < wanted)
        fail("not enough values to unpack (expected {}, got {})", wanted, items->items.size());
      if (items->items.size() > wanted) fail("too many values to unpack (expected {})", wanted);
      for (size_t i = 0; i < wanted; ++i) assign(*target.children[i], items->items[i]);
    }
  }
}

std::string Runtime::capture(const Body& body, const std::vector<int>& unset) {
  const Entered scope(*this, unset);
  std::string text;
  const Captured captured(*this, &text);
  exec(body);
  return text;
}

std::shared_ptr<Macro> Runtime::make_macro(const Stmt& s) {
  allocate(256);
  // Once a scope is enough: it stays the innermost while its macros are made.
  if (captured_.back() != scope_) captured_.push_back(scope_);
  return std::make_shared<Macro>(*s.macro, s.body, s.unset, scope_);
}

Value Runtime::call_macro(const Macro& macro, Args& args) {
  const MacroDef& def = macro.def;
  const size_t num_parameters = def.parameters.size();
  if (args.positional.size() > num_parameters && !def.uses_varargs)
    fail("macro '{}' takes not more than {} argument(s)", def.name, num_parameters);
  const Entered scope(*this, macro.scope, {});
  const auto take_keyword = [&](std::string_view name) -> std::optional<Value> {
    for (size_t i = 0; i < args.keyword.size(); ++i) {
      if (args.keyword[i].first != name) continue;
      Value v = std::move(args.keyword[i].second);
      args.keyword.erase(args.keyword.begin() + static_cast<std::ptrdiff_t>(i));
      return v;
    }
    return std::nullopt;
  };
  for (size_t i = 0; i < num_parameters; ++i) {
    const Parameter& p = def.parameters[i];
    if (i < args.positional.size()) {
      scope_->set(p.id, args.positional[i]);
    } else if (auto given = take_keyword(p.name)) {
      scope_->set(p.id, std::move(*given));
    } else if (p.fallback) {
      scope_->set(p.id, eval(*p.fallback));
    } else {
      scope_->set(p.id, make_undefined(fmt::format("parameter '{}' was not provided", p.name)));
    }
  }
  if (def.uses_caller && scope_->find(def.caller_id) == nullptr) {
    auto caller = take_keyword("caller");
    scope_->set(def.caller_id, caller ? std::move(*caller) : make_undefined("No caller defined"));
  }
  if (def.uses_kwargs) {
    auto rest = std::make_shared<DictObject>();
    for (const auto& [key, value] : args.keyword) rest->set(string(key), value);
    scope_->set(def.kwargs_id, dict(std::move(rest)));
  } else if (!args.keyword.empty()) {
    fail("macro '{}' takes no keyword argument '{}'", def.name, args.keyword[0].first);
  }
  if (def.uses_varargs) {
    std::vector<Value> rest;
    for (size_t i = num_parameters; i < args.positional.size(); ++i)
      rest.push_back(args.positional[i]);
    scope_->set(def.varargs_id, list(std::move(rest), ListObject::Flavor::tuple));
  }
  return string(capture(macro.body, macro.unset));
}

void Runtime::call_block(const Stmt& s) {
  const Value callee = eval(*s.value->children[0]);
  Args args = eval_args(*s.value);
  for (const auto& [key, value] : args.keyword)
    if (key == "caller") fail("a call block cannot be given another caller");
  args.keyword.emplace_back("caller",
                            Value(std::static_pointer_cast<SpecialObject>(make_macro(s))));
  emit(call(callee, args));
}

}  // namespace sluice::jinja
