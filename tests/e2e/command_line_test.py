"""What the binary says of itself: man page, completions; and `sluice health`."""

import re
import shutil
import subprocess

import pytest

from conftest import DEMO, run_cli


def test_man_page_has_every_command_and_knob():
    page = run_cli("man").stdout
    plain = page.replace("\\-", "-")
    assert page.startswith(".\\\"") and ".TH SLUICE 1" in page
    for name in ["serve", "plan", "bench ops", "simulate", "health", "completion"]:
        assert f".SS {name}\n" in plain, name
    reference = run_cli("config-reference").stdout
    for knob, variable in re.findall(r"^\| `([\w.]+)`.*`(SLUICE_\w+)`", reference, flags=re.M):
        assert f"\\fB--{knob}\\fR" in plain and variable in plain, knob
    assert "server.http_port" in plain and "(1 to 4096)" in plain
    if shutil.which("man"):
        shown = subprocess.run(["man", "--warnings", "-l", "-"], input=page, capture_output=True, text=True,
                               env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"})
        assert "--server.http_port" in shown.stdout and shown.stderr == ""


def complete(*words):
    script = ('eval "$1"; shift; COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _sluice 2>/dev/null; '
              'echo "${COMPREPLY[@]}"')
    out = subprocess.run(["bash", "-c", script, "bash", run_cli("completion", "bash").stdout, *words],
                         capture_output=True, text=True, check=True)
    return out.stdout.split()


def test_bash_completes_commands_options_and_values(tmp_path):
    assert complete("sluice", "se") == ["serve"]
    assert complete("sluice", "bench", "s") == ["serve"]
    assert "--num-requests" in complete("sluice", "bench", "serve", "--")
    assert "--num-requests" not in complete("sluice", "serve", "--")
    assert complete("sluice", "serve", "--grpc") == ["--grpc-port"]
    assert complete("sluice", "serve", "--device", "c") == ["cpu", "cuda"]
    assert complete("sluice", "serve", "--device", "=", "cu") == ["cuda"]
    assert complete("sluice", "serve", "--cache.prefix_caching", "") == ["true", "false"]
    (tmp_path / "model").mkdir()
    assert complete("sluice", "serve", f"{tmp_path}/mo") == [f"{tmp_path}/model"]


def test_completions_of_other_shells():
    zsh, fish = run_cli("completion", "zsh").stdout, run_cli("completion", "fish").stdout
    assert zsh.startswith("#compdef sluice") and "--server.http_port=" in zsh
    assert "-l server.http_port" in fish and "__sluice_at sluice bench serve" in fish
    for shell, text in [("zsh", zsh), ("fish", fish)]:
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=text, text=True, check=True)
    assert run_cli("completion", "tcsh").returncode == 2


def test_health_says_whether_a_daemon_is_ready(demo):
    def health(*flags, **environment):
        return run_cli("health", *flags, env=environment)

    port = str(demo.http_port)
    assert health("--server.http_port", port).returncode == 0
    assert health("--live", SLUICE_SERVER_HTTP_PORT=port, SLUICE_SERVER_HOST="0.0.0.0").returncode == 0
    for result in [health("--port", "1"), health("--port", port, "--host", "no.such.host.invalid"),
                   health("--port", str(demo.grpc_port), "--timeout", "0.5")]:
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result.stderr


def test_health_of_a_daemon_that_drains(start, nano_model):
    daemon = start(nano_model, "--server.drain_delay_seconds=3600")
    body = {"prompt": "x", "max_tokens": 4000, "n": 16, "ignore_eos": True, "stream": True}
    with daemon.http.stream("POST", "/v1/completions", json=body):  # until its client leaves
        daemon.process.terminate()
        daemon.wait_for(lambda: "503" in run_cli("health", "--port", daemon.http_port).stderr)
        assert run_cli("health", "--live", "--port", daemon.http_port).returncode == 0
