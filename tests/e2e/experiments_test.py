"""The experiments of docs/scheduling.md still run. Their figures are not looked at here."""

import subprocess
import sys

import pytest

from conftest import BINARY, ROOT, clean_environment

EXPERIMENTS = ROOT / "bench/experiments"


@pytest.mark.parametrize("name", ["iteration_level", "fairness"])
def test_an_experiment_prints_its_table(tmp_path, name):
    result = subprocess.run(
        [sys.executable, EXPERIMENTS / f"{name}.py", "--binary", BINARY, "--quick", "--pictures",
         tmp_path],
        capture_output=True, text=True, timeout=120, env=clean_environment())
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "```sh" in lines and any(line.startswith("|---|") for line in lines)
    assert (tmp_path / f"{name}.svg").exists() == (name == "iteration_level")


def test_every_experiment_has_its_part_of_the_page():
    sys.path.insert(0, str(EXPERIMENTS))
    import run_all
    page = (ROOT / "docs/scheduling.md").read_text()
    scripts = {p.stem for p in EXPERIMENTS.glob("*.py")} - {"common", "run_all", "on_engine"}
    assert set(run_all.EXPERIMENTS) == scripts
    for name in scripts:
        assert page.count(f"<!-- experiment {name} -->") == 1
        for svg in [f"docs/scheduling/{name}.svg"]:
            assert (f"(scheduling/{name}.svg)" in page) == (ROOT / svg).exists()
    import on_engine
    for name in on_engine.CLAIMS:
        assert page.count(f"<!-- experiment on_engine {name} -->") == 1
