#include "text/jinja/symbols.h"

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <algorithm>

namespace sluice::jinja {
namespace {

// What a scope, or one branch of an `if` in it, does with names.
struct Names {
  const Names* outer = nullptr;         // a scope's: the scope around it
  const Names* before = nullptr;        // a branch's: the names up to its `if`
  absl::flat_hash_map<int, bool> refs;  // true: begins unset
  absl::flat_hash_set<int> stores;

  bool has(int id) const {
    for (const Names* n = this; n != nullptr; n = n->before)
      if (n->refs.contains(id)) return true;
    return false;
  }
  bool sets(int id) const {
    for (const Names* n = this; n != nullptr; n = n->before)
      if (n->stores.contains(id)) return true;
    return false;
  }
  bool known_outside(int id) const {
    const Names* scope = this;
    while (scope->before != nullptr) scope = scope->before;
    for (scope = scope->outer; scope != nullptr; scope = scope->outer)
      if (scope->refs.contains(id)) return true;
    return false;
  }

  void load(int id) {
    if (!has(id) && !known_outside(id)) refs.emplace(id, false);
  }
  void store(int id) {
    stores.insert(id);
    if (!has(id)) refs.emplace(id, !known_outside(id));
  }
  void parameter(int id) {
    stores.insert(id);
    refs.emplace(id, false);
  }
};

void read(Names& names, const Expr* e) {
  if (e == nullptr) return;
  if (e->type == ExprType::name || e->type == ExprType::ns_ref) names.load(e->id);
  for (const ExprPtr& child : e->children) read(names, child.get());
  for (const Argument& arg : e->args) read(names, arg.value.get());
}

// The targets of set, or of for and with, whose names are like parameters.
void write(Names& names, const Expr& target, bool as_parameters) {
  if (target.type == ExprType::ns_ref) return names.load(target.id);
  if (target.type == ExprType::name)
    return as_parameters ? names.parameter(target.id) : names.store(target.id);
  for (const ExprPtr& item : target.children) write(names, *item, as_parameters);
}

void scan(Names& names, const Body& body);

// Jinja2 sees three branches at all times, the body, all of elif, and else, and forgets none: one
// that is not there sets nothing.
void scan_branches(Names& names, const Stmt& s) {
  read(names, s.branches[0].value.get());
  Names body, elifs, otherwise;
  for (Names* branch : {&body, &elifs, &otherwise}) branch->before = &names;
  scan(body, s.branches[0].body);
  for (size_t i = 1; i < s.branches.size(); ++i) {
    const Stmt& branch = s.branches[i];
    if (branch.value == nullptr) {
      scan(otherwise, branch.body);
      continue;
    }
    // Each with nothing beside it: all it sets is set in one branch of three.
    read(elifs, branch.value.get());
    Names inner;
    inner.before = &elifs;
    scan(inner, branch.body);
    for (const auto& [id, unset] : inner.refs) {
      const bool sets = inner.stores.contains(id) && !elifs.sets(id);
      elifs.refs[id] = unset && !sets;
    }
    elifs.stores.insert(inner.stores.begin(), inner.stores.end());
  }
  absl::flat_hash_map<int, int> setters;  // how many branches set a name
  for (Names* branch : {&body, &elifs, &otherwise})
    for (const int id : branch->stores)
      if (!names.sets(id)) ++setters[id];
  for (Names* branch : {&body, &elifs, &otherwise})
    for (const auto& [id, unset] : branch->refs) names.refs[id] = unset;
  for (const auto& [id, count] : setters) {
    names.stores.insert(id);
    if (count < 3) names.refs[id] = false;
  }
}

// The statements of one scope, without the scopes in it.
void scan(Names& names, const Body& body) {
  for (const Stmt& s : body) {
    switch (s.type) {
      case StmtType::choose:
        scan_branches(names, s);
        break;
      case StmtType::set:
        read(names, s.value.get());
        write(names, *s.target, false);
        break;
      case StmtType::set_block:
      case StmtType::macro:
        write(names, *s.target, false);
        break;
      case StmtType::with:
        for (const auto& [target, value] : s.bindings) read(names, value.get());
        break;
      case StmtType::filter_block:
        read(names, s.filter.get());
        break;
      default:
        read(names, s.value.get());
    }
  }
}

void visit(Body& body, const Names& outer);

std::vector<int> unset_in(Body& body, Names& names) {
  scan(names, body);
  std::vector<int> unset;
  for (const auto& [id, is_unset] : names.refs)
    if (is_unset) unset.push_back(id);
  std::sort(unset.begin(), unset.end());
  visit(body, names);
  return unset;
}

void parameters(Names& names, const Stmt& s) {
  if (s.type == StmtType::loop) {
    names.parameter(s.loop_id);
    write(names, *s.target, true);
  }
  for (const auto& [target, value] : s.bindings) write(names, *target, true);
  if (s.macro == nullptr) return;
  const MacroDef& m = *s.macro;
  for (const Parameter& p : m.parameters) names.parameter(p.id);
  if (m.uses_caller) names.parameter(m.caller_id);
  if (m.uses_kwargs) names.parameter(m.kwargs_id);
  if (m.uses_varargs) names.parameter(m.varargs_id);
  for (const Parameter& p : m.parameters) read(names, p.fallback.get());
}

// The scopes in a body.
void visit(Body& body, const Names& outer) {
  for (Stmt& s : body) {
    if (s.type == StmtType::choose) {
      for (Stmt& branch : s.branches) visit(branch.body, outer);
      continue;
    }
    Names names;
    names.outer = &outer;
    parameters(names, s);
    s.unset = unset_in(s.body, names);
    if (s.otherwise.empty()) continue;
    Names otherwise;
    otherwise.outer = &outer;
    s.otherwise_unset = unset_in(s.otherwise, otherwise);
  }
}

}  // namespace

void find_unset(Ast& ast) {
  Names root;
  ast.unset = unset_in(ast.body, root);
}

}  // namespace sluice::jinja
