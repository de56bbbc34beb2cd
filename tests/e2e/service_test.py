"""The daemon under a service manager: what it is told, what it is handed, what it ends with."""

import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import httpx
import pytest

from conftest import BINARY, DEMO, GrpcClient, clean_environment, listen, pb

ONE = {"prompt": "The fox", "max_tokens": 2, "temperature": 0}


class Manager:
    """The end of NOTIFY_SOCKET that systemd holds."""

    def __init__(self, directory):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = str(directory / "notify")
        self.socket.bind(self.path)
        self.socket.settimeout(60)
        self.environment = {"NOTIFY_SOCKET": self.path}

    def next(self):
        return self.socket.recv(4096).decode()

    def until(self, wanted):
        """Everything up to the message that begins so."""
        heard = []
        while not heard or not heard[-1].startswith(wanted):
            heard.append(self.next())
        return heard

    def waiting(self):
        self.socket.setblocking(False)
        heard = []
        try:
            while True:
                heard.append(self.next())
        except BlockingIOError:
            pass
        self.socket.settimeout(60)
        return heard


def test_a_service_manager_is_told_what_happens(start, tmp_path):
    manager = Manager(tmp_path)
    daemon = start(DEMO, env={**manager.environment, "WATCHDOG_USEC": "200000"})
    loading = manager.until("READY=1")
    assert loading[0].startswith("STATUS=loading") and not any("WATCHDOG" in m for m in loading)
    for _ in range(3):
        manager.until("WATCHDOG=1")
    daemon.process.send_signal(signal.SIGHUP)
    reloading = manager.until("RELOADING=1")[-1]
    assert int(reloading.split("MONOTONIC_USEC=")[1]) > 0
    manager.until("READY=1")
    assert daemon.stop() == 0
    last = manager.until("STOPPING=1")[-1]
    assert int(last.split("EXTEND_TIMEOUT_USEC=")[1]) >= 30_000_000


@contextlib.contextmanager
def frozen(process, thread):
    """One thread of a child stands still, as a debugger would have it."""
    tasks = pathlib.Path(f"/proc/{process.pid}/task")
    tid = next(int(t.name) for t in tasks.iterdir() if (t / "comm").read_text().strip() == thread)
    libc = ctypes.CDLL(None, use_errno=True)

    def ptrace(request):
        result = libc.ptrace(request, tid, None, None)
        assert result == 0, os.strerror(ctypes.get_errno())

    ptrace(0x4206)  # PTRACE_SEIZE
    ptrace(0x4207)  # PTRACE_INTERRUPT
    os.waitpid(tid, 0x40000000)  # __WALL
    try:
        yield
    finally:
        ptrace(17)  # PTRACE_DETACH


def test_the_watchdog_starves_while_the_engine_stalls(start, nano_model, tmp_path):
    manager = Manager(tmp_path)
    daemon = start(nano_model, "--server.stall_seconds=1",
                   env={**manager.environment, "WATCHDOG_USEC": "200000"})

    def alive():
        return httpx.get(f"{daemon.url}/health/live").status_code == 200

    endless = {"prompt": "x", "max_tokens": 4000, "n": 16, "ignore_eos": True, "request_id": "endless"}
    thread = threading.Thread(target=daemon.post, args=("/v1/completions", endless))
    thread.start()
    daemon.wait_for(lambda: httpx.get(f"{daemon.url}/load").json()["server_load"] > 0)
    with frozen(daemon.process, "engine"):
        daemon.wait_for(lambda: not alive())
        manager.waiting()
        time.sleep(0.5)  # several times what it is fed by
        assert not [m for m in manager.waiting() if "WATCHDOG" in m]
        assert httpx.get(f"{daemon.url}/health/ready").status_code == 503
    manager.until("WATCHDOG=1")
    daemon.wait_for(alive)
    daemon.http.delete("/v1/requests/endless")
    thread.join()


def test_an_engine_that_stops_at_rest_is_missed_too(start, nano_model):
    daemon = start(nano_model, "--server.stall_seconds=1")
    daemon.wait_for(daemon.idle)
    with frozen(daemon.process, "engine"):
        assert httpx.get(f"{daemon.url}/health/live").status_code == 200  # a rest is no stall
        daemon.wait_for(lambda: httpx.get(f"{daemon.url}/health/live").status_code != 200)
    daemon.wait_for(lambda: httpx.get(f"{daemon.url}/health/ready").status_code == 200)
    assert daemon.post("/v1/completions", ONE).status_code == 200


def test_a_watchdog_and_sockets_of_another_process_are_left_alone(start, tmp_path):
    manager = Manager(tmp_path)
    env = {**manager.environment, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1", "LISTEN_FDS": "2",
           "LISTEN_PID": "1", "LISTEN_FDNAMES": "a:b"}
    daemon = start(DEMO, env=env)
    manager.until("STATUS=serving")
    assert daemon.stop() == 0
    assert not any("WATCHDOG" in m for m in manager.waiting())


def test_what_is_handed_over_wrongly_is_refused_in_one_line(start):
    here = listen()
    with socket.socket() as deaf:
        for sockets, word in [({"web": here}, "LISTEN_FDNAMES"), ({"http": deaf}, "not a listening"),
                              ({"http": here, "": here}, "LISTEN_FDNAMES")]:
            with pytest.raises(RuntimeError, match=word):
                start(DEMO, "--log-level=error", sockets=sockets)


def complete(url):
    return httpx.post(f"{url}/v1/completions", json=ONE, timeout=60)


def generate(port):
    client = GrpcClient(port)
    try:
        request = pb.GenerateRequest(prompt="The fox", sampling=pb.SamplingParams(max_tokens=2))
        return list(client.generate(request, timeout=60))
    finally:
        client.channel.close()


def test_a_successor_takes_over_the_sockets_without_a_loss(start):
    """Clients that try everything once see nothing of it, over both protocols."""
    sockets = {"http": listen(), "grpc": listen()}
    first = start(DEMO, "--server.drain_delay_seconds=1", sockets=sockets)
    assert first.http_port == sockets["http"].getsockname()[1]
    over = threading.Event()
    done, failed = [0, 0], []

    def load(kind, call):
        while not over.is_set():
            try:
                call()
                done[kind] += 1
            except Exception as e:
                failed.append(repr(e))

    threads = [threading.Thread(target=load, args=args) for args in
               [(0, lambda: complete(first.url).raise_for_status()),
                (1, lambda: generate(first.grpc_port))]]
    for thread in threads:
        thread.start()
    try:
        first.wait_for(lambda: min(done) > 3)
        second = start(DEMO, sockets=sockets)
        assert first.stop() == 0
        before = list(done)
        first.wait_for(lambda: min(done[0] - before[0], done[1] - before[1]) > 3)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failed, failed[:3]
    assert second.metric("sluice_requests_finished_total", finished_reason="length") > 0
    # Who comes while nobody is there waits for the next one.
    assert second.stop() == 0
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(complete(first.url)))
    waiting.start()
    start(DEMO, sockets=sockets)
    waiting.join()
    assert answers[0].status_code == 200, answers[0].text


def test_sighup_changes_what_it_can_and_names_the_rest(start, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[log]\nlevel = "error"\n[server]\nmax_n = 4\nhttp_port = 1\n')
    daemon = start(DEMO, "--config", config, env={"SLUICE_SERVER_MAX_CONNECTIONS": "100"})

    def reload(text, answer):
        config.write_text(text)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(lambda: answer in daemon.log())

    def samples(n):
        return daemon.post("/v1/completions", {**ONE, "n": n}).status_code

    assert daemon.log() == "" and samples(4) == 200 and samples(5) == 400
    # The environment wins over the file, and the port was given as a flag: neither has changed.
    reload('[log]\nlevel = "info"\n[server]\nmax_n = 2\nhttp_port = 2\nio_threads = 3\n'
           'max_connections = 7\n', "server.io_threads: '2' -> '3' takes a restart")
    assert "server.max_n: '4' -> '2'" in daemon.log() and "log.level: 'error' -> 'info'" in daemon.log()
    assert "http_port" not in daemon.log() and "max_connections" not in daemon.log()
    daemon.wait_for(lambda: samples(3) == 400)
    assert samples(2) == 200
    for text, word in [("[server]\nmax_n = 0\n", "server.max_n"), ("[server", "line 1")]:
        reload(text, "SIGHUP: everything stays as it was")
        daemon.wait_for(lambda: word in daemon.log().splitlines()[-1])
        assert samples(2) == 200
    assert daemon.stop() == 0


def without_access(path):
    """A command for what root may not do either, where the tests run as root."""
    path.chmod(0)
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search",
            "--inh-caps=-dac_override,-dac_read_search"] if os.getuid() == 0 else []


def test_exit_codes_say_whether_starting_again_can_help(tmp_path):
    taken = listen()
    port = taken.getsockname()[1]
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "config.json").write_text("{}")
    for flags, code, words in [
            ([DEMO, f"--port={port}"], 1, ["server.http_port", str(port), "in use"]),
            ([DEMO, f"--grpc-port={port}"], 1, ["server.grpc_port", str(port), "in use"]),
            ([DEMO, "--host=no.such.host.invalid"], 78, ["server.host", "no.such.host.invalid"]),
            ([DEMO, "--host=192.0.2.1"], 1, ["server.http_port", "192.0.2.1"]),
            ([closed], 78, ["closed", "Permission denied"]),
            ([DEMO, "--cache.bytes=1000TiB"], 78, ["cache.bytes", "does not fit"]),
            ([DEMO, "--ports-file=/proc/sluice/ports"], 78, ["server.ports_file", "/proc/sluice"]),
            ([DEMO, "--record=/proc/sluice/record"], 78, ["server.record_file", "/proc/sluice"])]:
        prefix = without_access(closed) if closed in flags else []
        env = {**clean_environment(), "SLUICE_SERVER_HTTP_PORT": "0", "SLUICE_SERVER_GRPC_PORT": "0"}
        result = subprocess.run([*prefix, str(BINARY), "serve", "--log-level=error", *map(str, flags)],
                                capture_output=True, text=True, timeout=60, env=env)
        assert result.returncode == code, (flags, result.returncode, result.stderr)
        assert result.stderr.count("\n") == 1, result.stderr
        assert all(word in result.stderr for word in words), (words, result.stderr)
