"""The rules of docs/architecture.md that a compiler does not check."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ["base", "config", "kernels", "kvcache", "text", "scheduler", "engine", "server", "bench"]

# Who may include whom. A folder may always include itself.
MAY_INCLUDE = {
    "base": set(),
    "config": {"base"},
    "kernels": {"base"},
    "text": {"base"},
    "kvcache": {"base", "config", "kernels"},
    "scheduler": {"base", "config", "kvcache"},
    "engine": {"base", "config", "kernels", "kvcache", "scheduler"},
    "server": {"base", "config", "text", "scheduler", "engine", "proto", "bench"},
    "bench": set(FOLDERS) - {"server"},
}

MAX_LINES = {".h": 500, ".cc": 500, ".cu": 700, ".cuh": 700}
MAX_FUNCTION_LINES = 80


def sources():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in MAX_LINES:
                yield folder, path


def code_of(path):
    """The file without comments and string contents, lines kept."""
    text = path.read_text()
    text = re.sub(r'R"\((?:.|\n)*?\)"', lambda m: '""' + "\n" * m.group().count("\n"), text)
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), text, flags=re.S)
    text = re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text)
    text = re.sub(r"'(?:[^'\\\n]|\\.){1,4}'", "' '", text)
    return re.sub(r"//[^\n]*", "", text)


def includes_of(path):
    return re.findall(r'^#include "([^"]+)"', path.read_text(), flags=re.M)


def test_there_is_something_to_check():
    assert len(list(sources())) > 40


def test_include_dag():
    wrong = []
    for folder, path in sources():
        for include in includes_of(path):
            target = include.split("/")[0]
            if target == "sluice":  # generated from proto/sluice/
                target = "proto"
            if target not in FOLDERS and target != "proto":
                wrong.append(f"{path.relative_to(ROOT)}: {include} is not a path from the root")
            elif target != folder and target not in MAY_INCLUDE[folder]:
                wrong.append(f"{path.relative_to(ROOT)} may not include {include}")
    assert not wrong, "\n".join(wrong)


def test_block_pool_and_scheduler_touch_no_kernels():
    parts = ["block_pool", "kv_groups"]
    for path in [ROOT / "kvcache" / f"{part}.{kind}" for part in parts for kind in ("h", "cc")]:
        assert all(i.split("/")[0] in ("base", "kvcache") for i in includes_of(path)), path
    for path in (ROOT / "scheduler").glob("*.*"):
        for include in includes_of(path):
            allowed = [f"kvcache/{part}.h" for part in parts]
            assert not include.startswith("kvcache/") or include in allowed, path


def test_file_sizes():
    long = [f"{p.relative_to(ROOT)}: {n}" for _, p in sources()
            if (n := len(p.read_text().splitlines())) > MAX_LINES[p.suffix]]
    assert not long, "files over the limit:\n" + "\n".join(long)


def test_function_sizes():
    """By indentation, which clang-format guarantees: a body ends at the first `}` in its column."""
    long = []
    for _, path in sources():
        start = None
        for number, line in enumerate(code_of(path).splitlines(), 1):
            opens = re.match(r"^( {0,2})[A-Za-z~].*\)[^;]*\{$", line)
            if opens and not re.match(r"^\s*(namespace|class|struct|enum|union)\b", line):
                start = (number, opens.group(1))
            elif start and line.rstrip() == start[1] + "}":
                if number - start[0] > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{start[0]}: {number - start[0]} lines")
                start = None
    assert not long, "functions over the limit:\n" + "\n".join(long)


def test_every_header_is_guarded_and_in_the_namespace():
    for _, path in sources():
        text = path.read_text()
        if path.suffix == ".h":
            assert "#pragma once" in text, path
        assert "namespace sluice" in text or path.name == "main.cc", path


def test_no_getenv_and_no_exceptions_as_control_flow_below_the_edge():
    for folder, path in sources():
        code = code_of(path)
        assert not re.search(r"\bgetenv\s*\(", code), path
        if folder in ("kernels", "kvcache", "scheduler"):
            assert not re.search(r"\b(throw|try|catch)\b", code), path


def test_no_cuda_conditionals_outside_the_plugin():
    for _, path in sources():
        if "kernels/cuda" in str(path) or "kernels/simt" in str(path):
            continue
        assert not re.search(r"#\s*if.*CUDA", path.read_text()), path


def test_heavy_headers_do_not_spread():
    """A header that pulls in a heavy library is private: only .cc files include it."""
    heavy = r"#include <(nlohmann|spdlog|boost/|CLI|grpcpp|pcre2|toml)"
    headers = [path for _, path in sources() if path.suffix == ".h"]
    included = {include for path in headers for include in includes_of(path)}
    for path in headers:
        if re.search(heavy, path.read_text()):
            assert str(path.relative_to(ROOT)) not in included, path


def test_every_knob_is_in_fields():
    config = re.sub(r"//[^\n]*", "", (ROOT / "config/config.h").read_text())
    listed = set(re.findall(r"&c\.(\w+\.\w+)", (ROOT / "config/fields.cc").read_text()))
    declared = set()
    for body, section in re.findall(r"struct \w+ \{([^{}]*)\} (\w+);", config):
        for names in re.findall(r"(?:std::string|int64_t|int|double|bool) ([^;]+);", body):
            for name in names.split(","):
                declared.add(f"{section}.{name.split('=')[0].strip()}")
    assert declared and declared == listed


def test_presets_are_known_to_config_alone():
    """Below config/ a policy is five values: no code asks which system they are named after."""
    names = re.findall(r'Preset\{"(\w+)"', (ROOT / "config/presets.cc").read_text())
    assert "fastserve" in names and len(names) == 8
    quoted = re.compile(r'"(%s)"' % "|".join(n for n in names if n not in ("static", "sluice")))
    for folder in ["scheduler", "engine", "kvcache", "kernels"]:
        for path in (ROOT / folder).rglob("*.[ch]*"):
            assert not quoted.search(path.read_text()), path


def test_docs_list_every_knob():
    docs = (ROOT / "docs/configuration.md").read_text()
    for name in re.findall(r'\{"(\w+\.\w+)"', (ROOT / "config/fields.cc").read_text()):
        assert f"`{name}`" in docs, name


def test_docs_list_every_metric():
    docs = (ROOT / "docs/api.md").read_text()
    names = re.findall(r'"(sluice_\w+)"', (ROOT / "base/metrics.cc").read_text())
    assert names
    for name in names:
        assert re.search(rf"`{name}[`{{]", docs), name


def test_no_machine_specific_flags_by_default():
    for path in list(ROOT.glob("**/CMakeLists.txt")) + list(ROOT.glob("**/*.cmake")):
        if "build" not in path.relative_to(ROOT).parts:
            assert "march=native" not in path.read_text(), path


def tracked_text_files():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in names.stdout.decode().split("\0"):
        path = ROOT / name
        if path.suffix in {".h", ".cc", ".py", ".sh", ".md", ".txt", ".cmake", ".proto", ".toml"}:
            if path.exists():
                yield path


def test_no_machine_paths():
    pattern = re.compile(r"(?<![\w.])/(work|home|root)/[a-z]")
    wrong = [str(p.relative_to(ROOT)) for p in tracked_text_files()
             if p != pathlib.Path(__file__).resolve() and pattern.search(p.read_text())]
    assert not wrong, wrong


def test_kernels_are_written_on_simt_alone():
    """One source for nvcc and for the emulator: kernels/simt/simt.h has the rules."""
    wrong = []
    for path in sorted((ROOT / "kernels/cuda").glob("*.h")):
        for word in re.findall(r"\basm\b|__shared__|<<<|^ *#if\w*|\bthreadIdx\b|\b__\w+_sync\b|\b__syncthreads\b",
                               code_of(path), flags=re.M):
            wrong.append(f"{path.relative_to(ROOT)}: {word.strip()}")
    assert not wrong, "\n".join(wrong)
