#!/usr/bin/env python3
"""Compares text/jinja with Jinja2 on templates made at random.

    cmake --build build/release --target jinja_render_lines
    tests/golden/jinja/fuzz.py build/release/bin/jinja_render_lines --count 20000 --seed 1

Needs Jinja2 (see make_fixtures.py, whose environment it uses). Every template is a few statements and
expressions from the grammar below, typed loosely enough to fail now and then: both sides must fail,
or both print the same. What Jinja2 prints with an address in it is left out. Prints each difference
in its smallest form (parts are taken away while it stays) and exits with 1 when there are any.
"""

import argparse
import copy
import json
import random
import re
import subprocess
import sys

from make_fixtures import environment

VARIABLES = {
    "s": "Hello, wörld",
    "t": "  two words\n\nand a line  ",
    "e": "",
    "n": 7,
    "z": 0,
    "m": -3,
    "f": 2.5,
    "g": -0.125,
    "yes": True,
    "no": False,
    "nil": None,
    "l": [3, 1, 2, 1],
    "w": ["b", "A", "c", "a"],
    "empty": [],
    "mixed": [1, "x", None, 2.0, True, [1], {"k": "v"}],
    "d": {"b": 1, "A": 2, "c": {"x": [1, 2]}},
    "p": [
        {"name": "Ann", "age": 31, "tags": ["x", "y"], "ok": True},
        {"name": "bo", "age": 25, "tags": [], "ok": False},
        {"name": "Cy", "age": 31, "tags": ["x"], "extra": 1.5},
    ],
    "pairs": [["a", 1], ["b", 2]],
    "tree": [{"v": 1, "kids": [{"v": 2, "kids": []}, {"v": 3, "kids": [{"v": 4, "kids": []}]}]}, {"v": 5, "kids": []}],
    "big": 123456789012345678901234567890,
}

STRINGS = ["s", "t", "e", "'a'", "'x,y,,z'", "'<b>&\"q\"</b>'", "'é😀'", "'A b-C'", "\"it's\"", "'42'", "' 3.5 '", "'a\\nb\\r\\nc'",
           "'%s-%d'", "'{}:{}'", "'ab' 'cd'", "'ABC abc'", "'aXbXc'", "'\\t\\\\'"]
INTS = ["n", "z", "m", "0", "1", "2", "3", "-1", "10", "255", "1_000", "0x1f", "yes"]
FLOATS = ["f", "g", "1.5", "-0.0", "1e3", "2.0", "1e16", "1e-5", "0.1", "123456.789"]
LISTS = ["l", "w", "empty", "mixed", "p", "pairs", "[1, 2, 3]", "['a', 'b']", "(1, 2)", "(1,)", "range(4)", "d.c.x", "[[1, 2], [3]]", "[f, n]"]
DICTS = ["d", "{'a': 1, 'b': [2]}", "{}", "p[0]", "dict(x=1, y='z')", "{1: 2, 'k': none}", "dict(pairs)"]
OTHERS = ["nil", "none", "true", "false", "nope", "d.nope", "p[9]", "big", "d.items()", "d.keys()", "d.values()"]
NAMES = ["a", "b", "x", "y", "s", "n"]
SEPARATORS = ["', '", "''", "'-'", "'X'", "' '", "none", "','", "'\\n'"]


class Maker:
    def __init__(self, rng):
        self.rng = rng
        self.depth = 0
        self.loops = 0

    def pick(self, *choices):
        return self.rng.choice(choices)

    def some(self, make, low, high):
        return [make() for _ in range(self.rng.randint(low, high))]

    def deep(self):
        return self.depth > 3 or self.rng.random() < 0.25

    def any(self):
        if self.rng.random() < 0.06:
            return self.rng.choice(OTHERS + NAMES)
        return self.pick(self.string, self.string, self.integer, self.real, self.list, self.list, self.dict, self.boolean)()

    def nested(method):
        def wrapped(self):
            self.depth += 1
            try:
                return method(self)
            finally:
                self.depth -= 1
        return wrapped

    def atom(self, choices):
        return self.any() if self.rng.random() < 0.03 and self.depth < 5 else self.rng.choice(choices)

    @nested
    def string(self):
        if self.deep():
            return self.atom(STRINGS)
        r = self.rng.randrange(9)
        if r == 0:
            return f"({self.string()} ~ {self.any()})"
        if r == 1:
            return f"({self.string()} + {self.string()})"
        if r == 2:
            return f"{self.string()}[{self.slice()}]"
        if r == 3:
            return f"({self.string()} if {self.boolean()}" + self.pick("", f" else {self.any()}") + ")"
        if r <= 5:
            return f"({self.any()} | {self.string_filter()})"
        if r == 6:
            return f"({self.string()} % {self.pick(self.any, lambda: '(' + self.any() + ', ' + self.any() + ')')()})"
        return f"({self.string()}).{self.string_method()}"

    def slice(self):
        part = lambda: self.pick("", "", self.integer())
        return self.pick(self.integer(), f"{part()}:{part()}", f"{part()}:{part()}:{part()}")

    def string_filter(self):
        i, s, b = self.integer, self.string, self.boolean
        return self.pick(
            "upper", "lower", "capitalize", "title", "trim", f"trim({s()})", f"center({i()})", f"replace({s()}, {s()})",
            f"replace({s()}, {s()}, {i()})", "string", "e", "safe", "forceescape", f"default({self.any()})",
            f"default({self.any()}, true)", f"d({s()}, boolean={b()})", f"indent({i()})", f"indent({i()}, {b()})",
            f"indent({i()}, {b()}, {b()})", f"indent(width={s()})", f"truncate({i()})", f"truncate({i()}, {b()})",
            f"truncate({i()}, {b()}, {s()}, {i()})", f"format({self.any()})", f"format({self.any()}, {self.any()})",
            "tojson", f"tojson(indent={i()})", f"tojson(ensure_ascii={b()})", f"tojson(separators=({s()}, {s()}))",
            "tojson(sort_keys=true)", f"tojson({b()}, {i()})", f"join({self.rng.choice(SEPARATORS)})",
            "join(', ', attribute='name')", "join('|', 'age')", "first", "last", "reverse", 
            
            f"attr({s()})", "escape | upper", "min", "max", "length | string", f"sum(start={self.any()})")

    def string_method(self):
        i, s, sep = self.integer, self.string, lambda: self.rng.choice(SEPARATORS)
        return self.pick(
            "strip()", f"strip({s()})", "lstrip()", f"rstrip({s()})", "upper()", "lower()", "title()", "capitalize()", "swapcase()",
            f"replace({s()}, {s()})", f"replace({s()}, {s()}, {i()})", f"split({sep()})[0]", f"rsplit({sep()}, {i()})[-1]",
            "split() | join('/')", f"split({sep()}, {i()}) | join('/')", "splitlines() | join('/')", f"splitlines({self.boolean()}) | list",
            f"partition({sep()})", f"rpartition({sep()})", f"startswith({s()})", f"endswith({s()})", f"startswith(({s()}, {s()}))",
            f"endswith({s()}, {i()})", f"startswith({s()}, {i()}, {i()})", f"find({s()})", f"rfind({s()})", f"index({s()})", f"count({s()})",
            f"count({s()}, {i()}, {i()})", f"find({s()}, {i()})", f"join({self.list()})", f"removeprefix({s()})", f"removesuffix({s()})",
            f"ljust({i()})", f"rjust({i()}, '*')", f"center({i()})", f"zfill({i()})", "isdigit()", "isalpha()", "isalnum()", "isspace()",
            "isupper()", "islower()", "isdecimal()", "casefold()", f"format({self.any()}, {self.any()})", f"format(a={self.any()})", f"rindex({s()})",
            "isascii()", "isnumeric()")

    @nested
    def integer(self):
        if self.deep():
            return self.atom(INTS)
        i = self.integer
        return self.pick(
            lambda: f"({i()} {self.pick('+', '-', '*', '//', '%', '+', '-')} {i()})", lambda: f"({self.any()} | length)",
            lambda: f"({self.any()} | int)", lambda: f"({self.string()} | int({i()}, {self.pick(10, 16, 2, 8, 0)}))", lambda: f"({i()} | abs)",
            lambda: f"-{i()}", lambda: f"+{i()}", lambda: f"({self.list()} | sum)", lambda: f"({self.list()} | count)",
            lambda: f"({self.list()} | first)", lambda: f"({self.list()} | max)", lambda: f"({self.string()} | wordcount)",
            lambda: f"{self.list()}[{i()}]", lambda: f"({i()} ** {self.pick(0, 1, 2, 3, -1)})", lambda: f"({i()} | round)")()

    @nested
    def real(self):
        if self.deep():
            return self.atom(FLOATS)
        r, i = self.real, self.integer
        return self.pick(
            lambda: f"({r()} {self.pick('+', '-', '*', '/', '//', '%')} {self.pick(r, i)()})", lambda: f"({self.any()} | float)",
            lambda: f"({r()} | round({i()}))", lambda: f"({r()} | round({self.pick(0, 1, 2)}, '{self.pick('ceil', 'floor', 'common')}'))",
            lambda: f"({i()} / {i()})", lambda: f"({r()} | abs)", lambda: f"({r()} ** 2)")()

    @nested
    def boolean(self):
        if self.deep():
            return self.atom(["yes", "no", "true", "false", "n > 3", "l", "e"])
        b, a = self.boolean, self.any
        return self.pick(
            lambda: f"(not {b()})", lambda: f"({b()} and {b()})", lambda: f"({b()} or {a()})", lambda: f"({a()} == {a()})",
            lambda: f"({a()} != {a()})", lambda: f"({self.integer()} {self.pick('<', '<=', '>', '>=')} {self.pick(self.integer, self.real)()})",
            lambda: f"({self.string()} {self.pick('<', '<=', '>', '>=')} {self.string()})", lambda: f"({a()} in {self.pick(self.list, self.dict, self.string)()})",
            lambda: f"({self.string()} not in {self.string()})", lambda: f"({self.integer()} < {self.integer()} <= {self.integer()})",
            lambda: f"({a()} is {self.pick('', 'not ')}{self.test()})", lambda: f"({a()} < {a()})", lambda: f"({self.list()} < {self.list()})")()

    def test(self):
        i = self.rng.choice(INTS)
        return self.pick("defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "true", "false", "mapping",
                         "sequence", "iterable", "callable", "odd", "even", f"divisibleby({i})", f"divisibleby {i}", f"eq({self.any()})",
                         f"ne({i})", f"gt({i})", f"ge {i}", f"lt({i})", f"le({i})", f"in({self.list()})", f"in {self.list()}", "lower",
                         "upper", f"sameas({self.pick('none', 'true', 'nil')})", "escaped", "filter", "test", f"equalto({i})", f"sameas {i}")

    @nested
    def list(self):
        if self.deep():
            return self.atom(LISTS)
        l = self.list
        choices = [
            lambda: f"[{', '.join(self.some(self.any, 0, 3))}]", lambda: f"({l()} + {l()})", lambda: f"({l()} * {self.pick(0, 2, 'z')})",
            lambda: f"{l()}[{self.slice()}]", lambda: f"({l()} | {self.list_filter()} | list)", lambda: f"({l()} | {self.list_filter()} | list)",
            lambda: f"({l()} | {self.list_filter()} | list)", lambda: f"({self.dict()} | items | list)", lambda: f"({self.dict()} | dictsort)",
            lambda: f"({self.dict()} | dictsort({self.boolean()}, '{self.pick('key', 'value')}', {self.boolean()}))",
            lambda: f"({self.dict()}.{self.pick('keys', 'values', 'items')}() | list)", lambda: f"({self.string()} | list)",
            lambda: f"{self.string()}.split({self.rng.choice(SEPARATORS)})", lambda: f"({l()} | sort)",
            lambda: f"({l()} | sort({self.boolean()}, {self.boolean()}))", lambda: f"(p | sort(attribute='{self.pick('name', 'age', 'age,name', 'tags')}'))",
            lambda: f"(p | groupby('{self.pick('age', 'name', 'ok', 'tags')}'))", lambda: f"(p | groupby('ok', default={self.any()}) | map('list') | list)",
            lambda: f"(p | groupby('name', case_sensitive={self.boolean()}) | map(attribute='grouper') | list)",
            lambda: f"range({self.integer()}, {self.integer()}) | list", lambda: f"({l()}, {self.any()})",
        ]
        return self.rng.choice(choices)()

    def list_filter(self):
        name = self.pick("name", "age", "tags", "ok", "extra", "nope", "tags.0")
        i = self.rng.choice(INTS)
        return self.pick(
            "reverse", "unique", f"unique({self.boolean()})", f"unique(attribute='{name}')", "list", f"batch({i})", f"batch({i}, {self.any()})",
            f"slice({i})", f"slice({i}, {self.any()})", f"map('{self.pick('upper', 'string', 'length', 'int', 'trim', 'tojson', 'first')}')",
            f"map(attribute='{name}')", f"map(attribute='{name}', default={self.any()})", f"map('default', {self.any()})", f"map('join', '-')",
            f"map('replace', 'a', 'b')", "select", "reject", f"select('{self.pick('odd', 'string', 'number', 'defined', 'mapping', 'none')}')",
            f"reject('{self.pick('even', 'string', 'sequence', 'boolean')}')", f"select('gt', {i})", f"select('in', {self.list()})", f"reject('==', {self.any()})",
            f"selectattr('{name}')", f"rejectattr('{name}')", f"selectattr('{name}', 'defined')", f"selectattr('{name}', 'equalto', {self.any()})",
            f"rejectattr('{name}', 'undefined')", f"selectattr('{name}', 'in', {self.list()})", "sort", f"map(attribute={i})")

    @nested
    def dict(self):
        if self.deep():
            return self.atom(DICTS)
        return self.pick(
            lambda: "{" + ", ".join(f"{self.pick(self.string, self.integer)()}: {self.any()}" for _ in range(self.rng.randint(0, 3))) + "}",
            lambda: f"dict({self.dict()}, {self.rng.choice(NAMES)}={self.any()})", lambda: f"{self.dict()}.copy()",
            lambda: f"({self.list()} | first)", lambda: f"(p | selectattr('ok') | first)", lambda: f"dict({self.list()})")()

    # --- statements ---

    def sign(self):
        return self.pick("", "", "", "-", "+")

    def tag(self, text):
        return f"{{%{self.sign()} {text} {self.sign()}%}}" + self.pick("", "", "\n", " \n", "  ")

    def text(self):
        return self.pick("", "", "\n", " ", "  \n\t", "text", "a\n  b\n", "{ x }", "\n\n", " é ", "%}")

    def output(self):
        close = self.pick("", "", "-")
        return f"{{{{{self.pick('', '', '-', '+')} {self.any()} {close}}}}}"

    def target(self):
        return self.rng.choice(NAMES)

    @nested
    def statement(self):
        if self.depth > 4:
            return self.output()
        return self.pick(self.output, self.output, self.output, self.choose, self.loop, self.loop, self.assign, self.assign,
                         self.block_set, self.filter_block, self.macro, self.with_block, self.call, self.comment, self.raw,
                         self.generation, self.namespace, self.recursive, self.jump, self.variable)()

    def body(self):
        return self.text() + "".join(self.statement() + self.text() for _ in range(self.rng.randint(1, 3)))

    def variable(self):
        return "{{ " + self.rng.choice(NAMES) + self.pick("", " is defined", " | default('-')") + " }}"

    def choose(self):
        out = self.tag(f"if {self.boolean()}") + self.body()
        for _ in range(self.pick(0, 0, 1)):
            out += self.tag(f"elif {self.boolean()}") + self.body()
        if self.rng.random() < 0.5:
            out += self.tag("else") + self.body()
        return out + self.tag("endif")

    def loop(self):
        target = self.pick("x", "y", "x, y", "a")
        over = "pairs" if "," in target and self.rng.random() < 0.8 else self.pick(self.list, self.list, self.dict, self.string)()
        over = "d.items()" if "," in target and self.rng.random() < 0.4 else over
        condition = f" if {self.boolean()}" if self.rng.random() < 0.2 else ""
        self.loops += 1
        body = self.body()
        for _ in range(self.rng.randint(0, 2)):
            body += "{{ " + self.loop_use() + " }}" + self.body()
        self.loops -= 1
        other = self.tag("else") + self.body() if self.rng.random() < 0.25 else ""
        return self.tag(f"for {target} in {over}{condition}") + body + other + self.tag("endfor")

    def loop_use(self):
        return self.pick("loop.index", "loop.index0", "loop.first", "loop.last", "loop.length", "loop.revindex", "loop.revindex0", "loop.depth",
                         "loop.depth0", f"loop.cycle({self.any()}, 2)", f"loop.changed({self.any()})", "loop.previtem", "loop.nextitem",
                         "loop.nextitem is defined", "loop", "x", "y", "loop.previtem == x", "loop.nope")

    def jump(self):
        if not self.loops:
            return self.output()
        return self.tag(f"if {self.boolean()}") + self.tag(self.pick("break", "continue")) + self.tag("endif")

    def recursive(self):
        inner = self.pick("{{ loop(x.kids) }}", "{{ '(' ~ loop(x.kids) ~ ')' }}", "{% if x.kids %}[{{ loop(x.kids) }}]{% endif %}",
                          "{% set r = loop(x.kids) %}{{ r }}", "{{ loop(x.kids | reverse) | upper }}", "{{ loop(x.nope) }}")
        condition = self.pick("", "", " if x.v > 1")
        loops, self.loops = self.loops, 0
        out = self.tag(f"for x in tree{condition} recursive") + self.pick("{{ x.v }}", "{{ loop.depth }}{{ x.v }},", "{{ loop.index }}/{{ loop.length }}") + inner
        out += self.body() + self.pick("", self.tag("else") + "none") + self.tag("endfor")
        self.loops = loops
        return out

    def assign(self):
        if self.rng.random() < 0.2:
            return self.tag(f"set {self.target()}, {self.target()} = {self.pick(self.any() + ', ' + self.any(), self.list(), 'pairs[0]')}")
        return self.tag(f"set {self.target()} = {self.any()}")

    def closed(self, make=None):
        loops, self.loops = self.loops, 0
        try:
            return (make or self.body)()
        finally:
            self.loops = loops

    def block_set(self):
        return self.tag(f"set {self.target()}" + self.pick("", " | upper", " | trim | length", " | replace('a', 'b')")) + self.closed() + self.tag("endset")

    def filter_block(self):
        return self.tag("filter " + self.pick("upper", "trim", "indent(2)", "replace('a', 'o') | title", "length", "e", "reverse")) + self.closed() + self.tag("endfilter")

    def parameters(self):
        return ", ".join(self.rng.sample(["a", "b=1", "c='x'", "d=a"], 1) if self.rng.random() < 0.5 else self.pick(["a"], ["a", "b=2"], ["a=1", "b=a"], [], ["x", "y"]))

    def arguments(self):
        return ", ".join(self.pick([], [self.any()], [self.any(), self.any()], [f"a={self.any()}"], [self.any(), f"b={self.any()}"], [f"q={self.any()}"],
                                   [f"*{self.list()}"], [f"**{self.dict()}"], [self.any(), f"a={self.any()}"]))

    def macro(self):
        name = self.pick("mac", "mac2")
        special = self.pick("", "", "{{ varargs }}", "{{ kwargs }}", "{{ caller() }}", "{{ caller(1, 2) }}", "{{ caller is defined }}", "{{ mac is defined }}")
        body = self.closed()
        calls = "".join(f"{{{{ {name}({self.arguments()}) }}}}" for _ in range(self.rng.randint(0, 2)))
        about = self.pick("", "", f"{{{{ {name}.name }}}}{{{{ {name}.arguments }}}}", f"{{{{ {name}.catch_kwargs }}}}{{{{ {name}.caller }}}}")
        return self.tag(f"macro {name}({self.parameters()})") + special + body + self.tag("endmacro") + calls + about

    def call(self):
        name = self.pick("mac", "mac2")
        use = self.pick("{{ caller() }}", "<{{ caller() }}>{{ caller() }}", "{{ caller(1) }}", "{{ caller(a='z') }}", "", "{{ caller }}"[:0])
        macro = self.tag(f"macro {name}({self.parameters()})") + use + self.tag("endmacro")
        return macro + self.tag(f"call{self.pick('', '', '(x)', '(a=2)', '(x, y=1)')} {name}({self.arguments()})") + self.closed() + self.tag("endcall")

    def with_block(self):
        bindings = self.pick("", f"x = {self.any()}", f"x = {self.any()}, y = {self.any()}", "a = n, b = a")
        return self.tag(f"with {bindings}") + self.body() + self.tag("endwith")

    def generation(self):
        return self.tag("generation") + self.closed() + self.tag("endgeneration")

    def namespace(self):
        return self.tag(f"set ns = namespace({self.pick('', 'v=1', 'v=' + self.any(), 'd')})") + self.pick("", "{% for x in l %}{% set ns.v = x %}{% endfor %}") + \
            self.tag(f"set ns.{self.pick('v', 'w', '_u', 'n')} = {self.any()}") + "{{ ns.v }}{{ ns.w is defined }}"

    def comment(self):
        return f"{{#{self.sign()} {self.pick('note', '{{ x }}', '{% if %}', '-')} {self.sign()}#}}" + self.pick("", "\n", " ")

    def raw(self):
        return self.tag("raw").rstrip("\n ") + self.pick("{{ x }}", "\n {% if %}\n", "{# #}", " a ") + self.tag("endraw")

    def parts(self):
        return [self.text() + self.statement() for _ in range(self.rng.randint(1, 4))]


class Ours:
    def __init__(self, binary):
        self.binary = binary
        self.variables = {name: json.dumps(value) for name, value in VARIABLES.items()}
        self.start()

    def start(self):
        self.process = subprocess.Popen([self.binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def render(self, source):
        self.process.stdin.write(json.dumps({"template": source, "variables": self.variables}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.start()
            return "CRASH", None
        answer = json.loads(line)
        return answer.get("error"), answer.get("text")


ADDRESS = re.compile(r" at 0x[0-9a-f]+|<(built-in |bound )?(method|function)|<Macro|<generator|&lt;|<LoopContext|mappingproxy|<class")


def difference(ours, env, source):
    """What differs, in words; None when nothing does."""
    try:
        expected, reason = env.from_string(source).render(**copy.deepcopy(VARIABLES)), None
    except RecursionError:
        return None
    except Exception as error:  # any failure of the template is the same to us
        expected, reason = None, f"{type(error).__name__}: {error}"
    if expected is not None and ADDRESS.search(expected):
        return None
    error, text = ours.render(source)
    if error == "CRASH":
        return "CRASH"
    if error is None and text == expected:
        return None
    if error is not None and (expected is None or "64 bits" in error):  # a limit of ours
        return None
    return f"Jinja2: {expected!r} {reason or ''}\n  ours: {text!r} {error or ''}"


def smallest(ours, env, source):
    """Without the tags, expressions and texts that are not needed for the difference."""
    pieces = re.split(r"(\{%.*?%\}|\{\{.*?\}\})", source, flags=re.S)
    size = len(pieces)
    while size:
        i = 0
        while i < len(pieces):
            rest = pieces[:i] + pieces[i + size:]
            if difference(ours, env, "".join(rest)):
                pieces = rest
            else:
                i += 1
        size //= 2
    return "".join(pieces)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=20, help="stop after that many differences")
    args = parser.parse_args()
    ours, env = Ours(args.binary), environment()
    env.optimized = False  # folding constants hides some errors
    found = good = 0
    for i in range(args.count):
        parts = Maker(random.Random(args.seed * 1_000_003 + i)).parts()
        what = difference(ours, env, "".join(parts))
        if what is None:
            good += 1
            continue
        source = smallest(ours, env, "".join(parts))
        print(f"--- {args.seed}/{i}: {source!r}\n  {difference(ours, env, source)}")
        found += 1
        if found >= args.show:
            break
    print(f"{good} equal, {found} different")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
