"""The phases of tests/gpu/run.sh, which says what it is for. Needs nothing beside Python itself; peers.py
adds PyTorch and transformers where they are installed."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEMO = ROOT / "deploy/demo-model"
DUMMY = "--load-format=dummy"
NO_GPU = 77
NEAR_TIE = 0.5  # nats: two tokens this close may change places between two ways of computing
PROMPTS = ["Once upon a time", "The fox", "Question: What is two plus three?\nAnswer:",
           "A long way from the village there was", "{\"name\":", "In winter the lake"]


class Skipped(Exception):
    """Why a phase could not run here."""


class Failed(Exception):
    """What a phase found."""


class Run:
    def __init__(self, options):
        self.options = options
        self.temporary = pathlib.Path(tempfile.mkdtemp(prefix="sluice-gpu-"))
        atexit.register(shutil.rmtree, self.temporary, ignore_errors=True)
        self.bin = self.unpacked(pathlib.Path(options.bin).resolve())
        self.out = pathlib.Path(options.out).resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.end = time.monotonic() + options.budget
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
        libraries = [str(self.bin / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
        self.env["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
        self.device = ["--device=cuda"]
        if options.emulated:
            self.device.append(f"--device.plugin={self.bin / 'libsluice_cuda_emulated.so'}")
        self.results: dict[str, dict] = {}
        self.lines: list[str] = []  # of the table

    def unpacked(self, folder: pathlib.Path) -> pathlib.Path:
        archive = folder / "pack.tar.gz"
        if not archive.exists():
            return folder
        with tarfile.open(archive) as tar:
            tar.extractall(self.temporary / "bin")
        return self.temporary / "bin"

    def pack_logs(self):
        """Few files travel more easily than many."""
        logs = [f for f in self.out.iterdir() if f.name not in ("run.json", "logs.tar.gz")]
        with tarfile.open(self.out / "logs.tar.gz", "w:gz") as tar:
            for file in logs:
                tar.add(file, file.name)
                file.unlink()

    def left(self) -> float:
        return self.end - time.monotonic()

    def command(self, *arguments, log: str, timeout: float = 300, env=None) -> subprocess.CompletedProcess:
        """Runs one of our programs; its output goes to a file, too."""
        try:
            done = subprocess.run([str(a) for a in arguments], text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=max(1, min(timeout, self.left())),
                                  env={**self.env, **(env or {})}, cwd=ROOT)
        except subprocess.TimeoutExpired as e:
            text = e.stdout.decode(errors="replace") if isinstance(e.stdout, bytes) else e.stdout or ""
            (self.out / log).write_text(text)
            raise Failed(f"{pathlib.Path(arguments[0]).name} did not end in time (see {log})") from None
        (self.out / log).write_text(done.stdout)
        return done

    def checked(self, *arguments, log: str, **more) -> str:
        done = self.command(*arguments, log=log, **more)
        if done.returncode == NO_GPU:
            raise Skipped("no usable GPU")
        if done.returncode != 0:
            last = done.stdout.strip().splitlines()[-1:] or ["no output"]
            raise Failed(f"{pathlib.Path(arguments[0]).name}: exit {done.returncode}: {last[0]} (see {log})")
        return done.stdout

    def model(self, preset: str, dtype: str = "bf16") -> pathlib.Path:
        """Shapes and a tokenizer: whoever takes it makes the weights on the device (DUMMY)."""
        path = self.temporary / f"{preset}-{dtype}"
        if not path.exists():
            self.checked(self.bin / "sluice", "make-model", "--preset", preset, "--dtype", dtype, "--out", path,
                         "--no-weights", log=f"make-{path.name}.log")
        return path

    @contextlib.contextmanager
    def daemon(self, model, *flags, device=None, log: str):
        ports = self.temporary / f"ports-{log}"
        with open(self.out / log, "wb") as output:
            process = subprocess.Popen(
                [str(self.bin / "sluice"), "serve", str(model), "--port=0", "--grpc-port=0",
                 f"--ports-file={ports}", *(device or self.device), *flags],
                stdout=output, stderr=subprocess.STDOUT, env=self.env)
        try:
            while not ports.exists() or not ports.read_text().strip():
                if process.poll() is not None or self.left() < 0:
                    raise Failed(f"the daemon did not start (see {log})")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{ports.read_text().split()[0]}"
            if process.poll() is not None:
                raise Failed(f"the daemon ended by itself (see {log})")
        finally:
            ports.unlink(missing_ok=True)
            if process.poll() is None:
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            if process.poll() is None:
                process.kill()

    def say(self, line: str):
        self.lines.append(line)


def post(url: str, path: str, body: dict) -> dict:
    request = urllib.request.Request(url + path, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


# --- phases: each returns what goes into run.json ---

def probe(run: Run) -> dict:
    if run.options.emulated:
        return {"device": "emulated"}
    text = run.checked(run.bin / "gpu_probe", log="probe.log", timeout=60)
    for line in text.splitlines():
        run.say("  " + line)
    smi = shutil.which("nvidia-smi")
    if smi:
        run.command(smi, log="nvidia-smi.log", timeout=20)
    return {"text": text}


def gtest(run: Run, program: str, name: str, arguments=(), env=None) -> dict:
    text = run.checked(*program_of(run, program), *arguments, log=f"{name}.log", env=env)
    passed = re.search(r"\[  PASSED  \] (\d+) tests?", text)
    skipped = len(re.findall(r"^\[  SKIPPED \] .*ms\)$", text, re.M))
    if not passed or int(passed[1]) == 0:
        raise Skipped("no test ran")
    return {"passed": int(passed[1]), "skipped": skipped}


def program_of(run: Run, program: str) -> list:
    """On the emulator the tests of the kernels are several programs, of which one will do."""
    emulated = {"gpu_kernels_test": "simt_rows_test", "gpu_engine_test": "simt_engine_test"}
    return [run.bin / (emulated[program] if run.options.emulated else program)]


def kernels(run: Run) -> dict:
    """The tests that hold on the emulator, on the chip: first with the numbers they were written with,
    then with others."""
    seeds = ["0", str(int(time.time())), str(int(time.time()) * 7 + 1)]
    done = {seed: gtest(run, "gpu_kernels_test", f"kernels-{i}", env={"SLUICE_TEST_SEED": seed})
            for i, seed in enumerate(seeds[:1] if run.options.emulated else seeds)}
    run.say(f"  {sum(d['passed'] for d in done.values())} tests passed, seeds {', '.join(done)}")
    return done


def engine(run: Run) -> dict:
    done = gtest(run, "gpu_engine_test", "engine")
    run.say(f"  {done['passed']} tests passed")
    return done


def sanitizer(run: Run) -> dict:
    """Memory faults of the whole engine, then what only kernels alone are small enough for."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if run.options.emulated or not os.path.exists(tool):
        raise Skipped("no compute-sanitizer here")
    small = ("Attention.ManyQueryHeads:Sample.GreedyTakesTheLowestOfTheLargest:*Experts*"
             ":GroupedMatmul/0.ARowThatIsNoNumber*")
    jobs = [("memcheck", "gpu_engine_test", "*LogprobsFollowTheCpus"),
            ("racecheck", "gpu_kernels_test", "*Rope*:*Norm*:*Rows*:" + small),
            ("synccheck", "gpu_kernels_test", "*Rope*:*Norm*:" + small),
            ("initcheck", "gpu_engine_test", "*LogprobsFollowTheCpus")]
    found = {}
    for check, program, tests in jobs:
        done = run.command(tool, "--tool", check, "--error-exitcode", "9", run.bin / program,
                           f"--gtest_filter={tests}", log=f"{check}.log", timeout=60)
        if "Device not supported" in done.stdout:
            raise Skipped("compute-sanitizer does not know this device")
        summary = [line for line in done.stdout.splitlines() if "ERROR SUMMARY" in line or "RACECHECK" in line]
        found[check] = {"exit": done.returncode, "summary": summary[-1:]}
        run.say(f"  {check:<10} {'clean' if done.returncode == 0 else 'exit ' + str(done.returncode)}")
    if bad := [check for check, f in found.items() if f["exit"] != 0]:
        raise Failed(f"{', '.join(bad)}: see the logs")
    return found


def greedy(run: Run) -> dict:
    """The demo model on the GPU against the same on the CPU: tokens equal up to the first near tie."""
    tokens = 8 if run.options.emulated else 64
    small = ["--scheduler.max_seqs=8", "--model.max_model_len=512", "--cache.bytes=16MiB"]
    answers = {}
    for name, device in [("gpu", None), ("cpu", ["--device=cpu"])]:
        with run.daemon(DEMO, *small, device=device, log=f"greedy-{name}.log") as url:
            answers[name] = [
                post(url, "/v1/completions",
                     {"prompt": p, "max_tokens": tokens, "temperature": 0, "logprobs": 5,
                      "return_token_ids": True, "return_tokens_as_token_ids": True})["choices"][0] | {"prompt": p}
                for p in PROMPTS]
    (run.out / "greedy.json").write_text(json.dumps(answers))
    ties, worst = 0, 0.0
    for prompt, got, want in zip(PROMPTS, answers["gpu"], answers["cpu"]):
        for i, (a, b) in enumerate(zip(got["token_ids"], want["token_ids"])):
            logprobs = want["logprobs"]
            if a == b:
                worst = max(worst, abs(got["logprobs"]["token_logprobs"][i] - logprobs["token_logprobs"][i]))
                continue
            other = logprobs["top_logprobs"][i].get(f"token_id:{a}", float("-inf"))
            gap = logprobs["token_logprobs"][i] - other
            if gap > NEAR_TIE:
                raise Failed(f"{prompt!r}: token {i} is {a}, the CPU has {b}, {gap:.2f} nats apart")
            ties += 1
            break
    run.say(f"  {len(PROMPTS)} prompts, {ties} part at a near tie, logprobs of tokens within {worst:.3f}")
    return {"prompts": len(PROMPTS), "near_ties": ties, "worst_logprob_difference": worst}


def ops(run: Run) -> dict:
    done = {}
    fused = ["--only=norm m=1", "--only=rope_write m=1", "--only=fp8 m=1", "--only=swap"]
    small = [*fused, "--seconds=0.01"] if run.options.emulated else ["--seconds=0.05"]
    for shapes in ["110m"] if run.options.emulated else ["8b", "1b"]:
        path = run.out / f"ops-{shapes}.json"
        run.checked(run.bin / "sluice", "bench", "ops", *run.device, f"--shapes={shapes}", *small,
                    "--json", path, log=f"ops-{shapes}.log")
        done[shapes] = json.loads(path.read_text())
        for line in done[shapes]["lines"]:
            copies = (f" of the {line['pinned_copy_gb_per_s']:.1f} GB/s of one pinned copy"
                      if "pinned_copy_gb_per_s" in line else "")
            run.say(f"  {shapes} {line['op']:<38} {line['seconds'] * 1e6:>9.1f} us {line['share_of_limit']:>5.0%}"
                    + copies)
    return done


def sizes(run: Run) -> list[str]:
    return ["nano"] if run.options.emulated else ["llama-3.2-1b", "llama-3.1-8b"]


def has_fp8(run: Run) -> bool:
    done = run.command(run.bin / "sluice", "plan", run.model(sizes(run)[-1]), DUMMY, *run.device, "--dtype=fp8",
                       log="plan-fp8.log")
    return "this device keeps weights as" not in done.stdout


def model(run: Run) -> dict:
    """Prefill and decode through the runner, a step ahead and replayed, with the share of the device's time that
    no step had; the same where no kernel comes to the
    chip before the one ahead of it has ended, and in fp8; and how often the library's first choice was not the
    fastest."""
    small = (["--prompts=16", "--batches=2", "--contexts=32", "--max-step-tokens=16"] if run.options.emulated
             else ["--prompts=512,2048,8192", "--batches=1,8,32,128", "--contexts=512,2048"])
    few = small if run.options.emulated else ["--prompts=512", "--batches=1,32", "--contexts=512"]
    plans = run.temporary / "plans"
    first, last = sizes(run)[0], sizes(run)[-1]
    jobs = [(preset, run.model(preset), small + [f"--device.plan_cache={plans}"]) for preset in sizes(run)]
    jobs += [(f"{first}, kernels one by one", run.model(first), few + ["--device.overlap_kernels=false"])]
    if has_fp8(run):
        jobs += [(f"{last}, fp8", run.model(last, "fp8"), few)]
    done = {}
    for name, directory, flags in jobs:
        file = name.replace(",", "").replace(" ", "-")
        path = run.out / f"model-{file}.json"
        run.checked(run.bin / "sluice", "bench", "model", directory, DUMMY, *run.device, *flags,
                    "--json", path, log=f"model-{file}.log")
        done[name] = json.loads(path.read_text())
        for line in done[name]["lines"]:
            tokens = line.get("prompt_tokens") or line.get("context_tokens")
            run.say(f"  {name} {line['phase']:<8}{line['sequences']:>4} x {tokens:<6}"
                    f"{line['tokens_per_second']:>12.0f} tok/s {line['share_of_floor']:>5.0%} of the floor"
                    + (f", idle {line['idle_share']:.1%}" if "idle_share" in line else ""))
    ways = [line.split()[-1] for file in plans.glob("*") for line in file.read_text().splitlines()
            if line.startswith("way ")]
    done["ways"] = {"tried": len(ways), "not_the_first": sum(way != "0" for way in ways)}
    run.say(f"  of {len(ways)} products tried the library's first choice is not the fastest of "
            f"{done['ways']['not_the_first']}")
    return done


def serving(run: Run) -> dict:
    """The daemon under a closed loop of clients; the largest model with weights and cache in fp8, too."""
    loads = ([(4, 2, 12, 4)] if run.options.emulated
             else [(1024, 256, 128, 128), (384, 192, 1000, 1000), (384, 128, 2048, 128)])
    kinds = [(preset, run.model(preset), []) for preset in sizes(run)]
    if has_fp8(run):
        kinds += [(f"{sizes(run)[-1]}, fp8", run.model(sizes(run)[-1], "fp8"), ["--cache.dtype=fp8"])]
    flags = (["--scheduler.max_seqs=4", "--scheduler.max_step_tokens=32", "--cache.bytes=2MiB"]
             if run.options.emulated
             else ["--scheduler.max_seqs=256", "--scheduler.max_step_tokens=8192"])
    done = {}
    for kind, directory, more in kinds:
        length = "--model.max_model_len=" + ("128" if run.options.emulated else "4096")
        log = f"serve-{kind.replace(', ', '-')}.log"
        with run.daemon(directory, DUMMY, *flags, length, *more, log=log) as url:
            for requests, clients, prompt, output in loads:
                name = f"{kind} {prompt}/{output}"
                path = run.out / "load.json"
                run.checked(run.bin / "sluice", "bench", "serve", "--url", url, "--num-requests", requests,
                            "--concurrency", clients, "--input-len", prompt, "--output-len", output,
                            "--json", path, log="load.log")
                done[name] = json.loads(path.read_text())
                path.unlink()
                if done[name]["failed"]:
                    raise Failed(f"{name}: {done[name]['failed']} requests failed")
                run.say(f"  {name:<24}{done[name]['output_tokens_per_second']:>10.0f} tok/s out, first token "
                        f"{done[name]['ttft_ms']['p50']:.0f} ms (median), {clients} clients")
        if captured := re.search(r"captured \d+ steps: .*", (run.out / log).read_text()):
            run.say(f"  {kind}: {captured[0]}")
    return done


def peers(run: Run) -> dict:
    """PyTorch's kernels and transformers' engine and logits, on the same models, in the same run."""
    if run.options.emulated:
        raise Skipped("nothing to compare with on an emulator")
    if subprocess.run([sys.executable, "-c", "import torch, transformers"], capture_output=True).returncode:
        raise Skipped("no torch and transformers here")
    answers = run.out / "greedy.json"
    text = run.checked(sys.executable, HERE / "peers.py", "--model", run.model("llama-3.2-1b"), "--demo", DEMO,
                       *(["--greedy", answers] if answers.exists() else []), log="peers.log", timeout=240,
                       env={"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")})
    done = json.loads(text.strip().splitlines()[-1])
    for name, value in done.items():
        run.say(f"  {name:<44} {value}")
    if done.get("greedy_against_transformers", "").startswith("FAILED"):
        raise Failed(done["greedy_against_transformers"])
    return done


# What is aimed at on one H200: seconds at most, of everything else at least.
AIMS = [("8B bf16, decode 1 x 512", "model", "llama-3.1-8b", "decode 1 512", "seconds", 4.4e-3),
        ("8B bf16, decode 32 x 512", "model", "llama-3.1-8b", "decode 32 512", "seconds", 5.0e-3),
        ("8B bf16, decode 128 x 2048", "model", "llama-3.1-8b", "decode 128 2048", "seconds", 14.0e-3),
        ("8B bf16, prefill of 2048, tok/s", "model", "llama-3.1-8b", "prefill 1 2048", "tokens_per_second", 41e3),
        ("8B fp8, 1000/1000, tok/s", "serving", "llama-3.1-8b, fp8 1000/1000", "", "output_tokens_per_second", 17.8e3),
        ("decode attention 32 x 8192, of memory", "ops", "8b", "decode attention 32 x 8192", "share_of_limit", 0.85)]


def reached(results: dict) -> list[tuple]:
    """(what, the aim, what was measured, its share of the aim), as far as the phases before have it."""
    rows = []
    for what, phase, of, line, key, aim in AIMS:
        found = results.get(phase, {}).get("data", {}).get(of)
        if found and line:
            found = next((x for x in found["lines"] if line == (x.get("op") or " ".join(map(str, (
                x["phase"], x["sequences"], x.get("prompt_tokens") or x.get("context_tokens")))))), None)
        if found:
            value = found[key]
            rows.append((what, aim, value, aim / value if key == "seconds" else value / aim))
    return rows


def aims(run: Run) -> dict:
    """Says how near what was measured comes to what is aimed at; what falls short is no failure."""
    if "H200" not in run.results.get("probe", {}).get("data", {}).get("text", ""):
        raise Skipped("they are of an H200")
    rows = reached(run.results)
    for what, aim, value, share in rows:
        run.say(f"  {what:<40}{value:>12.5g}, aim {aim:<8.5g}{share:>6.0%}")
    return {what: {"aim": aim, "measured": value, "share": share} for what, aim, value, share in rows}


PHASES = [probe, kernels, engine, greedy, ops, model, serving, aims, peers, sanitizer]


def main() -> int:
    names = [phase.__name__ for phase in PHASES]
    parser = argparse.ArgumentParser(prog="run.sh")
    parser.add_argument("--bin", default=str(ROOT / "build/release/bin"))
    parser.add_argument("--out", default=str(ROOT / "build/gpu-run"))
    parser.add_argument("--phases", default=",".join(names), help="of " + ", ".join(names))
    parser.add_argument("--budget", type=float, default=570, help="seconds; what does not fit is left out")
    parser.add_argument("--emulated", action="store_true")
    options = parser.parse_args()
    wanted = options.phases.split(",")
    if unknown := set(wanted) - set(names):
        parser.error(f"--phases: {', '.join(sorted(unknown))}, expected of {', '.join(names)}")
    run = Run(options)
    if not (run.bin / "sluice").exists():
        parser.error(f"--bin: no sluice in {run.bin}")
    for phase in PHASES:
        name = phase.__name__
        if name not in wanted:
            continue
        begin, result = time.monotonic(), {}
        print(f"== {name} ({run.left():.0f} s left)", file=sys.stderr, flush=True)
        mark = len(run.lines)
        try:
            if run.left() < 5:
                raise Skipped("no time left")
            result = {"status": "passed", "data": phase(run)}
        except Skipped as e:
            result = {"status": "skipped", "why": str(e)}
        except (Failed, OSError, KeyError, ValueError) as e:
            result = {"status": "FAILED", "why": str(e) or type(e).__name__}
        result["seconds"] = round(time.monotonic() - begin, 1)
        run.results[name] = result
        run.lines.insert(mark, f"{name:<10} {result['status']} in {result['seconds']} s"
                               + (f": {result['why']}" if "why" in result else ""))
        (run.out / "run.json").write_text(json.dumps(run.results, indent=1))
    run.pack_logs()
    print("\n".join(run.lines))
    states = [r["status"] for r in run.results.values()]
    if run.results.get("probe", {}).get("why") == "no usable GPU":
        return NO_GPU
    return 1 if "FAILED" in states else 0


if __name__ == "__main__":
    sys.exit(main())
