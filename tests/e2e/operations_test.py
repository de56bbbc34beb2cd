"""Start, refuse, drain, stop: what an operator sees."""

import contextlib
import json
import math
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import threading
import time

import grpc
import httpx
import pytest

from conftest import BINARY, DEMO, clean_environment, pb, run_cli

SLOW = {"prompt": "The fox", "ignore_eos": True, "temperature": 0}
# Seconds of work for the nano model on any machine, so that a test can look on.
VERY_SLOW = {**SLOW, "max_tokens": 4000, "n": 16}


def test_help_names_every_subcommand():
    out = run_cli("--help").stdout
    for name in ["serve", "bench", "plan", "inspect", "make-model", "chat", "version"]:
        assert name in out
    assert "--port" in run_cli("serve", "--help").stdout


def test_wrong_command_lines():
    for arguments in [(), ("nope",), ("serve", DEMO, "--no-such-flag"), ("serve", DEMO, "extra")]:
        result = run_cli(*arguments)
        assert result.returncode == 2 and result.stderr + result.stdout
    for arguments, word in [(("serve",), "directory"),
                            (("serve", DEMO, "--port", "70000"), "65535"),
                            (("serve", DEMO, "--device", "tpu"), "device.kind"),
                            (("serve", DEMO, "--device", "cuda"), "cuda"),
                            (("serve", "/nonexistent"), "/nonexistent: No such file"),
                            (("serve", DEMO, "--config", "/nonexistent.toml"), "nonexistent.toml")]:
        result = run_cli(*arguments, env={"SLUICE_LOG_LEVEL": "error"})
        # A GPU that does not answer may do so later; the others are the configuration's.
        assert result.returncode == 78 or (word == "cuda" and result.returncode == 1), word
        assert word in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_print_config_reads_back(tmp_path):
    first = run_cli("serve", DEMO, "--port=1234", "--print-config",
                    env={"SLUICE_LOG_LEVEL": "debug"}).stdout
    assert "http_port = 1234" in first and 'level = "debug"' in first
    (tmp_path / "c.toml").write_text(first)
    assert run_cli("serve", "--config", tmp_path / "c.toml", "--print-config").stdout == first
    assert run_cli("serve", "--print-config",
                   env={"SLUICE_CONFIG": str(tmp_path / "c.toml")}).stdout == first


def test_render_template_prints_the_prompt(tmp_path):
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"messages": [{"role": "user", "content": "Who are you?"}]}))
    printed = run_cli("render-template", DEMO, "--request", request)
    assert printed.returncode == 0 and "Who are you?" in printed.stdout, printed.stderr
    request.write_text('{"messages": []}')
    for arguments in [("--request", request), ("--request", tmp_path / "none"), ("--chat-template", "nope")]:
        result = run_cli("render-template", DEMO, *arguments)
        assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr


def test_plan_names_the_numbers():
    result = run_cli("plan", DEMO, "--cache.bytes=64MiB")
    assert result.returncode == 0, result.stderr
    assert "weights" in result.stdout and "tokens" in result.stdout
    small = run_cli("plan", DEMO, "--cache.bytes=1KiB")
    assert small.returncode == 1 and "cache.bytes" in small.stderr
    host = run_cli("plan", DEMO, "--cache.bytes=64MiB", "--cache.host_bytes=32MiB")
    assert host.returncode == 0 and "host tier" in host.stdout and "32.0 MiB" in host.stdout
    for wrong in ["1B", "1024TiB"]:
        refused = run_cli("plan", DEMO, "--device=cpu", "--cache.bytes=64MiB",
                          f"--cache.host_bytes={wrong}")
        assert refused.returncode == 1 and "cache.host_bytes" in refused.stderr, wrong
        assert len(refused.stderr.splitlines()) == 1


def test_serves_with_a_host_tier(start):
    daemon = start(DEMO, "--cache.bytes=64MiB", "--cache.host_bytes=32MiB")
    assert "host tier 32.0 MiB" in daemon.log() and "to copy a block" in daemon.log()


def test_json_logs(start):
    daemon = start(DEMO, "--log-format=json")
    lines = daemon.log().splitlines()
    assert lines and all("message" in json.loads(line) for line in lines)


@pytest.fixture
def memory_limit():
    """A control group of 100 MiB, as a container has: a command's words in front that run it there."""
    for root, knob in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]:
        group = pathlib.Path(root, f"sluice-test-{os.getpid()}")
        try:
            group.mkdir()
            with (group / knob).open("r+") as file:
                file.write("100M")
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
        group.rmdir()
        return
    pytest.skip("only root may limit memory, where control groups can be made")


def test_a_memory_limit_below_the_plan_is_refused_in_one_line(memory_limit):
    result = subprocess.run([*memory_limit, BINARY, "serve", DEMO, "--port=0", "--grpc-port=0",
                             "--cache.bytes=150MiB", "--log-level=error"],
                            capture_output=True, text=True, timeout=60, env=clean_environment())
    assert result.returncode == 78, result.stderr
    assert re.fullmatch(r"sluice: cache.bytes = 157286400 \(150 MiB\) does not fit: the cgroup limit is 100 MiB, .*\n",
                        result.stderr)


def test_port_taken(demo):
    for flag, port in [("--port", demo.http_port), ("--grpc-port", demo.grpc_port)]:
        other = "--grpc-port" if flag == "--port" else "--port"
        result = run_cli("serve", "/nonexistent", flag, port, other, 0, "--log-level=error")
        assert result.returncode == 1 and str(port) in result.stderr  # known before the model is read
        assert result.stderr.count("\n") == 1 and "Address already in use" in result.stderr


def copy_of_demo(tmp_path):
    out = tmp_path / "model"
    shutil.copytree(DEMO, out, ignore=shutil.ignore_patterns("*.py", "*.png", "*.md"))
    return out


def edit_json(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_safetensors(path, change):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])


def first_tensor(header):
    return next(v for k, v in header.items() if k != "__metadata__")


BREAK = {
    "no config": (lambda m: (m / "config.json").unlink(), "config.json"),
    "config not JSON": (lambda m: (m / "config.json").write_text("{"), "config.json"),
    "architecture": (lambda m: edit_json(m / "config.json", lambda c: c.update(
        architectures=["BertModel"])), "BertModel"),
    "hidden size": (lambda m: edit_json(m / "config.json", lambda c: c.update(
        hidden_size=c["hidden_size"] * 2)), "expected"),
    "negative layers": (lambda m: edit_json(m / "config.json", lambda c: c.update(
        num_hidden_layers=-1)), "num_hidden_layers"),
    "quantised": (lambda m: edit_json(m / "config.json", lambda c: c.update(
        quantization_config={"quant_method": "gptq"})), "quantization_config"),
    "quantised in blocks": (lambda m: edit_json(m / "config.json", lambda c: c.update(
        quantization_config={"quant_method": "fp8", "activation_scheme": "dynamic",
                             "weight_block_size": [128, 128]})), "weight_block_size"),
    "wrong shape": (lambda m: edit_safetensors(m / "model.safetensors", lambda h: h[
        "model.norm.weight"].update(shape=[1] + h["model.norm.weight"]["shape"])), "expected ["),
    "another trait": (lambda m: edit_json(m / "config.json", lambda c: c.update(
        clip_qkv=8)), "clip_qkv"),
    "missing shard": (lambda m: ((m / "model.safetensors").unlink(), (
        m / "model.safetensors.index.json").write_text('{"weight_map":{"a":"b.safetensors"}}')),
        "shard b.safetensors is missing"),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "safetensors"),
    "truncated weights": (lambda m: (m / "model.safetensors").write_bytes(
        (m / "model.safetensors").read_bytes()[:5000]), "model.safetensors"),
    "empty weights": (lambda m: (m / "model.safetensors").write_bytes(b""), "model.safetensors"),
    "header length lies": (lambda m: (m / "model.safetensors").write_bytes(
        b"\xff" * 8 + (m / "model.safetensors").read_bytes()[8:]), "model.safetensors"),
    "out of bounds": (lambda m: edit_safetensors(m / "model.safetensors", lambda h: first_tensor(
        h).update(data_offsets=[0, 10**15])), "model.safetensors"),
    "wrong dtype": (lambda m: edit_safetensors(m / "model.safetensors", lambda h: first_tensor(
        h).update(dtype="F32")), "model.safetensors"),
    "missing tensor": (lambda m: edit_safetensors(m / "model.safetensors", lambda h: h.pop(
        "model.norm.weight")), "model"),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), "tokenizer.json"),
    "broken tokenizer": (lambda m: (m / "tokenizer.json").write_text('{"model": 3}'),
                         "tokenizer.json"),
    "hostile template": (lambda m: edit_json(m / "tokenizer_config.json", lambda c: c.update(
        chat_template="{% for x in %}")), "template"),
}


@pytest.mark.parametrize("name", BREAK)
def test_a_broken_model_is_refused_in_one_line(tmp_path, name):
    model = copy_of_demo(tmp_path)
    change, word = BREAK[name]
    change(model)
    result = run_cli("serve", model, "--port=0", "--grpc-port=0", "--log-level=error")
    assert result.returncode == 78, (result.returncode, result.stderr)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and word in lines[0], result.stderr
    # By the same rules, and in the same words.
    inspected = run_cli("inspect", "--json", model)
    assert inspected.returncode == 1 and inspected.stderr.count("\n") == 1, inspected.stderr
    report = json.loads(inspected.stdout)
    assert not report["can_be_served"]
    assert "sluice: " + report["problems"][0] == lines[0]
    assert report["problems"][0] in run_cli("inspect", model).stdout


def test_inspect_says_what_is_there():
    result = run_cli("inspect", DEMO)
    assert result.returncode == 0 and not result.stderr, result.stderr
    for words in ["LlamaForCausalLM", "embeddings", "attention", "BPE", "chat templates", "can be served"]:
        assert words in result.stdout, result.stdout
    assert run_cli("inspect", "nowhere").stderr.count("\n") == 1


def test_a_model_beyond_any_memory(tmp_path):
    """A terabyte of nothing: headers alone are read, and the plan says no in one line."""
    model = copy_of_demo(tmp_path)
    hidden, vocab = 1 << 16, 1 << 23
    edit_json(model / "config.json", lambda c: c.update(
        hidden_size=hidden, vocab_size=vocab, num_hidden_layers=1))
    shapes = {"embed_tokens": [vocab, hidden], "norm": [hidden],
              "layers.0.input_layernorm": [hidden], "layers.0.post_attention_layernorm": [hidden],
              "layers.0.self_attn.q_proj": [256, hidden], "layers.0.self_attn.k_proj": [64, hidden],
              "layers.0.self_attn.v_proj": [64, hidden], "layers.0.self_attn.o_proj": [hidden, 256],
              "layers.0.mlp.gate_proj": [640, hidden], "layers.0.mlp.up_proj": [640, hidden],
              "layers.0.mlp.down_proj": [hidden, 640]}
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        header[f"model.{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with (model / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + at)
    inspected = run_cli("inspect", model)
    assert inspected.returncode == 0 and "1.00 TiB" in inspected.stdout, inspected.stdout
    for command, code in [(["plan"], 1),
                          (["serve", "--port=0", "--grpc-port=0", "--log-level=error"], 78)]:
        refused = run_cli(*command, model, "--device=cpu")
        assert refused.returncode == code and refused.stderr.count("\n") == 1, refused.stderr
        assert "the model does not fit: weights take 1.00 TiB" in refused.stderr


def test_an_endless_template_is_an_error_of_the_request(tmp_path, start):
    model = copy_of_demo(tmp_path)
    edit_json(model / "tokenizer_config.json", lambda c: c.update(
        chat_template="{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}"
                      "{% endfor %}"))
    daemon = start(model)
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    assert daemon.post("/v1/chat/completions", body).status_code == 400
    assert daemon.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).status_code == 200


def in_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    return thread, result


def test_sigterm_finishes_what_runs(start, nano_model):
    daemon = start(nano_model)
    body = {**VERY_SLOW, "n": 8}
    http_thread, http_result = in_thread(lambda: daemon.chunks("/v1/completions", body))
    request = pb.GenerateRequest(prompt="The fox", sampling=pb.SamplingParams(
        max_tokens=4000, ignore_eos=True, temperature=0, n=8))
    rpc_thread, rpc_result = in_thread(lambda: list(daemon.grpc.generate(request, timeout=60)))
    daemon.wait_for(lambda: daemon.metric("sluice_requests_running") >= 2)
    daemon.process.send_signal(signal.SIGTERM)
    http_thread.join(60)
    rpc_thread.join(60)
    assert daemon.process.wait(30) == 0
    assert http_result[0][-1]["choices"][0]["finish_reason"] == "length"
    assert rpc_result[0][-1].usage.completion_tokens == 8 * 4000


def test_drain_refuses_new_work_and_says_so(start, nano_model):
    daemon = start(nano_model, "--server.drain_delay_seconds=3600", "--server.drain_seconds=20")
    thread, result = in_thread(lambda: daemon.chunks("/v1/completions", VERY_SLOW))
    daemon.wait_for(lambda: daemon.metric("sluice_requests_running") >= 1)
    with httpx.Client(base_url=daemon.url) as kept:
        assert kept.get("/health/ready").status_code == 200
        # First it is not ready, and takes what comes nevertheless.
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for(lambda: daemon.grpc.health() == 2)  # NOT_SERVING
        assert daemon.http.get("/health/ready").status_code == 503
        assert daemon.http.get("/health/live").status_code == 200
        one = {"prompt": "x", "max_tokens": 1}
        served = daemon.post("/v1/completions", one)
        assert served.status_code == 200 and served.headers["connection"] == "close"
        assert list(daemon.grpc.generate(pb.GenerateRequest(prompt="x"), timeout=30))
        # Then, here because of a second signal, it refuses.
        daemon.process.send_signal(signal.SIGTERM)

        def refuses_connections():
            try:
                daemon.socket().close()
            except ConnectionRefusedError:
                return True

        daemon.wait_for(refuses_connections)
        refused = kept.post("/v1/completions", json=one)
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
    assert int(refused.headers["retry-after"]) >= 1 and refused.headers["connection"] == "close"
    assert refused.headers["x-should-retry"] == "true"
    with pytest.raises(grpc.RpcError) as raised:
        list(daemon.grpc.generate(pb.GenerateRequest(prompt="x"), timeout=30))
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    thread.join(60)
    assert result[0][-1]["choices"][0]["finish_reason"] == "length"
    assert daemon.process.wait(30) == 0


def test_drain_is_bounded(start, nano_model):
    daemon = start(nano_model, "--server.drain_seconds=1")

    def stream():
        return list(daemon.stream("/v1/completions", VERY_SLOW))

    thread, result = in_thread(stream)
    daemon.wait_for(lambda: daemon.metric("sluice_requests_running") >= 1)
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(20) == 0 and time.monotonic() - began < 15
    thread.join(10)
    assert "error" in json.loads(result[0][-1])  # told, not cut off


def test_overload_is_a_503(start, nano_model):
    daemon = start(nano_model, "--scheduler.max_seqs=16", "--scheduler.max_queue=2")
    # The first fills the batch before the others come: all three at once could find a queue of two full.
    threads = [in_thread(lambda: daemon.post("/v1/completions", VERY_SLOW))]
    daemon.wait_for(lambda: daemon.metric("sluice_requests_running") >= 1)
    threads += [in_thread(lambda: daemon.post("/v1/completions", VERY_SLOW)) for _ in range(2)]
    daemon.wait_for(lambda: daemon.metric("sluice_requests_waiting") >= 2)
    refused = daemon.post("/v1/completions", {"prompt": "x", "max_tokens": 1, "stream": True})
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "overloaded"
    assert "retry-after" in refused.headers
    with pytest.raises(grpc.RpcError) as raised:
        list(daemon.grpc.generate(pb.GenerateRequest(prompt="x"), timeout=10))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    for thread, result in threads:
        thread.join(120)
        assert result[0].status_code == 200


def test_grpc_deadline_and_cancel_free_the_request(start, nano_model):
    daemon = start(nano_model)
    request = pb.GenerateRequest(prompt="x", sampling=pb.SamplingParams(
        max_tokens=4000, n=16, ignore_eos=True))
    with pytest.raises(grpc.RpcError) as raised:
        list(daemon.grpc.generate(request, timeout=0.3))
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    daemon.wait_for(daemon.idle, timeout=5)
    call = daemon.grpc.generate(request, timeout=60)
    next(call)
    call.cancel()
    daemon.wait_for(daemon.idle, timeout=5)


def test_grpc_reflection_lists_the_service(demo):
    """One ServerReflectionRequest with list_services, by hand."""
    call = demo.grpc.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=lambda m: m, response_deserializer=lambda m: m)
    reply = next(iter(call(iter([b"\x3a\x00"]), timeout=10)))
    assert b"sluice.v1.Inference" in reply and b"grpc.health.v1.Health" in reply


def test_idle_daemon_uses_no_cpu(demo):
    def ticks():
        fields = open(f"/proc/{demo.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    demo.wait_for(demo.idle)
    time.sleep(0.5)
    before = ticks()
    time.sleep(2)
    assert ticks() - before <= 4  # of 200


def test_prefix_cache_hits_are_reported(start):
    daemon = start(DEMO)
    body = {"prompt": "The fox and the bear went to the river to look for a boat. " * 6,
            "max_tokens": 2, "temperature": 0}
    first = daemon.post("/v1/completions", body).json()
    second = daemon.post("/v1/completions", body).json()
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 32
    assert first["choices"][0]["text"] == second["choices"][0]["text"]
    assert daemon.metric("sluice_prefix_cache_hits_total") > 32
    salted = daemon.post("/v1/completions", {**body, "cache_salt": "other"}).json()
    assert salted["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_fp8_weights_are_served_as_what_they_stand_for(tmp_path, start):
    """A checkpoint of fp8, as it is and widened at load; and one of bf16, quantised at load."""
    model, plain = tmp_path / "nano-fp8", tmp_path / "nano"
    for out, dtype in [(model, "fp8"), (plain, "bf16")]:
        made = run_cli("make-model", "--preset", "nano", "--seed", 1, "--dtype", dtype, "--out", out)
        assert made.returncode == 0, made.stderr

    def weights(path, *flags):
        return next(line for line in run_cli("plan", path, "--device=cpu", *flags).stdout.splitlines()
                    if "eights" in line)

    assert weights(model) == weights(plain, "--dtype=fp8") != weights(plain)
    texts = []
    for path, flags, kept in [(model, [], "fp8_e4m3"), (model, ["--dtype=f32"], "f32"),
                              (plain, ["--dtype=fp8"], "fp8_e4m3")]:
        daemon = start(path, "--device=cpu", "--cache.dtype=f32", "--cache.bytes=4MiB", *flags)
        assert f"; {kept} weights" in daemon.log()
        answer = daemon.post("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 16,
                                                 "temperature": 0, "ignore_eos": True})
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 16
        texts.append(answer.json()["choices"][0]["text"])
    assert texts[0] == texts[1]
    edit_safetensors(model / "model.safetensors", lambda h: h.update(
        {"x": h.pop("model.layers.0.mlp.up_proj.weight_scale")}))
    refused = run_cli("plan", model, "--device=cpu")
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert "up_proj.weight_scale, which F8_E4M3" in refused.stderr
