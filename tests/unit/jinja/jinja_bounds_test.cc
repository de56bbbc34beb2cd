// Hostile templates: each must end in an error that says what and where, soon and in little memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "text/jinja/program.h"
#include "text/jinja/value.h"

namespace sluice::jinja {
namespace {

using testing::HasSubstr;

std::string repeat(std::string_view part, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += part;
  return out;
}

absl::StatusOr<std::string> render(std::string_view source, const Limits& limits = {}) {
  const auto program = Program::compile(source, limits);
  if (!program.ok()) return program.status();
  return program->render({});
}

void expect_error(std::string_view source, const std::string& words, const Limits& limits = {}) {
  const auto got = render(source, limits);
  ASSERT_FALSE(got.ok()) << source.substr(0, 200);
  EXPECT_EQ(got.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(message_of(got.status())), HasSubstr(words)) << source.substr(0, 200);
}

constexpr std::string_view kLong = "{% set r = range(100000) %}{% for a in r %}{% for b in r %}";
constexpr std::string_view kLongEnd = "{% endfor %}{% endfor %}";

TEST(JinjaBounds, Steps) {
  expect_error(std::string(kLong) + std::string(kLongEnd), "too long");
  expect_error(std::string(kLong) + "{% set x = a * b %}" + std::string(kLongEnd), "too long");
  expect_error(
      "{% macro m(n) %}{% if n > 0 %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
      "{{ m(60) }}",
      "too long");
  expect_error(
      "{% set r = range(100000) %}{% for a in r %}{% for b in r if false %}{% endfor %}"
      "{% endfor %}",
      "too long");
}

TEST(JinjaBounds, StepsOfOneOperation) {
  // Each single operation is legal; their work is what counts.
  const std::string big = "{% set s = 'ab' * 4000000 %}";
  for (const char* op : {"s in s ~ 'x'", "s | length", "s == s ~ 'y'", "s.upper()", "s[::-1]",
                         "s.find('abc')", "s.rfind('ba' * 1000000 ~ 'b')", "s.replace('zz', '')",
                         "s.strip()", "s.isalpha()", "s | wordcount", "s.endswith('x', 5)"})
    expect_error(big + "{% for i in range(100000) %}{% set x = " + op + " %}{% endfor %}", "over");
}

TEST(JinjaBounds, Output) {
  expect_error("{% for i in range(100000) %}{{ 'x' * 100000 }}{% endfor %}",
               "output is longer than 16777216");
  Limits limits;
  limits.output_bytes = 100;
  EXPECT_TRUE(render("{{ 'x' * 100 }}", limits).ok());
  expect_error("{{ 'x' * 101 }}", "output is longer than 100", limits);
  expect_error("\n\n{% for i in range(101) %}x{% endfor %}", "line 3", limits);
}

TEST(JinjaBounds, Strings) {
  for (const char* source :
       {"{{ 'a' * 10**9 }}", "{{ 'a' * 9223372036854775807 }}", "{{ 9223372036854775807 * 'ab' }}",
        "{{ 'a'.center(10**9) }}", "{{ 'a'.ljust(9223372036854775807) }}",
        "{{ 'a'.zfill(10**12) }}", "{{ 'a' | indent(10**9) }}",
        "{{ [[1]] | tojson(indent=10**9) }}", "{{ ('a' * 10**6).replace('', 'b' * 10**3) }}",
        "{{ ('b' * 10**6).join('a' * 100) }}", "{{ ['a' * 10**6] * 100 | join }}",
        "{{ ('a' * 10**6 for_) }}",
        "{% set s = 'ab' %}{% for i in range(60) %}{% set s = s + s %}{% endfor %}{{ s }}"
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}"})
    EXPECT_FALSE(render(source).ok()) << source;
  expect_error("{{ 'a' * 10**9 }}", "string of over");
  expect_error("{{ '%1000000000d' % 1 }}", "width");
  expect_error("{{ '%*d' % (10**9, 1) }}", "width");
  expect_error("{{ '{:1000000000}'.format(1) }}", "width");
  expect_error("{{ '{:.99999f}'.format(1.5) }}", "width");
  expect_error("{{ 1 | round(10**18) }}{{ strftime_now('%c' * 200) }}", "longer than 256");
}

TEST(JinjaBounds, Sequences) {
  expect_error("{{ range(10**9) }}", "range too big");
  expect_error("{{ range(0, 9223372036854775807) }}", "range too big");
  expect_error("{{ range(-9223372036854775807, 9223372036854775807, 9) }}", "range too big");
  expect_error("{{ [0] * 10**9 }}", "sequence of over");
  expect_error("{{ [0] * 9223372036854775807 }}", "sequence of over");
  expect_error("{{ [1] | batch(10**9, 0) | list }}", "sequence of over");
  expect_error("{{ [1] | slice(10**9) | list }}", "sequence of over");
  expect_error("{{ ('a' * 2000000) | list }}", "sequence of over");
  expect_error(
      "{% set ns = namespace(l=[0]) %}{% for i in range(60) %}"
      "{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "over");
}

TEST(JinjaBounds, Memory) {
  expect_error(
      "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}"
      "{% set ns.l = ns.l + ['x' * 100000] %}{% endfor %}",
      "over");
  Limits limits;
  limits.total_bytes = 1 << 20;
  expect_error("{% for i in range(1000) %}{% set x = 'x' * 10000 %}{% endfor %}", "memory", limits);
  // Objects shared many times over: small in memory, endless when walked.
  const std::string shared =
      "{% set ns = namespace(x=['a', 'b']) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}"
      "{% endfor %}";
  for (const char* use : {"{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x | string | length }}"})
    expect_error(shared + use, "over");
  expect_error(shared +
                   "{% set a = namespace(x=ns.x) %}{% set ns.x = ['a', 'b'] %}"
                   "{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
                   "{{ a.x == ns.x }}",
               "over");
}

TEST(JinjaBounds, DeepValues) {
  expect_error(
      "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}"
      "{% endfor %}",
      "nested deeper");
  expect_error(
      "{% set ns = namespace(x={}) %}{% for i in range(100000) %}{% set ns.x = {'a': ns.x} %}"
      "{% endfor %}",
      "nested deeper");
  expect_error(
      "{% set ns = namespace(x='a'.upper) %}{% for i in range(100000) %}"
      "{% set ns.x = [ns.x].index %}{% endfor %}",
      "nested deeper");
  expect_error(
      "{% set ns = namespace(x=1) %}{% for i in range(100000) %}"
      "{% set ns.x = cycler(ns.x) %}{% endfor %}",
      "nested deeper");
}

// A loop that calls itself is bounded like any call, and may hold itself.
TEST(JinjaBounds, RecursiveLoops) {
  expect_error("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nested deeper");
  expect_error(
      "{% for x in range(10) recursive %}{{ loop(range(10)) if loop.depth < 9 }}{% endfor %}",
      "runs too long");
  expect_error(
      "{% for x in range(20) recursive %}{{ loop(range(20)) ~ loop(range(20)) if loop.depth < 9 }}"
      "{{ 'x' * 1000000 }}{% endfor %}",
      "the output is longer");
  EXPECT_EQ(*render("{% set ns = namespace() %}{% for x in [1, 2] recursive %}{{ x }}"
                    "{% set ns.f = loop %}{% if loop.changed(loop) %}{% endif %}{% endfor %}"
                    "{{ ns.f([3, 4]) }}"),
            "1234");
  expect_error(
      "{% for x in [1] recursive %}{{ loop.changed([loop]) }}{{ loop([1]) }}{{ 1 // 0 }}"
      "{% endfor %}",
      "nested deeper");
}

// What a scope sets is looked for before anything runs; wide and deep templates must not make that
// slow.
TEST(JinjaBounds, ManyNamesInManyBranches) {
  std::string text;
  for (int i = 0; i < 20000; ++i)
    text += "{% if b" + std::to_string(i) + " %}{% set a" + std::to_string(i) + "=1 %}{% endif %}";
  EXPECT_TRUE(render(text).ok());
  text.clear();
  for (int i = 0; i < 45; ++i) text += "{% for i" + std::to_string(i) + " in [1] %}{% if 1 %}";
  for (int i = 0; i < 20000; ++i) text += "{{ a" + std::to_string(i) + " }}";
  for (int i = 0; i < 45; ++i) text += "{% endif %}{% endfor %}";
  EXPECT_TRUE(render(text).ok()) << render(text).status();
}

// Chains and cycles that reference counting alone would leak, or destroy recursively.
TEST(JinjaBounds, Cycles) {
  for (const char* source :
       {"{% set ns = namespace() %}{% set ns.me = ns %}ok",
        "{% set ns = namespace() %}{% set ns.me = [ns, {'a': ns}] %}ok",
        "{% set ns = namespace() %}{% for i in range(50000) %}{% set ns.x = namespace(x=ns.x) %}"
        "{% endfor %}ok",
        "{% set ns = namespace() %}{% for i in range(20000) %}{% for j in [ns.x] %}"
        "{% set ns.x = loop %}{% endfor %}{% endfor %}ok",
        "{% set ns = namespace(f=1) %}{% macro make(f) %}{% macro g() %}{{ f }}{% endmacro %}"
        "{% set ns.f = g %}{% endmacro %}{% for i in range(20000) %}{% set x = make(ns.f) %}"
        "{% endfor %}ok"}) {
    const auto got = render(source);
    ASSERT_TRUE(got.ok()) << source << got.status();
    EXPECT_EQ(*got, "ok") << source;
  }
  EXPECT_FALSE(render("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}").ok());
  EXPECT_FALSE(render("{% set a = namespace() %}{% set b = namespace(l=[a]) %}{% set a.l = [b] %}"
                      "{{ a.l == [b.l] }}{{ a.l | string }}")
                   .ok());
}

TEST(JinjaBounds, Recursion) {
  expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested deeper");
  expect_error(
      "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}"
      "{{ a() }}",
      "nested deeper");
  expect_error("{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}",
               "nested deeper");
  expect_error("{% macro m(x=m()) %}{% endmacro %}{{ m() }}", "nested deeper");
}

TEST(JinjaBounds, DeepTemplates) {
  const int n = 50000;
  // When compiled: rendering has a bound of its own.
  const auto refuse = [](const std::string& source, const std::string& words) {
    const auto program = Program::compile(source);
    ASSERT_FALSE(program.ok()) << source.substr(0, 50);
    EXPECT_THAT(std::string(message_of(program.status())), HasSubstr(words));
  };
  refuse("{{ " + repeat("(", n) + "1" + repeat(")", n) + " }}", "nested deeper");
  refuse("{{ " + repeat("[", n) + repeat("]", n) + " }}", "nested deeper");
  refuse("{{ " + repeat("{1:", n) + "1" + repeat("}", n) + " }}", "nested deeper");
  refuse("{{ " + repeat("-", n) + "1 }}", "nested deeper");
  refuse("{{ " + repeat("not ", n) + "1 }}", "nested deeper");
  refuse("{{ 1" + repeat("+1", n) + " }}", "nested deeper");
  refuse("{{ 1" + repeat(" or 1", n) + " }}", "nested deeper");
  refuse("{{ a" + repeat(".a", n) + " }}", "nested deeper");
  refuse("{{ a" + repeat("(1)", n) + " }}", "nested deeper");
  refuse("{{ a" + repeat("|trim", n) + " }}", "nested deeper");
  refuse("{{ " + repeat("1 if 1 else ", n) + "1 }}", "nested deeper");
  refuse("{{ 1" + repeat(" if 1", n) + " }}", "nested deeper");
  refuse("{{ a" + repeat("[a", n) + repeat("]", n) + " }}", "nested deeper");
  refuse("{{ " + repeat("a(", n) + repeat(")", n) + " }}", "nested deeper");
  refuse(repeat("{% if 1 %}", n), "nested deeper");
  refuse(repeat("{% for i in x %}", n), "nested deeper");
  refuse(repeat("{% macro m() %}", n), "nested deeper");
  refuse("{% set " + repeat("(", n) + "a" + repeat(")", n) + " = 1 %}", "nested deeper");
  refuse("{% filter " + repeat("trim|", n) + "trim %}{% endfilter %}", "nested deeper");
}

TEST(JinjaBounds, TemplateSize) {
  EXPECT_TRUE(render(std::string(1 << 20, 'x')).ok());
  expect_error(std::string((1 << 20) + 1, 'x'), "the limit is 1048576");
  // Many of everything, in one level.
  EXPECT_TRUE(render(repeat("{% set a = 1 %}", 50000)).ok());
  EXPECT_TRUE(render(repeat("{% if 0 %}{% endif %}", 40000)).ok());
  EXPECT_TRUE(render("{% if 0 %}" + repeat("{% elif 0 %}", 50000) + "{% endif %}").ok());
  EXPECT_TRUE(render("{{ 1" + repeat(" ~ 1", 100000) + " }}").ok());
  EXPECT_TRUE(render("{{ 1" + repeat(" == 1", 100000) + " }}").ok());
  std::string many;
  for (int i = 0; i < 40000; ++i) many += "{% set a" + std::to_string(i) + " = 1 %}";
  (void)render(many);  // slow lookups must be paid for, not hang
}

TEST(JinjaBounds, Numbers) {
  expect_error("{{ 9223372036854775807 + 1 }}", "64 bits");
  expect_error("{{ -9223372036854775807 - 2 }}", "64 bits");
  expect_error("{{ 10 ** 19 }}", "64 bits");
  // Longer integers are kept, not computed with.
  EXPECT_EQ(*render("{{ 9223372036854775808 }} {{ '-0099999999999999999999' | int }}"),
            "9223372036854775808 -99999999999999999999");
  expect_error("{{ 9223372036854775808 + 1 }}", "64 bits");
  expect_error("{{ -9223372036854775808 }}", "bad operand");
  EXPECT_EQ(*render("{{ range(0, 9223372036854775807, 9223372036854775806)[1:] }}"),
            "range(9223372036854775806, 9223372036854775807, 9223372036854775806)");
  expect_error("{{ 1e300 | int }}", "64 bits");
  expect_error("{{ 10.0 ** 400 }}", "out of range");
  // The one quotient and the one negation that overflow.
  const std::string smallest = "{% set m = -9223372036854775807 - 1 %}";
  for (const char* e : {"m // -1", "-m", "m | abs", "m * -1", "m - 1"})
    expect_error(smallest + "{{ " + e + " }}", "64 bits");
  EXPECT_EQ(*render(smallest + "{{ m % -1 }} {{ [1][m:] }} {{ [1, 2][::m] }}"), "0 [1] [2]");
  EXPECT_EQ(*render(smallest +
                    "{{ 'abc'[::9223372036854775807] }}{{ [1, 2, 3][::-9223372036854775807] }}"),
            "a[3]");
}

TEST(JinjaErrors, NameTheLine) {
  expect_error("a\nb\n{{ nope.x }}", "line 3: 'nope' is undefined");
  expect_error(
      "a\n{%- if x %}\n\n{{ raise_exception('Speak up') }}{% else %}\n\n\n"
      "{{ raise_exception('Silence') }}{% endif %}",
      "line 7: Silence");
  expect_error("{#\n\n#}\n{{ 'x\ny' }}\n{% nosuch %}", "line 6: unknown tag 'nosuch'");
  expect_error("{% raw %}\n\n{% endraw %}\n{{ }}", "line 4");
  expect_error("x\r\ny\rz\n{{ 1 + }}", "line 4");
  expect_error("a  \n\n  {%- set x = 1 -%}  \n\n {{ x.y.z }}",
               "line 5: 'int object' has no attribute 'y'");
  expect_error("{% for i in [1] %}\n{% include 'x' %}{% endfor %}", "line 2: the tag 'include'");
  expect_error("{{ 'a'.pop() }}", "has no attribute 'pop'");
  expect_error("{{ [].append(1) }}", "access to attribute 'append' of 'list' object is unsafe");
  expect_error("\xff", "UTF-8");
  expect_error("{% for i in [1] %}{{ loop([]) }}{% endfor %}", "'recursive' marker");
  expect_error("{% for i in [1] recursive %}\n{{ loop() }}{% endfor %}", "line 2: loop() misses");
  expect_error("{% filter length %}x{% endfilter %}", "a filter block must give a string, not int");
  expect_error("{{ 1 | urlize }}", "line 1: the filter 'urlize' is not supported");
  expect_error("{% set ns = namespace(_a=1) %}", "underscore");
}

// Random edits of a real-looking template: any verdict is good, a crash or a hang is not.
TEST(JinjaErrors, SurvivesMutations) {
  const std::string source =
      "{%- set ns = namespace(n=0) %}{% macro m(a, b='x') %}[{{ a }}{{ b | upper }}]{% endmacro %}"
      "{% for m1 in [{'role': 'user', 'content': 'héllo'}, {'role': 'tool'}] if m1.role %}"
      "{{- '<|' + m1['role'] ~ \"|>\\n\" + (m1.content or '')[::-1] | trim | tojson(indent=2) }}"
      "{%- if loop.last and not (1 <= ns.n < 5) %}{% set ns.n = ns.n + 1 %}{{ m(1, b=m1.role[0:2]) "
      "}}"
      "{% elif m1.x is defined %}{% continue %}{% else %}{# no #}{% endif %}{% endfor %}"
      "{% macro w() %}{{ caller() }}{% endmacro %}{% call w() %}x{% endcall %}{% raw %}{{ x }}{% "
      "endraw %}{{ '%s-%5.2f' % ('a', 1.5) }}"
      "{{ '{:>5}'.format(3) }}{{ {'a': [1, (2,)]}['a'][1][0] // 2 ** 3 }}";
  ASSERT_TRUE(render(source).ok()) << render(source).status();
  uint64_t state = 1;
  const auto random = [&](size_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<size_t>(state >> 33) % n;
  };
  const std::string_view pieces[] = {
      "{{", "}}",   "{%",    "%}",     "-",   "+",     "(",  ")", "[",  "]",  "{",
      "}",  "'",    "\"",    "|",      ".",   ":",     ",",  "=", "~",  "if", "for",
      "in", "is",   "not",   " ",      "\n",  "0",     "9",  "*", "\\", "é",  "#",
      "{#", "else", "endif", "endfor", "set", "1e999", "**", "//"};
  int good = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string text = source;
    for (size_t edits = 1 + random(4); edits > 0; --edits) {
      const size_t at = random(text.size());
      switch (random(3)) {
        case 0:
          text.erase(at, 1 + random(6));
          break;
        case 1:
          text.insert(at, pieces[random(std::size(pieces))]);
          break;
        default:
          text.replace(at, 1, pieces[random(std::size(pieces))]);
      }
    }
    good += render(text).ok();
  }
  EXPECT_GT(good, 100);
}

TEST(JinjaJson, RefusesWhatItCannotHold) {
  EXPECT_FALSE(parse_json(repeat("[", 100000), "messages").ok());
  EXPECT_FALSE(parse_json(repeat("{\"a\":", 100000), "messages").ok());
  EXPECT_TRUE(parse_json(repeat("[", 100) + repeat("]", 100), "messages").ok());
  EXPECT_FALSE(parse_json("{\"a\": }", "messages").ok());
  EXPECT_FALSE(parse_json("\"\xff\"", "messages").ok());
  EXPECT_FALSE(parse_json("", "messages").ok());
  // Very many keys, in linear time.
  std::string wide = "{\"k\": 0";
  for (int i = 0; i < 200000; ++i) wide += ",\"k" + std::to_string(i) + "\":1";
  EXPECT_TRUE(parse_json(wide + "}", "messages").ok());
}

}  // namespace
}  // namespace sluice::jinja
