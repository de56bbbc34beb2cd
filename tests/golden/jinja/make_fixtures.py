#!/usr/bin/env python3
"""Writes fixtures.json: what Jinja2, set up as transformers does, makes of our templates.

Needs Jinja2 (made with 3.1.6). Run it in this folder after a change to templates.txt or
expressions.txt; the unit test jinja_golden_test compares text/jinja with the result.
"""

import json
import pathlib
from datetime import datetime

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

HERE = pathlib.Path(__file__).parent


class Generation(jinja2.ext.Extension):
    """{% generation %}: its body is rendered in a scope of its own."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    @staticmethod
    def _body(caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Dict:
        """dict itself would be a door out of the sandbox."""

        def __call__(self, *args, **kwargs):
            return dict(*args, **kwargs)

        def fromkeys(self, *args, **kwargs):
            return dict.fromkeys(*args, **kwargs)

    class Namespace(jinja2.utils.Namespace):
        """Without names that begin with an underscore."""

        def __init__(*args, **kwargs):
            attributes = dict(*args[1:], **kwargs)
            for name in attributes:
                Namespace._check(name)
            jinja2.utils.Namespace.__init__(args[0], attributes)

        def __setitem__(self, name, value):
            Namespace._check(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

        @staticmethod
        def _check(name):
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(name)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda fmt: datetime.now().strftime(fmt)
    env.globals["dict"] = Dict()
    env.globals["namespace"] = Namespace
    return env


def render(source, variables):
    """The text, or None where Jinja2 fails."""
    try:
        return environment().from_string(source).render(**variables)
    except Exception:  # any failure of the template is the same to us
        return None


VARIABLES = {
    "x": {
        "s": "text",
        "n": 5,
        "flag": True,
        "none": None,
        "nested": {"a": [10, {"b": "deep"}], "z": 1.5},
        "people": [
            {"name": "Ann", "age": 31, "tags": ["a", "b"]},
            {"name": "Bo", "age": 25, "tags": ["b"]},
            {"name": "Cy", "age": 31, "tags": ["a"]},
        ],
    },
    "l": [1, 2, 3, 4, 5],
    "d": {"items": "key", "a": 1},
    "dd": {"a": 1, "b": "two"},
    "big": 123456789012345678901234567890,
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a place, in °C",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Town & country, e.g. \"Bern, CH\""},
                "days": {"type": "integer", "minimum": 1, "maximum": 18446744073709551615},
            },
            "required": ["place"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, call_id):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    "one": {"messages": [{"role": "user", "content": "Hi!"}]},
    "system": {
        "messages": [
            {"role": "system", "content": "  You are terse.\n"},
            {"role": "user", "content": "Name a river.\n\nOnly one."},
        ]
    },
    "turns": {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": " 1 + 1? "},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": "And <b>\"2 + 2\"</b> & more?"},
            {"role": "assistant", "content": "<think>\nTwice two.\n</think>\n\n4"},
            {"role": "user", "content": "Thanks"},
        ],
        "add_generation_prompt": True,
    },
    "closed": {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "because"}],
        "add_generation_prompt": False,
    },
    "unicode": {
        "messages": [{"role": "user", "content": "Grüße, 世界! 👩‍👩‍👧 \u00a0 İ\u2028x\ttab"}],
        "enable_thinking": False,
    },
    "tools": {
        "messages": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather in Bern?"}],
        "tools": [WEATHER, NOW],
    },
    "results": {
        "messages": [
            {"role": "user", "content": "Weather in Bern and Rome?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    call("get_weather", {"place": "Bern", "days": 2}, "call00001"),
                    call("get_weather", {"place": "Röm"}, "call00002"),
                ],
            },
            {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"t\": 3.5}"},
            {"role": "tool", "name": "get_weather", "tool_call_id": "call00002", "content": "warm"},
            {"role": "assistant", "content": "3.5° and warm."},
            {"role": "user", "content": "Ok"},
        ],
        "tools": [WEATHER],
    },
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "image"}, {"type": "text", "text": " this?"}]},
        ]
    },
    "wrong": {"messages": [{"role": "assistant", "content": "I begin"}, {"role": "assistant", "content": None}]},
}


def with_reasoning(message):
    """transformers passes reasoning under two names, whichever it came by."""
    for name in ("reasoning_content", "thinking", "reasoning"):
        if message.get(name) is not None:
            return {"thinking": message[name]} | message | {"reasoning_content": message[name]}
    return message


def sections(name):
    """Parts of a text file that begin with lines '=== NAME'."""
    parts = {}
    for part in ("\n" + (HERE / name).read_text(encoding="utf-8")).split("\n=== ")[1:]:
        title, _, body = part.partition("\n")
        assert title not in parts, title
        parts[title] = body
    return parts


def main():
    templates = []
    failures = 0
    sources = sections("templates.txt")
    demo = HERE.parents[2] / "deploy" / "demo-model" / "tokenizer_config.json"
    sources["demo-model"] = json.loads(demo.read_text(encoding="utf-8"))["chat_template"]
    for name, source in sources.items():
        expected = {}
        for title, conversation in CONVERSATIONS.items():
            variables = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
            variables |= {"add_generation_prompt": True} | conversation
            variables["messages"] = [with_reasoning(message) for message in conversation["messages"]]
            expected[title] = render(source, variables)
            failures += expected[title] is None
        templates.append({"name": name, "source": source, "expected": expected})
        if all(text is None for text in expected.values()):
            raise SystemExit(f"{name} always fails")
    lines = (HERE / "expressions.txt").read_text(encoding="utf-8").splitlines()
    sources = [line.replace("⏎", "\n") for line in lines if line and not line.startswith("# ")]
    expressions = [[source, render(source, VARIABLES)] for source in sources]
    fixtures = {
        "variables": VARIABLES,
        "conversations": CONVERSATIONS,
        "templates": templates,
        "expressions": expressions,
    }
    text = json.dumps(fixtures, ensure_ascii=False, separators=(",", ":"))
    # One template or expression a line, so that diffs can be read.
    text = text.replace("],[\"", "],\n[\"").replace("},{\"name\":\"", "},\n{\"name\":\"")
    (HERE / "fixtures.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(templates)} templates x {len(CONVERSATIONS)} conversations ({failures} fail as they should)")
    print(f"{len(expressions)} expressions, {sum(e[1] is None for e in expressions)} of them errors; {len(text)} bytes")


if __name__ == "__main__":
    main()
