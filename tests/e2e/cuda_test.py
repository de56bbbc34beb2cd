"""The CUDA engine behind the daemon: on the emulator, and what is said where there is no GPU."""

import concurrent.futures
import json
import pathlib
import re

import httpx
import pytest

from conftest import BINARY, DEMO, Daemon, run_cli

EMULATED = BINARY.parent / "libsluice_cuda_emulated.so"
HAS_GPU = pathlib.Path("/dev/nvidiactl").exists()
SMALL = ["--model.max_model_len=512", "--scheduler.max_seqs=8", "--scheduler.max_step_tokens=64",
         "--cache.bytes=2MiB"]


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module")
def daemon(plans):
    d = Daemon(DEMO, "--device=cuda", f"--device.plugin={EMULATED}", "--cache.host_bytes=8MiB",
               f"--device.plan_cache={plans}", *SMALL)
    yield d
    assert d.stop() == 0, d.log()


def completion(daemon, **fields):
    answer = daemon.post("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 12, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_serves(daemon):
    assert "demo-model on cuda (emulated, bf16)" in daemon.log()
    greedy = completion(daemon, temperature=0)
    text = greedy["choices"][0]["text"]
    assert greedy["usage"]["completion_tokens"] == 12 and text.strip()
    streamed = daemon.chunks("/v1/completions",
                             {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0})
    assert "".join(c["choices"][0]["text"] for c in streamed if c["choices"]) == text


def test_products_are_measured_as_the_model_asks_for_them(daemon, plans):
    """Layers with results of 16 bits, the head with f32."""
    config = json.loads((pathlib.Path(DEMO) / "config.json").read_text())
    kinds = {tuple(line.split()[1:4]) for file in plans.iterdir() for line in file.read_text().splitlines()
             if line.startswith("own ")}
    assert {out for _, out, _ in kinds} == {"bf16", "f32"}
    assert {rows for _, out, rows in kinds if out == "f32"} == {str(config["vocab_size"])}


def test_one_request_gets_the_same_alone_and_in_company(daemon):
    """More at once than run together, with penalties, several samples and biases among them."""
    kinds = [{"temperature": 0}, {"seed": 1, "temperature": 0.9, "top_p": 0.9},
             {"seed": 2, "n": 2, "temperature": 1.2}, {"seed": 3, "frequency_penalty": 1.0},
             {"seed": 4, "repetition_penalty": 1.3, "top_k": 20}, {"seed": 5, "logit_bias": {"40": 3}}]
    alone = [completion(daemon, **kind)["choices"] for kind in kinds]
    with concurrent.futures.ThreadPoolExecutor(18) as pool:
        together = list(pool.map(lambda i: completion(daemon, **kinds[i % 6])["choices"], range(18)))
    for i, choices in enumerate(together):
        assert [c["text"] for c in choices] == [c["text"] for c in alone[i % 6]], kinds[i % 6]


def test_serves_fp8(tmp_path, start):
    """W8A8 on a device that has it; the answer is that of more company, too, and of the same weights from a file."""
    stored, model = tmp_path / "stored", tmp_path / "nano-fp8"
    for out, without in [(stored, []), (model, ["--no-weights"])]:
        made = run_cli("make-model", "--preset", "nano", "--dtype", "fp8", "--out", out, *without)
        assert made.returncode == 0, made.stderr
    assert f"sluice: {model}: neither model.safetensors nor" in run_cli("plan", model, *SMALL).stderr
    d = start(model, "--device=cuda", f"--device.plugin={EMULATED}", "--load-format=dummy", *SMALL)
    assert "; fp8_e4m3 weights" in d.log() and "the weights are RANDOM" in d.log()
    assert "nano-fp8 with random weights on cuda" in d.log()
    assert d.http.get("/v1/models").json()["data"][0]["weights"] == "random"
    from_file = start(stored, "--device=cuda", f"--device.plugin={EMULATED}", *SMALL)
    assert "weights" not in from_file.http.get("/v1/models").json()["data"][0]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda _: completion(d, temperature=0, ignore_eos=True)["choices"][0]["text"],
                              range(4)))
    assert texts == [completion(x, temperature=0, ignore_eos=True)["choices"][0]["text"] for x in
                     (d, d, from_file, from_file)]


def test_a_cache_in_fp8_takes_half(daemon, start):
    """The knob is in the plan, the blocks and the metrics; most of the answer stays."""
    plans = {dtype: run_cli("plan", DEMO, "--device=cuda", f"--device.plugin={EMULATED}", *SMALL,
                            f"--cache.dtype={dtype}").stdout for dtype in ["bf16", "fp8"]}
    blocks = {dtype: int(re.search(r"([\d,]+) blocks", plan).group(1).replace(",", ""))
              for dtype, plan in plans.items()}
    assert blocks["fp8"] == 2 * blocks["bf16"]
    d = start(DEMO, "--device=cuda", f"--device.plugin={EMULATED}", "--cache.dtype=fp8", *SMALL)
    assert "the checkpoint has no scales for them" in d.log()
    assert f'num_gpu_blocks="{blocks["fp8"]}"' in d.http.get("/metrics").text
    prompt = {"prompt": "Once upon a time", "max_tokens": 1, "temperature": 0, "logprobs": 5}
    tops = [x.post("/v1/completions", prompt).json()["choices"][0]["logprobs"]["top_logprobs"][0]
            for x in (daemon, d)]
    shared = tops[0].keys() & tops[1].keys()
    assert len(shared) >= 4 and tops[0] != tops[1]
    assert all(abs(tops[0][t] - tops[1][t]) < 0.5 for t in shared)


@pytest.mark.parametrize("fault", ["sync", "launch"])
def test_a_failure_of_the_device_ends_the_daemon(fault, tmp_path, start):
    """One block says what was asked for, nobody is sent here any more, and a supervisor sees the code."""
    faults = tmp_path / "faults"
    d = start(DEMO, "--device=cuda", f"--device.plugin={EMULATED}", f"--device.libraries={faults}", *SMALL)
    completion(d, temperature=0)

    def status_of(ask):
        try:
            return ask().status_code
        except httpx.HTTPError:
            return "gone"

    def readiness():
        return status_of(lambda: d.http.get("/health/ready"))

    def request():  # it may come when an idle daemon has found the fault already
        return status_of(lambda: d.post("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 12}))

    assert readiness() == 200
    faults.write_text(fault)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        lost = pool.submit(request)
        d.wait_for(lambda: "CUDA: " in d.log())
        assert readiness() in (503, "gone")
        assert lost.result() in (503, "gone")
    assert d.process.wait(30) == 70
    _, report = d.log().split(f"emulated: CUDA: {fault} failed: this is a test\n")
    lines = [line for line in report.splitlines() if line.startswith("  ")]
    assert lines[0].startswith("  What it was asked for of late. ")
    steps = [i for i, line in enumerate(lines) if line.startswith("  step ")]
    assert len(steps) == 2 and re.fullmatch(
        r"  step \d+: \d sequences, of them \d decoding, \d+ tokens, longest context \d+", lines[steps[0]])
    assert any(line.endswith("  <- the last") for line in lines)
    assert any(re.match(r"    attention: bf16 \[\d+, \d+, \d+\], ", line) for line in lines)


def test_memory_that_was_taken_meanwhile_is_one_line(tmp_path):
    """As when two daemons on one GPU start together: both have planned with what was free."""
    faults = tmp_path / "faults"
    faults.write_text("memory")
    r = run_cli("serve", DEMO, "--device=cuda", f"--device.plugin={EMULATED}", f"--device.libraries={faults}",
                "--port=0", *SMALL)
    assert r.returncode == 70
    report = r.stderr[r.stderr.index("emulated: "):]
    assert re.fullmatch(r"emulated: out of memory: .* are wanted, 4.00 GiB are free \(.*\)\n", report), r.stderr


def test_decode_steps_are_replayed(daemon):
    """Captured soon after the start, and then none is launched kernel by kernel."""
    def eager_steps_of(**fields):
        before = daemon.metric("sluice_eager_steps_total")
        completion(daemon, temperature=0, ignore_eos=True, **fields)
        return daemon.metric("sluice_eager_steps_total") - before

    daemon.wait_for(lambda: eager_steps_of(max_tokens=2) == 0)
    daemon.wait_for(lambda: eager_steps_of(n=7, max_tokens=4) == 0)
    assert eager_steps_of(max_tokens=40) == 0


def test_computes_in_what_the_checkpoint_is_of(tmp_path):
    model = tmp_path / "nano-f16"
    assert run_cli("make-model", "--preset", "nano", "--dtype", "f16", "--out", model).returncode == 0
    for path, flags, dtype in [(model, [], "f16"), (DEMO, [], "bf16"), (model, ["--dtype=bf16"], "bf16"),
                               (DEMO, ["--dtype=f16"], "f16")]:
        r = run_cli("plan", path, "--device=cuda", f"--device.plugin={EMULATED}", *SMALL, *flags)
        assert f"cuda (emulated, {dtype})" in r.stdout, r.stdout + r.stderr


def test_refuses_what_the_device_cannot(daemon):
    for flags, message in [
        (["--cache.block_size=8"], "cache.block_size = 8 (a power of two, at least 16)"),
        (["--cache.dtype=f16"], "cache.dtype: this device keeps keys and values as bf16, not as f16"),
        (["--cache.dtype=f32"], "cache.dtype: this device keeps keys and values as bf16, not as f32"),
        (["--cache.bytes=8GiB"], "the free memory of the 4.00 GiB of cuda (emulated, bf16) is 4.00 GiB"),
        (["--dtype=f32"], "model.dtype: this device keeps weights as bf16, not as f32"),
        (["--device.index=1"], "device.index = 1: there is one emulated GPU"),
    ]:
        r = run_cli("plan", DEMO, "--device=cuda", f"--device.plugin={EMULATED}", *flags)
        assert r.returncode == 1 and message in r.stderr and r.stderr.count("\n") == 1, r.stderr


def test_a_plugin_that_is_none(tmp_path):
    (tmp_path / "text.so").write_text("no library")
    for plugin, message in [(tmp_path / "absent.so", "is not a file"),
                            (tmp_path / "text.so", "file too short"),
                            (pathlib.Path("/proc/self/exe").resolve(), "device.kind = cuda: ")]:
        r = run_cli("plan", DEMO, "--device=cuda", f"--device.plugin={plugin}")
        assert r.returncode == 1 and message in r.stderr and r.stderr.count("\n") == 1, r.stderr


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_without_a_gpu_auto_says_why_and_cuda_refuses():
    auto = run_cli("plan", DEMO)
    assert auto.returncode == 0 and "no GPU is used: " in auto.stderr
    cuda = run_cli("plan", DEMO, "--device=cuda")
    assert cuda.returncode == 1 and cuda.stderr.count("\n") == 1
    assert cuda.stderr.startswith("sluice: device.kind = cuda: ")
    assert "no GPU is used" not in run_cli("plan", DEMO, "--device=cpu").stderr
