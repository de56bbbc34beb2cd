#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "text/jinja/runtime.h"

// The things in templates that are not data.
namespace sluice::jinja {

// A function of ours. `self`: what it is a method of; None for plain functions.
struct Function final : SpecialObject {
  using Fn = Value (*)(Runtime&, const Value& self, Args&);
  Function(const char* n, Fn f, Value s = {}) : name(n), fn(f), self(std::move(s)) {
    depth = self.depth() + 1;
  }
  const char* type_name() const override { return "function"; }
  std::string repr(Runtime&) const override { return std::string("<function ") + name + ">"; }
  const char* name;
  Fn fn;
  Value self;
};

struct Macro final : SpecialObject {
  Macro(const MacroDef& d, const Body& b, const std::vector<int>& u, std::shared_ptr<Scope> s)
      : def(d), body(b), unset(u), scope(std::move(s)) {}
  const char* type_name() const override { return "Macro"; }
  std::string repr(Runtime&) const override { return "<Macro '" + def.name + "'>"; }
  const MacroDef& def;  // of the Ast, which outlives the rendering
  const Body& body;
  const std::vector<int>& unset;
  std::shared_ptr<Scope> scope;  // where it was defined
};

// namespace(): the one thing templates can change. Always made by Runtime::keep.
struct Namespace final : SpecialObject {
  const char* type_name() const override { return "Namespace"; }
  std::string repr(Runtime&) const override;
  DictObject attributes;
};

// As transformers has it: nothing of Python's own may be replaced.
void check_namespace_name(std::string_view name);

// The variable `loop`. Items are pulled one by one, because the loop's filter may depend on what
// the body has changed.
struct LoopObject final : SpecialObject {
  const char* type_name() const override { return "LoopContext"; }
  std::string repr(Runtime&) const override;

  bool advance();  // to the next item: false at the end
  const Value* peek();
  int64_t length();
  void close() { pull = nullptr; }  // the loop is over: nothing more comes
  void cut();                       // lets go of every value it holds

  std::function<std::optional<Value>()> pull;
  std::optional<int64_t> known_length;
  std::vector<Value> ahead;  // pulled and not yet current, nearest last
  int64_t index0 = -1;
  int64_t level = 1;  // 1 for a loop that was not called by itself
  const Stmt* recursive =
      nullptr;  // the statement to run again when it is called; null: it may not be
  std::shared_ptr<Scope> outside;  // where that statement stands
  std::optional<Value> before, current;
  std::optional<Value> last_changed;
};

struct Cycler final : SpecialObject {
  const char* type_name() const override { return "Cycler"; }
  std::string repr(Runtime&) const override { return "<Cycler>"; }
  std::vector<Value> items;
  size_t pos = 0;
};

struct Joiner final : SpecialObject {
  const char* type_name() const override { return "Joiner"; }
  std::string repr(Runtime&) const override { return "<Joiner>"; }
  Value separator;
  bool used = false;
};

// Methods and attributes of objects; nothing: it has none of that name.
std::optional<Value> object_attribute(Runtime&, const Value& object, std::string_view name);
// Methods of strings, lists, dicts and numbers; those that would change their object come back
// undefined, with the words the sandbox has for it.
std::optional<Value> data_method(Runtime&, const Value& subject, std::string_view name);
Function::Fn string_method(std::string_view name, const char** stable_name);

// raise_exception, range, namespace ...; nothing when there is none of that name.
std::optional<Value> global_function(std::string_view name);

}  // namespace sluice::jinja
