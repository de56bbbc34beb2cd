#pragma once

#include <absl/container/flat_hash_map.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"
#include "text/jinja/limits.h"

namespace sluice::jinja {

// The half of the parser that reads expressions; parser.cc adds statements. Used within one call of
// parse().
class ExpressionParser {
 protected:
  ExpressionParser(std::string_view source, const Limits& limits)
      : limits_(limits), tokens_(tokenize(source)) {}

  const Token& current() const { return tokens_[pos_]; }
  const Token& look() const { return tokens_[pos_ + 1 < tokens_.size() ? pos_ + 1 : pos_]; }
  Token take() { return tokens_[pos_ + 1 < tokens_.size() ? pos_++ : pos_]; }
  bool skip_op(std::string_view op);
  bool skip_name(std::string_view name);
  void expect_op(std::string_view op);
  void expect_name(std::string_view name);
  std::string expect_any_name();
  int intern(const std::string& name);

  ExprPtr expression(bool with_conditional = true);
  // Comma-separated expressions make a tuple; one alone stays itself.
  ExprPtr tuple(bool with_conditional = true, std::string_view end_name = {},
                bool parenthesized = false);
  ExprPtr assign_target(std::string_view end_name, bool with_namespace);
  ExprPtr filters(ExprPtr subject, bool start_inline = false);
  std::vector<MacroDef*> macros_;  // being parsed, outermost first
  // Filters and tests that do not exist. An `if` around them forgives them at this stage.
  std::vector<Error> unresolved_;

  // Counts nesting of the parser itself.
  class Nested {
   public:
    explicit Nested(ExpressionParser& p) : p_(p) {
      if (++p_.nesting_ > p_.limits_.parse_depth)
        fail_at(p_.current().line, "nested deeper than {}", p_.limits_.parse_depth);
    }
    ~Nested() { --p_.nesting_; }

   private:
    ExpressionParser& p_;
  };

  const Limits& limits_;
  std::vector<std::string> names_;

 private:
  ExprPtr make(ExprType type, int line, std::vector<ExprPtr> children = {});
  ExprPtr make(ExprType type, int line, ExprPtr a, ExprPtr b = nullptr);
  ExprPtr conditional();
  ExprPtr logical_or();
  ExprPtr logical_and();
  ExprPtr logical_not();
  ExprPtr compare();
  ExprPtr sum();
  ExprPtr concat();
  ExprPtr product();
  ExprPtr power();
  ExprPtr unary(bool with_filter = true);
  ExprPtr primary(bool with_namespace = false);
  ExprPtr name_or_constant(const Token& token, bool with_namespace);
  ExprPtr list();
  ExprPtr dict();
  ExprPtr postfix(ExprPtr);
  ExprPtr filters_and_tests(ExprPtr);
  ExprPtr subscript(ExprPtr);
  ExprPtr subscribed(ExprPtr object, int line);
  ExprPtr call(ExprPtr callee);
  ExprPtr test(ExprPtr subject);
  std::vector<Argument> call_args();
  ExprPtr with_args(ExprPtr);
  bool tuple_end(std::string_view end_name) const;
  void check_assignable(const Expr& target) const;
  void note_special(const std::string& name, int id);

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  int nesting_ = 0;
  absl::flat_hash_map<std::string, int> ids_;
};

}  // namespace sluice::jinja
