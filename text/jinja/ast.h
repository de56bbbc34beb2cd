#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

// A template as a tree. Immutable after parsing and shared by threads.
namespace sluice::jinja {

struct Args;
using FilterFn = Value (*)(Runtime&, const Value& subject, Args&);
using TestFn = bool (*)(Runtime&, const Value& subject, Args&);

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;  // null where the template leaves a part out
using Body = std::vector<Stmt>;

enum class ExprType : uint8_t {
  constant,
  name,         // id
  ns_ref,       // id and text: assignment target only
  list,         // children
  tuple,        // children
  dict,         // children: key, value, key, value ...
  attr,         // children[0] . text
  item,         // children[0] [ children[1] ]
  slice,        // children[0] [ children[1] : children[2] : children[3] ]
  call,         // children[0] (args)
  filter,       // children[0] | text(args); no child: the body of a filter block
  test,         // children[0] is text(args)
  unary,        // op children[0]
  binary,       // children[0] op children[1]
  logical_not,  // children[0]
  logical_and,
  logical_or,
  concat,      // children, joined by ~
  compare,     // children[0] ops[0] children[1] ops[1] children[2] ...
  conditional  // children[0] if children[1] else children[2]
};

enum class Op : uint8_t {
  add,
  sub,
  mul,
  div,
  floordiv,
  mod,
  pow,
  eq,
  ne,
  lt,
  le,
  gt,
  ge,
  in,
  not_in
};

struct Argument {
  enum class How : uint8_t { positional, keyword, star, star_star };
  How how = How::positional;
  std::string keyword;
  ExprPtr value;
};

struct Expr {
  ExprType type;
  int line = 0;
  int depth = 1;  // of the tree; bounded by Limits::parse_depth
  int id = -1;    // of names, in Ast::names
  Op op = Op::add;
  std::string text;
  Value constant;
  std::vector<ExprPtr> children;
  std::vector<Op> ops;
  std::vector<Argument> args;
  FilterFn filter = nullptr;
  TestFn test = nullptr;
};

struct Parameter {
  int id;
  std::string name;
  ExprPtr fallback;  // null: none
};

// Of a macro or of a call block's body.
struct MacroDef {
  std::string name;
  std::vector<Parameter> parameters;
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
  int varargs_id = -1, kwargs_id = -1, caller_id = -1;
};

enum class StmtType : uint8_t {
  data,          // text
  output,        // value
  choose,        // if: branches[i].value decides for branches[i].body; a branch without one is else
  loop,          // for target in value if test: body, otherwise
  set,           // target = value
  set_block,     // target = body, through filter
  macro,         // target id; macro, body
  call_block,    // value is the call; macro and body are caller()
  filter_block,  // filter around body
  with,          // bindings, body
  scope,         // generation: body in a scope of its own
  stop,          // break
  skip           // continue
};

struct Stmt {
  StmtType type;
  int line = 0;
  std::string text;
  ExprPtr target;
  ExprPtr value;
  ExprPtr test;
  ExprPtr filter;
  std::vector<std::pair<ExprPtr, ExprPtr>> bindings;
  Body branches;
  Body body;
  Body otherwise;
  int loop_id = -1;                         // the id of the name "loop"
  std::vector<int> unset, otherwise_unset;  // of the scopes of body and otherwise: see symbols.h
  bool recursive = false;                   // loop: its body may call loop(more)
  std::shared_ptr<MacroDef> macro;
};

struct Ast {
  Body body;
  std::vector<int> unset;          // of the outermost scope
  std::vector<std::string> names;  // every name the template mentions, by id
};

}  // namespace sluice::jinja
