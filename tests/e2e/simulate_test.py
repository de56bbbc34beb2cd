"""`sluice simulate`: needs no model; every time in it is virtual."""

import json
import tomllib
import xml.etree.ElementTree as tree

import pytest

from conftest import DEMO, run_cli

SMALL = ("simulate", "--requests=200", "--threads=2")


def simulate(tmp_path, *arguments, env=None):
    path = tmp_path / "out.json"
    result = run_cli(*SMALL, *arguments, "--json", path, env=env)
    assert result.returncode == 0, result.stderr
    return json.loads(path.read_text()), result.stdout


def test_one_line_per_preset_and_rate(tmp_path):
    out, text = simulate(tmp_path, "--preset=sluice,orca", "--preset=vllm", "--rates=1,2.5")
    got = [(line["preset"], line["load"]) for line in out["lines"]]
    assert got == [(p, r) for p in ("sluice", "orca", "vllm") for r in (1, 2.5)]
    for line in out["lines"]:
        assert line["completed"] == line["requests"] == 200 and line["refused"] == 0
        for name in ("normalised_latency_s", "ttft_s", "tbt_s", "latency_s"):
            spread = line[name]
            assert 0 < spread["p50"] <= spread["p95"] <= spread["p99"] <= spread["max"] * 1.01
        assert 0 < line["kv_live"] <= line["kv_held"] <= 1
        assert 0 < line["busy"] <= 1 and line["step_rows"] >= 1
    assert len([l for l in text.splitlines() if l.startswith(("sluice ", "orca ", "vllm "))]) == 6


def test_the_same_seed_gives_the_same_output(tmp_path):
    arguments = ("--preset=sluice,fastserve", "--rates=2,6", "--cost=a100-opt13b", "--noise=0.1",
                 "--workload=sharegpt4-8k")
    first = simulate(tmp_path, *arguments, "--seed=3")
    assert simulate(tmp_path, *arguments, "--seed=3") == first
    assert simulate(tmp_path, *arguments, "--seed=3", "--threads=1") == first
    assert simulate(tmp_path, *arguments, "--seed=4") != first


WORKLOADS = ["orca-u", "sharegpt-2turn", "alpaca", "sharegpt4-8k", "sharegpt4-2k", "arxiv-like", "fastgen",
             "fastgen-short", "sarathi-zipf", "ratio-sweep", "chat-sessions", "short-plus-long",
             "shared-prefix", "two-tenants"]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_ends(tmp_path, workload):
    out, _ = simulate(tmp_path, f"--workload={workload}", "--requests=60", "--rates=4")
    [line] = out["lines"]
    assert line["completed"] == line["requests"] == (61 if workload == "short-plus-long" else 60)
    cached = {"chat-sessions", "shared-prefix"}
    assert (line["cached_tokens"] > 0) == (workload in cached)
    assert ("beside_long" in line) == (workload == "short-plus-long")
    assert ("tenant_shares" in line) == (workload == "two-tenants")


def test_workloads_are_all_listed():
    words = run_cli("simulate", "--help").stdout.replace(",", " ").split()
    assert set(WORKLOADS) <= set(words)


def test_arrivals_and_clients(tmp_path):
    closed, _ = simulate(tmp_path, "--arrivals=closed", "--clients=1,4")
    assert [line["load"] for line in closed["lines"]] == [1, 4]
    assert closed["lines"][0]["step_rows"] == pytest.approx(1)
    assert closed["load_unit"] == "clients"
    batch, _ = simulate(tmp_path, "--arrivals=batch")
    assert batch["lines"][0]["offered_per_second"] == 0
    gamma, _ = simulate(tmp_path, "--arrivals=gamma", "--cv=4", "--rates=5")
    poisson, _ = simulate(tmp_path, "--rates=5")
    assert gamma["lines"][0]["ttft_s"]["max"] > 0
    assert gamma["lines"] != poisson["lines"]


def test_knobs_are_those_of_serve(tmp_path):
    few, _ = simulate(tmp_path, "--rates=20", "--scheduler.max_seqs=2")
    many, _ = simulate(tmp_path, "--rates=20")
    assert few["lines"][0]["step_rows"] <= 2 < many["lines"][0]["step_rows"]
    env, _ = simulate(tmp_path, "--rates=20", env={"SLUICE_SCHEDULER_MAX_SEQS": "2"})
    assert env["lines"] == few["lines"]
    queue, _ = simulate(tmp_path, "--rates=50", "--scheduler.max_seqs=1", "--scheduler.max_queue=10")
    assert queue["lines"][0]["refused"] > 0
    queue, _ = simulate(tmp_path, "--rates=50", "--scheduler.max_seqs=1",
                        env={"SLUICE_SCHEDULER_MAX_QUEUE": "10"})
    assert queue["lines"][0]["refused"] > 0
    off, _ = simulate(tmp_path, "--workload=shared-prefix", "--cache.prefix_caching=false")
    assert off["lines"][0]["cached_tokens"] == 0


def test_pool_sizes(tmp_path):
    out, _ = simulate(tmp_path, "--blocks=300", "--host-blocks=7")
    assert (out["num_blocks"], out["host_blocks"]) == (300, 7)
    out, _ = simulate(tmp_path, "--pool-tokens=8000", "--cache.block_size=32")
    assert out["num_blocks"] == 250
    out, _ = simulate(tmp_path, "--cache.bytes=1GiB", "--cache.host_bytes=2GiB")
    assert (out["num_blocks"], out["host_blocks"]) == (512, 1024)  # 128 KiB a token
    out, _ = simulate(tmp_path, "--cost=a100-opt13b")
    assert out["num_blocks"] == 981


def test_costs_print_and_read_back(tmp_path):
    printed = run_cli("simulate", "--print-cost", "--cost=a100-opt13b")
    assert printed.returncode == 0 and "constant_ms = 28\n" in printed.stdout
    path = tmp_path / "machine.toml"
    path.write_text(printed.stdout)
    named, _ = simulate(tmp_path, "--cost=a100-opt13b")
    assert simulate(tmp_path, "--cost", path)[0] == named
    other, text = simulate(tmp_path, "--cost=a100-opt13b", "--seed-cost=h200-8b")
    assert other["seed_cost"] == "h200-8b" and "scheduler told h200-8b" in text


def test_replicas_and_routes(tmp_path):
    lines = {}
    for route in ("round-robin", "least-loaded", "prefix"):
        out, _ = simulate(tmp_path, "--replicas=4", f"--route={route}", "--rates=20",
                          "--blocks=4000", "--workload=chat-sessions", "--requests=600")
        lines[route] = out["lines"][0]
        assert lines[route]["completed"] == 600
    assert lines["prefix"]["cached_tokens"] > lines["round-robin"]["cached_tokens"]


def test_plot_is_well_formed(tmp_path):
    path = tmp_path / "plot.svg"
    simulate(tmp_path, "--preset=sluice,orca,vllm", "--rates=1,4,8", "--plot", path,
             "--metric=ttft_p99")
    root = tree.parse(path).getroot()
    ns = "{http://www.w3.org/2000/svg}"
    assert root.tag == ns + "svg"
    width, height = float(root.get("width")), float(root.get("height"))
    lines = root.findall(ns + "polyline")
    assert len(lines) == 3
    for line in lines:
        points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
        assert len(points) == 3
        assert all(0 < x < width and 0 < y < height for x, y in points)
        assert [x for x, _ in points] == sorted(x for x, _ in points)
    words = {t.text for t in root.findall(ns + "text")}
    assert {"sluice", "orca", "vllm", "requests per second",
            "P99 time to first token (s)"} <= words


def test_the_load_that_a_bound_allows(tmp_path):
    _, text = simulate(tmp_path, "--preset=sluice,orca", "--cost=a100-opt13b", "--rates=0.5,16",
                       "--requests=400", "--slo=100", "--metric=norm_mean")
    found = dict(line.split(": norm_mean of 100 ms at ") for line in text.splitlines() if " at " in line)
    assert set(found) == {"sluice", "orca"}
    assert all(0.5 < float(rate) < 16 for rate in found.values())


RECORDING = [
    {"sluice_recording": 1, "block_size": 16, "config": ""},
    *({"at": i * 0.5, "prompt": 40, "output": 8, "n": 1, "max_tokens": 8, "tenant": 0,
       "priority": 0, "session": "0", "finish": "length",
       "blocks": ["aa", "bb", f"{i + 1:x}"]} for i in range(10)),
    {"end": True, "requests": 10},
]


def test_recordings_replay(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in RECORDING))
    out, _ = simulate(tmp_path, "--trace", path)
    [line] = out["lines"]
    assert line["completed"] == 10
    assert line["offered_per_second"] == pytest.approx(2)
    assert line["cached_tokens"] == 9 * 32  # the first two blocks of all but the first request
    faster, _ = simulate(tmp_path, "--trace", path, "--rates=20")
    assert faster["lines"][0]["offered_per_second"] == pytest.approx(20)

    for lines, word in [(RECORDING[:-1], "line 11: cut short"),
                        (RECORDING[:1], "line 1: cut short"),
                        ([{**RECORDING[0], "sluice_recording": 9}], "line 1: version 9"),
                        ([RECORDING[0], {"at": 1}], "line 2: ")]:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        refused(f"trace.jsonl {word}", "--trace", path)


def test_a_daemon_records_what_the_simulator_replays(tmp_path, start):
    path = tmp_path / "served.jsonl"
    daemon = start(DEMO, "--record", path, "--cache.block_size=4")
    prompt = "the quick brown fox jumps over the lazy dog " * 4
    for max_tokens in (3, 5):
        reply = daemon.post("/v1/completions", {"prompt": prompt, "max_tokens": max_tokens,
                                                "temperature": 0, "ignore_eos": True})
        assert reply.status_code == 200, reply.text
    usage = reply.json()["usage"]
    assert daemon.stop() == 0, daemon.log()
    assert "quick" not in path.read_text()

    head, *lines, end = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line for line in lines if "step" in line]
    first, second = [line for line in lines if "step" not in line]
    assert head["num_blocks"] > 0 and end == {"end": True, "requests": 2, "steps": len(steps)}
    assert sum(s["decode_rows"] for s in steps) == 2 + 4  # each first token comes with its prompt
    assert all(s["seconds"] > 0 and s["host_seconds"] >= 0 for s in steps)
    assert 0 <= first["decisions"]["first_token"] < first["decisions"]["ended"]
    assert second["decisions"]["cached"] >= (first["prompt"] - 1) // 4 * 4
    assert second["prompt"] == usage["prompt_tokens"] and first["at"] < second["at"]
    assert (first["output"], second["output"]) == (3, 5)
    shared = first["prompt"] // 4
    assert first["blocks"][:shared] == second["blocks"][:shared]
    out, _ = simulate(tmp_path, "--trace", path, "--cache.block_size=4")
    [line] = out["lines"]
    assert line["completed"] == 2 and line["refused"] == 0
    assert line["cached_tokens"] >= (first["prompt"] - 1) // 4 * 4
    assert out["recorded"]["completed"] == 2
    assert out["recorded"]["latency_s"]["max"] == pytest.approx(
        max(r["decisions"]["ended"] for r in (first, second)), abs=1e-6)

    result = run_cli("serve", DEMO, "--record=/nonexistent/file", "--port=0", "--grpc-port=0")
    assert result.returncode == 78 and "server.record_file: /nonexistent/file" in result.stderr


def step_line(i, rows, tokens):
    return {"step": i, "at": i * 0.1, "seconds": 0.005 + 0.001 * rows + 0.0002 * tokens,
            "host_seconds": 0.001, "prefill_tokens": tokens, "prefill_pairs": 0, "decode_rows": rows,
            "context": 0, "rows": rows + 1, "waiting": 0, "running": rows, "swap_out": 0, "swap_in": 0,
            "forks": 0, "copied": 2, "copy_seconds": 0.001}


def write_recording(path, steps, **header):
    head = {**RECORDING[0], "num_blocks": 100, "host_blocks": 10, "kv_bytes_per_token": 1000, **header}
    end = {**RECORDING[-1], "steps": len(steps)}
    path.write_text("".join(json.dumps(line) + "\n" for line in [head, *steps, *RECORDING[1:-1], end]))


def test_a_recordings_steps_are_a_machine(tmp_path):
    path = tmp_path / "daemon.jsonl"
    write_recording(path, [step_line(i, i % 5, 16 * (i % 3)) for i in range(1, 61)])
    printed = run_cli("simulate", "--cost", path, "--print-cost")
    assert printed.returncode == 0, printed.stderr
    found = tomllib.loads(printed.stdout)
    assert found.pop("name") == "daemon" and found.pop("noise") == pytest.approx(0, abs=1e-3)
    assert found == {"constant_ms": pytest.approx(6, rel=1e-3), "decode_row_ms": pytest.approx(1, rel=1e-3),
                     "prefill_token_ms": pytest.approx(0.2, rel=1e-3), "prefill_pair_ns": 0,
                     "context_token_ns": 0, "kv_bytes_per_token": 1000, "pool_tokens": 1600,
                     "host_tokens": 160, "tile_tokens": 1,
                     "copy_gb_per_s": pytest.approx(2 * 16 * 1000 / 0.001 / 1e9)}
    out, _ = simulate(tmp_path, "--trace", path, "--cost", path)
    assert out["num_blocks"] == 100 and out["host_blocks"] == 10 and out["noise"] < 1e-3
    noisy, _ = simulate(tmp_path, "--trace", path, "--cost", path, "--noise=0.5")
    assert noisy["noise"] == 0.5

    write_recording(path, [step_line(i, 1, 0) for i in range(1, 10)])
    refused("has 9 steps; a fit wants 50", "--cost", path)
    write_recording(path, [])
    refused("daemon.jsonl: has no steps", "--cost", path)
    path.write_text("".join(json.dumps(line) + "\n" for line in RECORDING))
    refused("--cost: " + str(path) + ": has no steps", "--cost", path)
    write_recording(path, [{**step_line(1, 1, 0), "rows": -1}])
    refused("daemon.jsonl line 2: \"rows\" must be", "--cost", path)


def refused(word, *arguments, code=1):
    result = run_cli(*SMALL, *arguments)
    assert result.returncode == code, (arguments, result.stdout, result.stderr)
    assert word in result.stderr and not result.stdout
    if code == 1:
        assert result.stderr.startswith("sluice: ") and result.stderr.count("\n") == 1, result.stderr


def test_bad_input_is_one_line_that_names_the_option(tmp_path):
    for argument, word in [
            ("--preset=best", "scheduler.preset: 'best' is not one of"),
            ("--workload=x", "--workload: 'x' is not one of orca-u"),
            ("--cost=x", "--cost: 'x' is neither a file nor one of h200-8b, a100-opt13b"),
            ("--seed-cost=x", "--seed-cost: 'x'"),
            ("--rates=0", "--rates: 0"), ("--rates=1,-2", "--rates: -2"),
            ("--rates=nan", "--rates: nan"), ("--rates=1e300", "--rates"),
            ("--requests=0", "--requests: 0"), ("--seconds=-1", "--seconds: -1"),
            ("--blocks=-1", "--blocks: -1"), ("--blocks=99999999999", "--blocks"),
            ("--pool-tokens=15", "--pool-tokens: less than one block of 16 tokens"),
            ("--cache.bytes=1000", "cache.bytes: less than one block"),
            ("--cache.block_size=0", "cache.block_size"),
            ("--host-blocks=-2", "--host-blocks: -2"),
            ("--replicas=0", "--replicas: 0"), ("--depth=0", "--depth: 0"),
            ("--threads=-1", "--threads: -1"), ("--noise=-0.1", "--noise: -0.1"),
            ("--route=random", "--route: 'random' is not one of round-robin"),
            ("--arrivals=uniform", "--arrivals: 'uniform' is not one of standard"),
            ("--metric=x", "--metric: 'x' is not one of norm_mean"),
            ("--slo=-1", "--slo: -1"), ("--tenant-weights=0", "--tenant-weights: 0"),
            ("--scheduler.max_seqs=0", "scheduler.max_seqs"),
            ("--scheduler.quantum_ms=-1", "scheduler.quantum_ms"),
            ("--lengths=/nonexistent", "--lengths: cannot read /nonexistent"),
            ("--trace=/nonexistent", "--trace: /nonexistent"),
            ("--json=/nonexistent/x", "--json: cannot write"),
            ("--config=/nonexistent", "/nonexistent")]:
        if argument.startswith("--json"):
            result = run_cli(*SMALL, argument)
            assert result.returncode == 1 and word in result.stderr
            continue
        refused(word, argument)
    refused("--cv: 0", "--arrivals=gamma", "--cv=0")
    refused("--clients: 0", "--arrivals=closed", "--clients=0")
    refused("--ratio: 0", "--workload=ratio-sweep", "--ratio=0")
    refused("give one of them", "--blocks=100", "--pool-tokens=100")
    refused("give one of them", "--lengths=a", "--trace=b")
    refused("--tenant-weights: 1 given", "--workload=two-tenants", "--tenant-weights=1")
    refused("limit is 8", "--replicas=5000", "--route=least-loaded")
    bad = tmp_path / "bad.toml"
    bad.write_text("constant_ms = 5\nfast = true\n")
    refused("bad.toml: line 2: fast must be a number", "--cost", bad)


def test_a_wrong_command_line_is_exit_code_2():
    refused("--requests", "--requests=many", code=2)
    refused("--nonsense", "--nonsense=1", code=2)
    refused("--scheduler.max_ttft_seconds", "--scheduler.max_ttft_seconds=1", code=2)


def test_what_never_fits_is_counted_with_the_reason(tmp_path):
    out, text = simulate(tmp_path, "--workload=orca-u", "--blocks=20")
    [line] = out["lines"]
    assert line["refused"] > 0 and line["completed"] + line["refused"] == 200
    assert f"{line['refused']} refused: " in text
