#pragma once

#include <absl/container/flat_hash_map.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/limits.h"
#include "text/jinja/value.h"

namespace sluice::jinja {

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keyword;
};

// The arguments of `callee` in the order of `names`; refuses unknown, doubled and missing ones.
std::vector<std::optional<Value>> bind(std::string_view callee, Args& args,
                                       std::initializer_list<std::string_view> names,
                                       size_t required = 0);

// Variables of one block of a template. Blocks that a macro was defined in outlive their run.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<int, Value>> variables;  // by name id
  Value* find(int id);
  void set(int id, Value);
};

struct Macro;
struct LoopObject;

// One rendering of one template, on one thread: its budget, its scopes, and the evaluator.
class Runtime {
 public:
  // `globals`: the value of each name of `ast`, none for those nobody gave.
  Runtime(const Ast& ast, const Limits& limits, std::vector<std::optional<Value>> globals);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  std::string run();
  int line() const { return line_; }

  // --- the budget ---
  void step(int64_t n = 1) {
    if ((steps_ -= n) < 0) out_of_steps();
  }
  // Bytes read, compared or copied.
  void work(size_t bytes) { step(static_cast<int64_t>(bytes / 64)); }
  void allocate(size_t bytes);
  void check_string(size_t bytes) const;  // before it is made
  void check_items(size_t count) const;

  // --- new values, paid for ---
  Value string(std::string text, bool safe = false);
  Value list(std::vector<Value> items, ListObject::Flavor flavor = ListObject::Flavor::list);
  Value dict(std::shared_ptr<DictObject>);
  // Keeps it until the end of the rendering, when its cycles are cut.
  template <class T>
  Value keep(std::shared_ptr<T> object) {
    allocate(256);
    kept_.push_back(object);
    return Value(std::static_pointer_cast<SpecialObject>(object));
  }

  // --- the evaluator, for filters and functions ---
  Value call(const Value& callee, Args& args);
  Value call_macro(const Macro& macro, Args& args);
  Value call_loop(const LoopObject& loop, Args& args);
  Value apply_filter(const std::string& name, const Value& subject, Args& args);
  bool apply_test(const std::string& name, const Value& subject, Args& args);

  // Nested evaluation, bounded so that the stack is.
  class Nested {
   public:
    explicit Nested(Runtime& rt) : rt_(rt) {
      if (++rt_.depth_ > rt_.limits_.depth) rt_.too_deep();
    }
    ~Nested() { --rt_.depth_; }

   private:
    Runtime& rt_;
  };

 private:
  enum class Flow : uint8_t { normal, stop, skip };

  [[noreturn]] void out_of_steps() const;
  [[noreturn]] void too_deep() const;

  Flow exec(const Body& body);
  Flow exec(const Stmt& s);
  Flow choose(const Stmt& s);
  // One run of a loop over `source` in `outside`; `level`: 1 but for a loop that calls itself.
  Flow loop(const Stmt& s, const Value& source, const std::shared_ptr<Scope>& outside,
            int64_t level);
  Flow with(const Stmt& s);
  void call_block(const Stmt& s);
  void emit(std::string_view text);
  void emit(const Value& v);
  void assign(const Expr& target, const Value& v);
  std::string capture(const Body& body, const std::vector<int>& unset);  // in a scope of its own
  void unset(const std::vector<int>& names);  // makes them undefined in the innermost scope
  Value undefined_name(int id) const;
  std::shared_ptr<Macro> make_macro(const Stmt& s);

  Value eval(const Expr& e);
  Value eval_name(const Expr& e);
  Value eval_literal(const Expr& e);
  Value eval_slice(const Expr& e);
  Value eval_call(const Expr& e);
  Value eval_filter(const Expr& e, const Value& subject);
  Value filtered(const Expr& filter, Value text);
  bool eval_test(const Expr& e);
  Value eval_unary(const Expr& e);
  Value eval_compare(const Expr& e);
  Value eval_concat(const Expr& e);
  Args eval_args(const Expr& e);

  // Enters a new scope until it is destroyed; sends output elsewhere until it is destroyed.
  class Entered;
  class Captured;

  const Ast& ast_;
  const Limits& limits_;
  std::vector<std::optional<Value>> globals_;
  absl::flat_hash_map<int, Value> unset_values_;
  std::shared_ptr<Scope> scope_;
  std::string* out_ = nullptr;
  int64_t steps_;
  size_t allocated_ = 0;
  int depth_ = 0;
  int line_ = 0;
  std::vector<std::shared_ptr<SpecialObject>> kept_;
  std::vector<std::shared_ptr<Scope>> captured_;  // by macros
};

}  // namespace sluice::jinja
