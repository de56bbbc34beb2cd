#!/usr/bin/env python3
"""Compares the prompts of published chat templates with Jinja2's.

    tests/golden/jinja/compare_published.py build/release/bin/sluice DIRECTORY...

Needs Jinja2. Each DIRECTORY is searched for model directories (tokenizer_config.json or
chat_template.jinja in them); nothing is downloaded. Every template of each is rendered over the
conversations of make_fixtures.py (system, tools, calls and their results, parts, reasoning) by
`sluice render-template --as-is` and by Jinja2 as transformers sets it up: both fail, or the texts are
equal. Prints what differs and exits with 1 when anything does.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from make_fixtures import CONVERSATIONS, environment, with_reasoning

FIELDS = ("messages", "tools", "documents", "add_generation_prompt")
TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def models(roots):
    for root in map(pathlib.Path, roots):
        found = {path.parent for name in ("tokenizer_config.json", "chat_template.jinja") for path in root.rglob(name)}
        yield from sorted(found)


def templates(model):
    """Those of one model by name, found as transformers does."""
    config = {}
    if (model / "tokenizer_config.json").exists():
        config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    named = {}
    if (model / "chat_template.jinja").exists():
        named["default"] = (model / "chat_template.jinja").read_text(encoding="utf-8")
    for path in sorted((model / "additional_chat_templates").glob("*.jinja")):
        named[path.stem] = path.read_text(encoding="utf-8")
    own = config.get("chat_template")
    if not named and isinstance(own, str):
        named["default"] = own
    elif not named and own:
        named = {entry["name"]: entry["template"] for entry in own}
    tokens = {}
    for name in TOKENS:
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if token:
            tokens[name] = token
    return named, tokens


def expected(source, tokens, conversation):
    variables = {"tools": None, "documents": None} | tokens | {"add_generation_prompt": True} | conversation
    variables["messages"] = [with_reasoning(message) for message in conversation["messages"]]
    try:
        return environment().from_string(source).render(**variables), None
    except Exception as error:  # any failure of the template is the same to us
        return None, f"{type(error).__name__}: {error}"


def ours(binary, model, name, conversation):
    request = {key: conversation[key] for key in FIELDS if key in conversation}
    request["chat_template"] = name
    request["chat_template_kwargs"] = {k: v for k, v in conversation.items() if k not in FIELDS}
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(request, file)
        file.flush()
        done = subprocess.run([binary, "render-template", str(model), "--as-is", "--request", file.name],
                              capture_output=True)
    if done.returncode == 0:
        return done.stdout.decode("utf-8"), None
    return None, done.stderr.decode("utf-8").strip()


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    binary, roots = sys.argv[1], sys.argv[2:]
    good = bad = failures = 0
    for model in models(roots):
        named, tokens = templates(model)
        for name, source in named.items():
            for title, conversation in CONVERSATIONS.items():
                want, reason = expected(source, tokens, conversation)
                got, error = ours(binary, model, name, conversation)
                if got == want:
                    good += 1
                    failures += want is None
                    continue
                bad += 1
                print(f"{model} {name} / {title}\n  Jinja2: {want!r} {reason or ''}\n  sluice: {got!r} {error or ''}")
    print(f"{good} equal ({failures} fail on both sides), {bad} different")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
