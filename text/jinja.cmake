sluice_library(
  jinja
  SRCS jinja/access.cc
       jinja/eval_expr.cc
       jinja/eval_stmt.cc
       jinja/filters_sequence.cc
       jinja/filters_string.cc
       jinja/format.cc
       jinja/json.cc
       jinja/lexer.cc
       jinja/objects.cc
       jinja/operators.cc
       jinja/parser.cc
       jinja/parser_expr.cc
       jinja/program.cc
       jinja/string_methods.cc
       jinja/symbols.cc
       jinja/tests.cc
       jinja/text.cc
       jinja/utf8.cc
       jinja/value.cc
       chat_template.cc
  DEPS base nlohmann_json::nlohmann_json absl::flat_hash_map absl::flat_hash_set PkgConfig::UTF8PROC)
