"""HAProxy, NGINX and Envoy with the configurations of deploy/balancers, before replicas on loopback; and load."""

import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import grpc
import httpx
import openai

from conftest import ROOT, Daemon, GrpcClient, clean_environment, pb

CONFIGS = ROOT / "deploy/balancers"


def binary(name):
    """Debian's, or of the packages of tests/requirements.txt."""
    return shutil.which(name, path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}:/usr/sbin")


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def replace(text, **changes):
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


class Replica:
    """A daemon that comes back on its ports. Its drain's delay lasts until a second SIGTERM."""

    def __init__(self, model):
        self.model = model
        self.ports = free_ports(2)
        self.daemon = None
        self.start()

    def start(self):
        self.daemon = Daemon(self.model, "--served-name=nano", "--server.drain_delay_seconds=3600",
                             "--server.drain_seconds=60", ports=self.ports)

    def finished(self):
        return self.daemon.metric("sluice_requests_finished_total")

    def served(self, stream):
        """Whether that request came here."""
        path = f"/v1/requests/{stream.id}/trace"
        return httpx.get(f"{self.daemon.url}{path}").status_code == 200

    def runs(self):
        """Ids of live requests, as in their responses' own."""
        data = httpx.get(f"{self.daemon.url}/v1/requests").json()["data"]
        return {request["id"].split("-")[-1] for request in data}


class Balancer:
    def __init__(self, name, command, directory, env=None):
        self.name = name
        self.sees_down = None  # by its health checks: a function of a replica's index
        self.log_path = directory / f"{name}.log"
        self.process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL,
                                        stdout=open(self.log_path, "wb"), stderr=subprocess.STDOUT,
                                        env={**clean_environment(), **(env or {})})

    def wait(self, http, grpc):
        self.http, self.grpc = http, grpc
        self.url = f"http://127.0.0.1:{http}"
        client = GrpcClient(grpc)
        deadline = time.monotonic() + 30
        while True:
            assert self.process.poll() is None, self.log_path.read_text()
            try:
                if httpx.get(f"{self.url}/health/ready").status_code == 200 and client.health() == 1:
                    break
            except Exception:
                assert time.monotonic() < deadline, self.log_path.read_text()
            time.sleep(0.05)
        client.channel.close()
        return self

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


def start_haproxy(directory, a, b):
    http, grpc = free_ports(2)
    config = directory / "haproxy.cfg"
    config.write_text(replace((CONFIGS / "haproxy.cfg").read_text(), **{"inter 1s": "inter 200ms"}))
    local = "127.0.0.1:{}".format
    env = {"SLUICE_BIND_HTTP": local(http), "SLUICE_BIND_GRPC": local(grpc),
           "SLUICE_A_HTTP": local(a[0]), "SLUICE_A_GRPC": local(a[1]),
           "SLUICE_B_HTTP": local(b[0]), "SLUICE_B_GRPC": local(b[1])}
    balancer = Balancer("haproxy", [binary("haproxy"), "-db", "-f", config], directory, env)

    def sees_down(index):
        states = {}
        for kind, server, state in re.findall(r"Server sluice_(\w+)/(\w) is (UP|DOWN)",
                                              balancer.log_path.read_text()):
            states[kind, server] = state
        return all(states.get((kind, "ab"[index])) == "DOWN" for kind in ["http", "grpc"])

    balancer.sees_down = sees_down
    return balancer.wait(http, grpc)


NGINX = """daemon off;
{user}pid pid;
error_log stderr notice;
events {{}}
http {{
    access_log off;
    {temporary}
    include sluice.conf;
}}
"""


def start_nginx(directory, a, b):
    http, grpc = free_ports(2)
    (directory / "sluice.conf").write_text(replace(
        (CONFIGS / "nginx.conf").read_text(),
        **{"listen 8080": f"listen 127.0.0.1:{http}", "listen 8081": f"listen 127.0.0.1:{grpc}",
           "127.0.0.1:8000": f"127.0.0.1:{a[0]}", "127.0.0.1:8001": f"127.0.0.1:{a[1]}",
           "127.0.0.1:8010": f"127.0.0.1:{b[0]}", "127.0.0.1:8011": f"127.0.0.1:{b[1]}"}))
    temporary = " ".join(f"{what}_temp_path {what};" for what in
                         ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    (directory / "nginx.conf").write_text(NGINX.format(
        user="user root;\n" if os.getuid() == 0 else "", temporary=temporary))
    command = [binary("nginx"), "-p", directory, "-e", "stderr", "-c", directory / "nginx.conf"]
    return Balancer("nginx", command, directory).wait(http, grpc)


def start_envoy(directory, a, b):
    http, grpc, admin = free_ports(3)
    ports = {8080: http, 8081: grpc, 8000: a[0], 8001: a[1], 8010: b[0], 8011: b[1]}
    text = replace((CONFIGS / "envoy.yaml").read_text(),
                   **{"address: 0.0.0.0": "address: 127.0.0.1", "interval: 1s": "interval: 0.2s"})
    config = directory / "envoy.yaml"
    config.write_text(
        replace(text, **{f"port_value: {old} ": f"port_value: {new} " for old, new in ports.items()})
        + f"admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}\n")
    command = [binary("envoy"), "-c", config, "--use-dynamic-base-id", "--concurrency", "2",
               "--log-level", "warning"]
    balancer = Balancer("envoy", command, directory)

    def sees_down(index):
        clusters = httpx.get(f"http://127.0.0.1:{admin}/clusters?format=json").json()["cluster_statuses"]
        states = {host["address"]["socket_address"]["port_value"]:
                  host["health_status"].get("failed_active_health_check", False)
                  for cluster in clusters for host in cluster["host_statuses"]}
        return all(states[port] for port in [a, b][index])

    balancer.sees_down = sees_down
    return balancer.wait(http, grpc)


class Failure(Exception):
    pass


class Stream:
    """One request through a balancer, on a thread. Knows its id from the first token on."""

    def __init__(self, kind, balancer, max_tokens, retries=2, stream=True, key=None, n=1):
        self.kind, self.balancer, self.n = kind, balancer, n
        self.max_tokens, self.retries, self.stream, self.key = max_tokens, retries, stream, key
        self.id = self.error = None
        self.begun = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            (self._http if self.kind == "http" else self._grpc)()
        except Exception as e:
            self.error = e
        self.begun.set()

    def _http(self):
        headers = {"x-affinity-key": self.key} if self.key else {}
        with openai.OpenAI(base_url=f"{self.balancer.url}/v1", api_key="none", timeout=120,
                           max_retries=self.retries, default_headers=headers) as client:
            answer = client.completions.create(
                model="nano", prompt="The fox", max_tokens=self.max_tokens, n=self.n,
                stream=self.stream, extra_body={"ignore_eos": True})
            ends = []
            for chunk in answer if self.stream else [answer]:
                self._begin(chunk.id)
                ends += [c.finish_reason for c in chunk.choices if c.finish_reason]
            if ends != ["length"] * self.n:
                raise Failure(f"ended with {ends}")

    def _grpc(self):
        client = GrpcClient(self.balancer.grpc)
        try:
            request = pb.GenerateRequest(prompt="The fox", stream=self.stream, sampling=pb.SamplingParams(
                max_tokens=self.max_tokens, n=self.n, ignore_eos=True))
            metadata = [("x-affinity-key", self.key)] if self.key else []
            for message in self._repeat(lambda: client.generate(request, timeout=120, metadata=metadata)):
                self._begin(message.id)
            if message.usage.completion_tokens != self.max_tokens * self.n:
                raise Failure(f"ended after {message.usage.completion_tokens} tokens")
        finally:
            client.channel.close()

    def _repeat(self, call):
        """As openai-python does what is refused before it began: gRPC's own retries may come at once."""
        for attempt in range(self.retries + 1):
            try:
                yield from call()
                return
            except grpc.RpcError as e:
                if e.code() != grpc.StatusCode.UNAVAILABLE or self.begun.is_set() or attempt == self.retries:
                    raise
            time.sleep(0.5 * 2 ** attempt * (1 - 0.25 * random.random()))

    def _begin(self, id):
        self.id = id.split("-")[-1]
        self.begun.set()

    def join(self):
        self.thread.join(180)
        assert not self.thread.is_alive()
        return self


class Load:
    """Clients through every door, each one request after another, until the end of the block."""

    def __init__(self, balancers, retries=2, max_tokens=12):
        self.over = threading.Event()
        self.done, self.failures = {}, []
        self.threads = [threading.Thread(target=self._run, args=(kind, b, retries, max_tokens, stream))
                        for b in balancers for kind in ["http", "grpc"] for stream in [True, False]]

    def _run(self, kind, balancer, retries, max_tokens, stream):
        door = (balancer.name, kind)
        while not self.over.is_set():
            request = Stream(kind, balancer, max_tokens, retries, stream).join()
            if request.error:
                self.failures.append((door, stream, repr(request.error)))
            self.done[door] = self.done.get(door, 0) + 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def go_on(self, daemon, count=3):
        """Until so many more requests went through each door."""
        before = dict(self.done)
        doors = len(self.threads) // 2
        daemon.wait_for(lambda: len(self.done) == doors and all(
            n - before.get(door, 0) >= count for door, n in self.done.items()), timeout=60)
