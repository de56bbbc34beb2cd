"""The script that needs a GPU, tried on the emulator: a machine with one is lent for minutes."""

import json
import subprocess
import sys

import pytest

from conftest import BINARY, ROOT, clean_environment

sys.path.insert(0, str(ROOT / "tests/gpu"))
from run import reached  # noqa: E402


def run_script(*arguments, timeout=120):
    return subprocess.run([str(ROOT / "tests/gpu/run.sh"), *map(str, arguments)], capture_output=True, text=True,
                          timeout=timeout, env=clean_environment())


def test_phases_on_the_emulator(tmp_path):
    done = run_script("--bin", BINARY.parent, "--emulated", "--out", tmp_path,
                      "--phases=greedy,ops,model,serving,aims,peers,sanitizer")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "run.json").read_text())
    assert {name: r["status"] for name, r in results.items()} == {
        "greedy": "passed", "ops": "passed", "model": "passed", "serving": "passed", "aims": "skipped",
        "peers": "skipped", "sanitizer": "skipped"}
    assert results["greedy"]["data"]["prompts"] == 6
    assert results["serving"]["data"]["nano 12/4"]["succeeded"] == 4
    assert results["serving"]["data"]["nano, fp8 12/4"]["succeeded"] == 4
    assert [(x["phase"], x["sequences"]) for x in results["model"]["data"]["nano, fp8"]["lines"]] == [
        ("prefill", 1), ("decode", 2)]
    assert all(0 <= kind["lines"][1]["idle_share"] < 1 for name, kind in results["model"]["data"].items()
               if name != "ways")
    swaps = [x for x in results["ops"]["data"]["110m"]["lines"] if x["op"].startswith("swap ")]
    assert [x["op"] for x in swaps] == ["swap out 1 x 576 KiB", "swap in 1 x 576 KiB", "swap out 64 x 576 KiB",
                                        "swap in 64 x 576 KiB"]
    assert all(x["pinned_copy_gb_per_s"] > 0 and x["share_of_limit"] > 0 for x in swaps)
    # What an H200 would have to say of its aims is read from lines like these.
    nano = results["model"]["data"]["nano"]["lines"][1] | {"sequences": 32, "context_tokens": 512, "seconds": 2.5e-3}
    op = results["ops"]["data"]["110m"]["lines"][0] | {"op": "decode attention 32 x 8192", "share_of_limit": 0.425}
    load = results["serving"]["data"]["nano 12/4"] | {"output_tokens_per_second": 8900.0}
    made_up = {"model": {"data": {"llama-3.1-8b": {"lines": [nano]}}}, "ops": {"data": {"8b": {"lines": [op]}}},
               "serving": {"data": {"llama-3.1-8b, fp8 1000/1000": load}}}
    assert [(row[0], row[3]) for row in reached(made_up)] == [
        ("8B bf16, decode 32 x 512", 2), ("8B fp8, 1000/1000, tok/s", 0.5),
        ("decode attention 32 x 8192, of memory", 0.5)]
    assert "tok/s" in done.stdout and "skipped" in done.stdout
    assert sorted(f.name for f in tmp_path.iterdir()) == ["logs.tar.gz", "run.json"]


def test_a_failure_is_told_and_the_rest_goes_on(tmp_path):
    (tmp_path / "sluice").write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    (tmp_path / "sluice").chmod(0o755)
    done = run_script("--bin", tmp_path, "--emulated", "--out", tmp_path / "out", "--phases=probe,engine,greedy,ops")
    assert done.returncode == 1, done.stdout
    results = json.loads((tmp_path / "out/run.json").read_text())
    assert {name: r["status"] for name, r in results.items()} == {
        "probe": "passed", "engine": "FAILED", "greedy": "FAILED", "ops": "FAILED"}
    assert results["ops"]["why"].startswith("sluice: exit 3: broken") and "exit 3: broken" in done.stdout
    assert "simt_engine_test" in results["engine"]["why"] and "did not start" in results["greedy"]["why"]


@pytest.mark.skipif(not (ROOT / "build/release/bin/gpu_probe").exists(), reason="built without nvcc")
def test_runs_what_was_packed(tmp_path):
    packed = subprocess.run([str(ROOT / "tests/gpu/pack.sh"), str(tmp_path)], capture_output=True, text=True)
    assert packed.returncode == 0, packed.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["pack.tar.gz"]
    assert (tmp_path / "pack.tar.gz").stat().st_size < 48 << 20  # 64 MiB at most travel, with the tree
    done = run_script("--bin", tmp_path, "--out", tmp_path / "out", "--phases=probe")
    probe = json.loads((tmp_path / "out/run.json").read_text())["probe"]
    assert (done.returncode, probe.get("why", "")) in [(0, ""), (77, "no usable GPU")], done.stdout + done.stderr


@pytest.mark.parametrize("arguments,word", [(["--phases=probe,nope"], "nope"), (["--bin=/nonexistent"], "--bin")])
def test_wrong_arguments(arguments, word):
    done = run_script("--bin", BINARY.parent, *arguments)
    assert done.returncode == 2 and word in done.stderr
