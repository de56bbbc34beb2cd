#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace sluice::jinja {

enum class TokenType : uint8_t {
  data,         // text between tags
  block_begin,  // {%
  block_end,
  variable_begin,  // {{
  variable_end,
  name,
  string,
  integer,
  real,
  op,  // one of + - / // * % ** ~ [ ] ( ) { } == != > >= < <= = . : | , ;
  end
};

struct Token {
  TokenType type;
  int line;
  std::string text;  // of names, operators and data; decoded for strings
  Value number;      // integer, real

  bool is_op(std::string_view s) const { return type == TokenType::op && text == s; }
  bool is_name(std::string_view s) const { return type == TokenType::name && text == s; }
};

// Splits a template into tokens, with trim_blocks and lstrip_blocks on and the last newline
// dropped: the settings all published chat templates are written for. Comments and raw blocks
// are resolved here. Throws Error.
std::vector<Token> tokenize(std::string_view source);

std::string describe(const Token&);

}  // namespace sluice::jinja
