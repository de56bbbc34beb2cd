"""Drives the real daemon. Every server listens on loopback, on ports it picks itself."""

import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import grpc
import httpx
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("SLUICE_BINARY_UNDER_TEST", ROOT / "build/release/bin/sluice"))
DEMO = ROOT / "deploy/demo-model"


def _generated_protobuf():
    out = pathlib.Path(tempfile.mkdtemp(prefix="sluice-proto-"))
    subprocess.run(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}",
                    "sluice/v1/inference.proto"], check=True)
    sys.path.insert(0, str(out))
    from sluice.v1 import inference_pb2
    return inference_pb2


pb = _generated_protobuf()


def clean_environment():
    return {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}


def run_cli(*arguments, timeout=60, env=None):
    return subprocess.run([str(BINARY), *map(str, arguments)], capture_output=True, text=True,
                          timeout=timeout, env={**clean_environment(), **(env or {})})


class GrpcClient:
    """The service without generated stubs: protoc's Python plugin for gRPC is not in the distribution."""

    def __init__(self, port):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def _unary(self, name, response_type):
        return self.channel.unary_unary(
            f"/sluice.v1.Inference/{name}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=response_type.FromString)

    def _stream(self, name, response_type):
        return self.channel.unary_stream(
            f"/sluice.v1.Inference/{name}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=response_type.FromString)

    def generate(self, request, **kwargs):
        return self._stream("Generate", pb.GenerateResponse)(request, **kwargs)

    def chat(self, request, **kwargs):
        return self._stream("Chat", pb.ChatResponse)(request, **kwargs)

    def models(self):
        return self._unary("ListModels", pb.ListModelsResponse)(pb.ListModelsRequest(), timeout=10)

    def requests(self):
        return self._unary("ListRequests", pb.ListRequestsResponse)(pb.ListRequestsRequest(),
                                                                    timeout=30).requests

    def trace(self, id):
        return self._unary("GetRequestTrace", pb.GetRequestTraceResponse)(
            pb.GetRequestTraceRequest(id=id), timeout=30)

    def cancel(self, id):
        return self._unary("CancelRequest", pb.CancelRequestResponse)(
            pb.CancelRequestRequest(id=id), timeout=30)

    def tokenize(self, request):
        return self._unary("Tokenize", pb.TokenizeResponse)(request, timeout=10)

    def detokenize(self, request):
        return self._unary("Detokenize", pb.DetokenizeResponse)(request, timeout=10)

    def health(self, service=""):
        """grpc.health.v1 by hand: one string field in, one enumeration out. 1: SERVING."""
        name = service.encode()
        message = (b"\x0a" + bytes([len(name)]) + name) if name else b""
        call = self.channel.unary_unary("/grpc.health.v1.Health/Check",
                                        request_serializer=lambda m: m,
                                        response_deserializer=lambda m: m)
        reply = call(message, timeout=10)
        return reply[1] if reply else 0


def listen(port=0):
    """A socket as a service manager would hand it over."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    made.listen(1000)
    return made


class Daemon:
    """`ports`: HTTP and gRPC, 0 for any. `sockets`: by name, handed over as systemd does."""

    def __init__(self, model, *flags, env=None, ports=(0, 0), sockets=None):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="sluice-e2e-"))
        ports_file = self.directory / "ports"
        self.log_path = self.directory / "log"
        command = [str(BINARY), "serve", str(model), f"--port={ports[0]}", f"--grpc-port={ports[1]}",
                   f"--ports-file={ports_file}", *map(str, flags)]
        env = {**clean_environment(), **(env or {})}
        handed = [fcntl.fcntl(s, fcntl.F_DUPFD, 100) for s in (sockets or {}).values()]
        if handed:  # descriptors from 3 on, and the process they are meant for
            moves = " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(handed))
            command = ["bash", "-c", f'exec {moves}; LISTEN_PID=$$ exec "$@"', "bash", *command]
            env.update(LISTEN_FDS=str(len(handed)), LISTEN_FDNAMES=":".join(sockets))
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, pass_fds=handed,
                                        stderr=open(self.log_path, "wb"), env=env)
        for fd in handed:
            os.close(fd)
        deadline = time.monotonic() + 120
        while not ports_file.exists() or not ports_file.read_text().strip():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"the daemon did not start:\n{self.log()}")
            time.sleep(0.02)
        self.http_port, self.grpc_port = map(int, ports_file.read_text().split())
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.grpc = GrpcClient(self.grpc_port)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def post(self, path, body=None, **kwargs):
        return self.http.post(path, json=body, **kwargs)

    def stream(self, path, body):
        """The `data:` payloads of a streamed answer."""
        with self.http.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield line[len("data: "):]

    def chunks(self, path, body):
        events = list(self.stream(path, body))
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]

    def metric(self, name, **labels):
        total = 0.0
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith("#") or not line.split("{")[0].split(" ")[0] == name:
                continue
            if all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def wait_for(self, condition, timeout=20):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "waited too long\n" + self.log()[-3000:]
            time.sleep(0.02)

    def idle(self):
        return (self.metric("sluice_requests_running") == 0
                and self.metric("sluice_requests_waiting") == 0
                and self.metric("sluice_kv_cache_usage_ratio") == 0)

    def socket(self):
        return socket.create_connection(("127.0.0.1", self.http_port), timeout=30)

    def rss_kib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError("no VmRSS")

    def stop(self, sig=signal.SIGTERM, timeout=60):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@pytest.fixture(scope="session")
def demo():
    """The demo model, shared by all tests that leave it as they found it."""
    daemon = Daemon(DEMO)
    yield daemon
    assert daemon.process.poll() is None, "the daemon died:\n" + daemon.log()
    assert daemon.stop() == 0, daemon.log()


@pytest.fixture(scope="session")
def nano_model(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "nano"
    made = run_cli("make-model", "--preset", "nano", "--seed", 1, "--out", out)
    assert made.returncode == 0, made.stderr
    return out


@pytest.fixture
def start():
    """Starts further daemons; ends what the test left running."""
    running = []

    def run(model, *flags, **kwargs):
        running.append(Daemon(model, *flags, **kwargs))
        return running[-1]

    yield run
    for daemon in running:
        if daemon.process.poll() is None:
            daemon.stop(signal.SIGKILL)
