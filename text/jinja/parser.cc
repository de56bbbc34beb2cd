#include "text/jinja/parser.h"

#include "text/jinja/parser_base.h"
#include "text/jinja/symbols.h"

namespace sluice::jinja {
namespace {

class Parser final : private ExpressionParser {
 public:
  Parser(std::string_view source, const Limits& limits) : ExpressionParser(source, limits) {}

  Ast run() {
    Ast ast;
    ast.body = statements({});
    if (current().type != TokenType::end)
      fail_at(current().line, "unexpected {}", describe(current()));
    if (!unresolved_.empty()) throw unresolved_.front();
    ast.names = std::move(names_);
    find_unset(ast);
    return ast;
  }

 private:
  using Ends = std::initializer_list<std::string_view>;

  bool at_end_tag(Ends ends) const {
    for (std::string_view name : ends)
      if (look().is_name(name)) return true;
    return false;
  }

  void block_end() {
    skip_op(":");
    if (current().type != TokenType::block_end)
      fail_at(current().line, "expected '%}}', got {}", describe(current()));
    take();
  }

  // Up to and with the tag's name among `ends`, which stays the token before the current one.
  Body statements(Ends ends) {
    const Nested nested(*this);
    Body body;
    for (;;) {
      switch (current().type) {
        case TokenType::end:
          if (ends.size() != 0)
            fail_at(current().line, "unexpected end of template, expected '{}'", *ends.begin());
          return body;
        case TokenType::data: {
          Stmt s{StmtType::data, current().line};
          s.text = take().text;
          body.push_back(std::move(s));
          break;
        }
        case TokenType::variable_begin: {
          Stmt s{StmtType::output, take().line};
          s.value = tuple();
          if (current().type != TokenType::variable_end)
            fail_at(current().line, "expected '}}}}', got {}", describe(current()));
          take();
          body.push_back(std::move(s));
          break;
        }
        default:
          if (at_end_tag(ends)) {
            take();
            return body;
          }
          body.push_back(statement());
      }
    }
  }

  // A whole block: its body, and the end tag with its own end.
  Body block(Ends ends) {
    block_end();
    Body body = statements(ends);
    take();
    return body;
  }

  // A block that break and continue cannot leave.
  Body captured(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = block({end});
    loops_ = loops;
    return body;
  }

  Stmt statement() {
    const int line = take().line;
    if (current().type != TokenType::name)
      fail_at(current().line, "expected a tag's name, got {}", describe(current()));
    const std::string tag = take().text;
    Stmt s = tagged(tag, line);
    block_end();
    return s;
  }

  Stmt tagged(const std::string& tag, int line) {
    if (tag == "if") return choose(line);
    if (tag == "for") return loop(line);
    if (tag == "set") return set(line);
    if (tag == "macro") return macro(line);
    if (tag == "call") return call_block(line);
    if (tag == "with") return with(line);
    if (tag == "filter") {
      Stmt s{StmtType::filter_block, line};
      s.filter = filters(nullptr, true);
      s.body = captured("endfilter");
      return s;
    }
    if (tag == "generation") {
      Stmt s{StmtType::scope, line};
      s.body = captured("endgeneration");
      return s;
    }
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) fail_at(line, "'{}' outside of a loop", tag);
      return {tag == "break" ? StmtType::stop : StmtType::skip, line};
    }
    for (std::string_view known : {"extends", "include", "import", "from", "block", "autoescape"})
      if (tag == known) fail_at(line, "the tag '{}' is not supported in chat templates", tag);
    fail_at(line, "unknown tag '{}'", tag);
  }

  Stmt choose(int line) {
    Stmt s{StmtType::choose, line};
    const size_t unresolved = unresolved_.size();
    for (bool has_test = true;;) {
      Stmt branch{StmtType::choose, current().line};
      if (has_test) branch.value = tuple(false);
      block_end();
      branch.body = has_test ? statements({"endif", "elif", "else"}) : statements({"endif"});
      s.branches.push_back(std::move(branch));
      const Token tag = take();
      if (tag.text == "endif") break;
      has_test = tag.text == "elif";
    }
    unresolved_.resize(unresolved);
    return s;
  }

  Stmt loop(int line) {
    Stmt s{StmtType::loop, line};
    s.target = assign_target("in", false);
    expect_name("in");
    s.value = tuple(false, "recursive");
    if (skip_name("if")) s.test = expression();
    s.recursive = skip_name("recursive");
    s.loop_id = intern("loop");
    refuse_loop(*s.target);
    block_end();
    ++loops_;
    s.body = statements({"endfor", "else"});
    --loops_;
    if (take().text == "else") s.otherwise = block({"endfor"});
    return s;
  }

  void refuse_loop(const Expr& target) const {
    for (const ExprPtr& item : target.children) refuse_loop(*item);
    if (target.type == ExprType::name && names_[static_cast<size_t>(target.id)] == "loop")
      fail_at(target.line, "can't assign to the special variable 'loop'");
  }

  Stmt set(int line) {
    Stmt s{StmtType::set, line};
    s.target = assign_target({}, true);
    if (skip_op("=")) {
      s.value = tuple();
      return s;
    }
    s.type = StmtType::set_block;
    s.filter = filters(nullptr);
    if (s.target->type == ExprType::tuple) fail_at(line, "a set block needs one name");
    s.body = captured("endset");
    return s;
  }

  void signature(MacroDef& macro) {
    expect_op("(");
    while (!current().is_op(")")) {
      if (!macro.parameters.empty()) expect_op(",");
      const int line = current().line;
      Parameter p;
      p.name = expect_any_name();
      p.id = intern(p.name);
      if (skip_op("=")) {
        p.fallback = expression();
      } else if (!macro.parameters.empty() && macro.parameters.back().fallback) {
        fail_at(line, "parameter '{}' without a default follows one with a default", p.name);
      }
      macro.parameters.push_back(std::move(p));
    }
    take();
  }

  Body macro_body(MacroDef& macro, std::string_view end) {
    macros_.push_back(&macro);
    Body body = captured(end);
    macros_.pop_back();
    return body;
  }

  Stmt macro(int line) {
    Stmt s{StmtType::macro, line};
    s.macro = std::make_shared<MacroDef>();
    s.target = assign_target({}, false);
    if (s.target->type != ExprType::name) fail_at(line, "a macro needs one name");
    s.macro->name = names_[static_cast<size_t>(s.target->id)];
    signature(*s.macro);
    s.body = macro_body(*s.macro, "endmacro");
    return s;
  }

  Stmt call_block(int line) {
    Stmt s{StmtType::call_block, line};
    s.macro = std::make_shared<MacroDef>();
    s.macro->name = "caller";
    if (current().is_op("(")) signature(*s.macro);
    s.value = expression();
    if (s.value->type != ExprType::call) fail_at(line, "expected a call");
    s.body = macro_body(*s.macro, "endcall");
    return s;
  }

  Stmt with(int line) {
    Stmt s{StmtType::with, line};
    while (current().type != TokenType::block_end) {
      if (!s.bindings.empty()) expect_op(",");
      ExprPtr target = assign_target({}, false);
      expect_op("=");
      s.bindings.emplace_back(std::move(target), expression());
    }
    s.body = block({"endwith"});
    return s;
  }

  int loops_ = 0;  // around here, within this macro
};

}  // namespace

Ast parse(std::string_view source, const Limits& limits) {
  if (source.size() > limits.template_bytes)
    fail("the template has {} bytes, the limit is {}", source.size(), limits.template_bytes);
  return Parser(source, limits).run();
}

}  // namespace sluice::jinja
