"""The measuring commands: that they measure what they were asked to, and refuse what they cannot."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from conftest import DEMO, run_cli


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


def test_bench_refuses_bad_input():
    for arguments, word in [(("model", "/nonexistent"), "/nonexistent"),
                            (("model", DEMO, "--batches=0"), "--batches"),
                            (("model", DEMO, "--prompts=x"), "--prompts"),
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
