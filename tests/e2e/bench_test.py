"""The measuring commands: that they measure what they were asked to, and refuse what they cannot."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conftest import BINARY, DEMO, run_cli


def test_bench_model_writes_one_line_per_measurement(nano_model, tmp_path):
    path = tmp_path / "model.json"
    result = run_cli("bench", "model", nano_model, "--threads=1", "--prompts=8,40", "--batches=1,3",
                     "--contexts=32", "--json", path)
    assert result.returncode == 0, result.stderr
    out = json.loads(path.read_text())
    measured = [(line["phase"], line["sequences"], line.get("prompt_tokens"), line.get("context_tokens"))
                for line in out["lines"]]
    assert measured == [("prefill", 1, 8, None), ("prefill", 1, 40, None),
                        ("decode", 1, None, 32), ("decode", 3, None, 32)]
    assert out["threads"] == 1 and out["read_gb_per_s"] > 0 and out["f32_gflop_per_s"] > 0
    for line in out["lines"]:
        tokens = line.get("prompt_tokens") or line["sequences"]
        assert abs(line["tokens_per_second"] * line["seconds"] / tokens - 1) < 1e-6
        assert line["share_of_floor"] > 0
        assert f"{line['tokens_per_second']:.1f}" in result.stdout


def test_bench_model_leaves_out_what_does_not_fit_and_says_so(nano_model):
    result = run_cli("bench", "model", nano_model, "--prompts=1000000", "--batches=1", "--contexts=16")
    assert result.returncode == 0
    assert "longer than the model's context" in result.stderr
    assert "prefill " not in result.stdout


EMULATED = ["--device=cuda", f"--device.plugin={BINARY.parent / 'libsluice_cuda_emulated.so'}"]


def test_bench_model_on_a_device_of_its_own(nano_model, tmp_path):
    """Steps are in flight there, and decodes are replayed."""
    path = tmp_path / "model.json"
    result = run_cli("bench", "model", nano_model, *EMULATED, "--prompts=40", "--batches=1,3",
                     "--contexts=32", "--max-step-tokens=16", "--json", path)
    assert result.returncode == 0, result.stderr
    out = json.loads(path.read_text())
    assert out["device"] == "cuda (emulated, bf16)" and out["threads"] == 0
    assert [line["sequences"] for line in out["lines"]] == [1, 1, 3]
    assert all(line["seconds"] > 0 and line["share_of_floor"] > 0 for line in out["lines"])


@pytest.mark.parametrize("device", [["--device=cpu", "--threads=1"], EMULATED])
@pytest.mark.parametrize("only,ops", [
    ("matmul o m=1 ", ["matmul o m=1 n=768 k=768"]),
    ("norm m=1", ["add_rms_norm m=1", "add_rms_norm m=1, not fused"]),
    ("silu m=1 ", [f"gate_up+silu m=1 n=4096 k=768{form}" for form in ("", ", not fused")]),
    ("decode attention 1 x 512", ["decode attention 1 x 512", "decode attention 1 x 512, fp8 cache"]),
    ("greedy n=1", ["sample greedy n=1"]),
])
def test_bench_ops_measures_what_is_asked_for(device, only, ops, tmp_path):
    path = tmp_path / "ops.json"
    result = run_cli("bench", "ops", *device, "--shapes=110m", f"--only={only}", "--seconds=0.01",
                     "--json", path)
    assert result.returncode == 0, result.stderr
    out = json.loads(path.read_text())
    assert out["shapes"] == "110m" and out["read_gb_per_s"] > 0
    assert [line["op"] for line in out["lines"]] == ops
    assert all(line["seconds"] > 0 and line["op"] in result.stdout for line in out["lines"])


def test_bench_ops_counts_the_experts_that_are_taken(tmp_path):
    """On a CPU: the emulator would take its time."""
    path = tmp_path / "ops.json"
    result = run_cli("bench", "ops", "--device=cpu", "--threads=1", "--only=experts m=1 ", "--seconds=0.01", "--json", path)
    assert result.returncode == 0, result.stderr
    lines = json.loads(path.read_text())["lines"]
    assert [line["op"] for line in lines] == ["experts m=1 of 1b-a400m", "experts m=1 of 1b-a400m, fp8"]
    weights = 8 * 3 * 1024 * 512
    assert [line["bytes"] - 2 * 1024 * 4 for line in lines] == [2 * weights, weights]
    assert all(line["flops"] == 2 * weights and line["seconds"] > 0 for line in lines)


def test_bench_tokenizer(tmp_path):
    """Of made-up texts and of a file."""
    path = tmp_path / "tokenizer.json"
    (tmp_path / "text").write_text("The fox and the hen.\n" * 200, encoding="utf-8")
    for arguments, texts in [((), ["English", "code", "other scripts", "one letter", "spaces"]),
                             (("--file", tmp_path / "text"), [str(tmp_path / "text")])]:
        result = run_cli("bench", "tokenizer", DEMO, "--seconds=0.01", "--json", path, *arguments)
        assert result.returncode == 0, result.stderr
        lines = json.loads(path.read_text())["lines"]
        assert [line["text"] for line in lines] == texts
        for line in lines:
            assert line["encode_mb_per_s"] > 0 and line["decode_mb_per_s"] > 0
            assert 0 < line["tokens"] <= line["bytes"] and line["text"] in result.stdout


def test_bench_refuses_bad_input():
    for arguments, word in [(("model", "/nonexistent"), "/nonexistent"),
                            (("model", DEMO, "--batches=0"), "--batches"),
                            (("model", DEMO, "--prompts=x"), "--prompts"),
                            (("model", DEMO, "--device=tpu"), "device.kind: 'tpu'"),
                            (("ops", "--shapes=9b"), "--shapes"),
                            (("tokenizer", "/nonexistent"), "/nonexistent"),
                            (("tokenizer", DEMO, "--file=/nonexistent"), "/nonexistent"),
                            (("ops", "--device=cuda", "--device.plugin=/nonexistent"), "/nonexistent"),
                            (("serve", "--concurrency=0"), "--concurrency"),
                            (("serve", "--url=http://127.0.0.1:1"), "refused"),
                            (("serve", "--url=ftp://x"), "url")]:
        result = run_cli("bench", *arguments)
        assert result.returncode != 0 and word in result.stderr, result.stderr


def test_bench_serve_counts_what_the_server_sent(demo, tmp_path):
    path = tmp_path / "serve.json"
    before = demo.metric("sluice_generation_tokens_total")
    result = run_cli("bench", "serve", "--url", f"http://127.0.0.1:{demo.http_port}",
                     "--num-requests=12", "--warmup=0", "--concurrency=4", "--input-len=10",
                     "--output-len=7", "--json", path)
    assert result.returncode == 0, result.stderr
    out = json.loads(path.read_text())
    assert (out["requests"], out["succeeded"], out["failed"]) == (12, 12, 0)
    assert demo.metric("sluice_generation_tokens_total") - before == 12 * 7
    assert abs(out["output_tokens_per_second"] * out["seconds"] - 12 * 7) < 1e-3
    assert abs(out["input_tokens_per_second"] * out["seconds"] - 12 * 10) < 1e-3
    assert 0 < out["ttft_ms"]["p50"] <= out["total_ms"]["max"]


def bench_serve(server, tmp_path, *arguments):
    path = tmp_path / "serve.json"
    result = run_cli("bench", "serve", "--url", server.url, "--warmup=0", *arguments, "--json", path)
    assert result.returncode == 0, result.stderr
    return json.loads(path.read_text())


def test_bench_serve_plays_the_requests_of_the_simulator(demo, tmp_path):
    same = ("--workload=orca-u", "--scale=0.1", "--seed=3")
    out = bench_serve(demo, tmp_path, *same, "--num-requests=20", "--rate=200")
    simulated = tmp_path / "simulated.json"
    run_cli("simulate", *same, "--requests=20", "--rates=200", "--json", simulated)
    [line] = json.loads(simulated.read_text())["lines"]
    assert out["succeeded"] == line["completed"] == 20
    assert sum(r["input_tokens"] for r in out["each"]) == line["prompt_tokens"]
    arrivals = [r["at_s"] for r in out["each"]]
    assert arrivals == sorted(arrivals)
    assert 19 / (arrivals[-1] - arrivals[0]) == pytest.approx(line["offered_per_second"], rel=0.1)
    # From arrival to the last token, divided by the output's length.
    per_token = sorted(r["total_ms"] / r["output_tokens"] for r in out["each"])
    assert out["normalised_ms"]["mean"] == pytest.approx(sum(per_token) / 20)
    assert [out["normalised_ms"][p] for p in ("p50", "p95", "p99", "max")] == pytest.approx(
        [per_token[9], per_token[18], per_token[19], per_token[19]])


def test_bench_serve_shares_prefixes_and_takes_lengths(demo, tmp_path):
    cached = demo.metric("sluice_prefix_cache_hits_total")
    out = bench_serve(demo, tmp_path, "--workload=shared-prefix", "--prefix-tokens=64", "--scale=0.5",
                      "--num-requests=6", "--concurrency=1")
    assert out["succeeded"] == 6 and all(r["input_tokens"] > 32 for r in out["each"])
    assert demo.metric("sluice_prefix_cache_hits_total") - cached >= 5 * 32
    lengths = tmp_path / "lengths.csv"
    lengths.write_text("prompt,output\n8,2\n20,6\n")
    out = bench_serve(demo, tmp_path, f"--lengths={lengths}", "--scale=0.5", "--num-requests=3",
                      "--concurrency=1")
    assert [(r["input_tokens"], r["output_tokens"]) for r in out["each"]] == [(4, 1), (10, 3), (4, 1)]
    out = bench_serve(demo, tmp_path, "--workload=short-plus-long", "--scale=0.02", "--long-len=4000",
                      "--rate=100", "--num-requests=10")
    assert out["requests"] == 11 and max(r["input_tokens"] for r in out["each"]) == 80


def test_bench_serve_says_what_it_cannot_play():
    for arguments, words in [(("--workload=none",), "is not one of orca-u"),
                             (("--workload=chat-sessions",), "hold the tokens of answers"),
                             (("--workload=two-tenants",), "one tenant"),
                             (("--workload=short-plus-long",), "give --rate"),
                             (("--seconds=3",), "--seconds: only bounds"),
                             (("--workload=orca-u", "--lengths=x"), "excludes"),
                             (("--workload=orca-u", "--input-len=3"), "excludes"),
                             (("--lengths=x", "--output-len=3"), "excludes"),
                             (("--workload=orca-u", "--shared-prefix=3"), "excludes"),
                             (("--scale=0",), "--scale: 0 is not")]:
        result = run_cli("bench", "serve", *arguments)
        assert result.returncode != 0 and words in result.stderr, (arguments, result.stderr)


def test_bench_serve_reports_failures():
    class Broken(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(500, "no")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        result = run_cli("bench", "serve", "--url", f"http://127.0.0.1:{server.server_port}",
                         "--model=any", "--num-requests=3", "--warmup=0")
        assert result.returncode == 1
        assert "500" in result.stdout + result.stderr
        assert "3 failed" in result.stdout + result.stderr
    finally:
        server.shutdown()
