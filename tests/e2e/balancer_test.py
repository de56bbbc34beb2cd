"""Two replicas behind HAProxy and NGINX of Debian and Envoy at once, as deploy/balancers configures them.

tests/e2e/balancers_long.sh restarts the replicas for longer.
"""

import os
import signal

import grpc
import httpx
import openai
import pytest

from balancers import Load, Replica, Stream, binary, start_envoy, start_haproxy, start_nginx

ROUNDS = int(os.environ.get("SLUICE_TEST_ROLLING_ROUNDS", "1"))
# What a call ends with that lost its replica: HAProxy's answer, NGINX's, gRPC's own and Envoy's.
RETRYABLE = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}
DOORS = [(name, kind) for name in ["haproxy", "nginx", "envoy"] for kind in ["http", "grpc"]]

pytestmark = pytest.mark.skipif(
    not all(binary(name) for name in ["haproxy", "nginx", "envoy"]),
    reason="haproxy, nginx or envoy is not installed (tests/packages.txt, tests/requirements.txt)")


class Stage:
    def __init__(self, replicas, balancers):
        self.replicas, self.balancers = replicas, balancers

    def await_rotation(self, replica):
        """Until work comes to it through every door: NGINX stays away from what failed for a while."""
        for name, kind in DOORS:
            replica.daemon.wait_for(
                lambda: replica.served(Stream(kind, self.balancers[name], 1).join()))

    def drain(self, replica):
        """With a delay that lasts until all who ask have noticed, however slow the machine is."""
        index = self.replicas.index(replica)
        replica.daemon.process.send_signal(signal.SIGTERM)
        for balancer in self.balancers.values():
            if balancer.sees_down:
                replica.daemon.wait_for(lambda: balancer.sees_down(index))
        assert replica.daemon.stop() == 0, replica.daemon.log()

    def streams(self):
        """That last for seconds, two through every door."""
        made = [Stream(kind, self.balancers[name], 4000, n=4) for name, kind in DOORS * 2]
        for stream in made:
            stream.begun.wait(60)
        return made


@pytest.fixture(scope="module")
def stage(nano_model, tmp_path_factory):
    replicas, balancers = [], {}
    try:
        replicas = [Replica(nano_model), Replica(nano_model)]
        ports = [r.ports for r in replicas]
        for start in [start_haproxy, start_nginx, start_envoy]:
            balancer = start(tmp_path_factory.mktemp("balancer"), *ports)
            balancers[balancer.name] = balancer
        yield Stage(replicas, balancers)
    finally:
        for balancer in balancers.values():
            balancer.stop()
        for replica in replicas:
            replica.daemon.stop(signal.SIGKILL)


@pytest.mark.parametrize("name,kind", DOORS)
def test_work_is_shared_and_a_key_keeps_it_together(stage, name, kind):
    balancer = stage.balancers[name]

    def shares(keys):
        before = [r.finished() for r in stage.replicas]
        requests = [Stream(kind, balancer, 2, key=key).join() for key in keys]
        assert not [r.error for r in requests if r.error]
        return sorted(r.finished() - b for r, b in zip(stage.replicas, before))

    assert shares([None] * 24)[0] > 0  # by chance, where neither is busy
    assert shares(["a conversation"] * 6) == [0, 6]
    assert shares([f"conversation {i}" for i in range(24)])[0] > 0


def test_a_replica_that_drains_loses_nothing(stage):
    """Clients of HAProxy and Envoy, which ask replicas how they are, try everything once."""
    first, _ = stage.replicas
    streams = stage.streams()
    assert first.runs() and not [s.error for s in streams if s.error]
    asking = [b for b in stage.balancers.values() if b.sees_down]
    with Load(asking, retries=0) as strict, Load([stage.balancers["nginx"]]) as patient:
        strict.go_on(first.daemon)
        stage.drain(first)
        strict.go_on(stage.replicas[1].daemon)
        patient.go_on(stage.replicas[1].daemon)
    assert not strict.failures + patient.failures
    assert not [s.error for s in streams if s.join().error]
    first.start()


def test_a_replica_that_is_killed_takes_its_own_streams_only(stage):
    first, second = stage.replicas
    stage.await_rotation(first)
    streams = stage.streams()
    lost, kept = first.runs(), second.runs()
    assert {s.id for s in streams} <= lost | kept
    first.daemon.process.send_signal(signal.SIGKILL)
    with Load(stage.balancers.values()) as load:
        load.go_on(second.daemon)
    assert not load.failures
    for stream in streams:
        stream.join()
        if stream.id in kept:
            assert stream.error is None, repr(stream.error)
        elif stream.kind == "http":
            assert isinstance(stream.error, (openai.APIConnectionError, httpx.TransportError)), \
                repr(stream.error)
        else:
            assert stream.error.code() in RETRYABLE, repr(stream.error)
    assert {s.id for s in streams} & lost and {s.id for s in streams} & kept
    first.daemon.process.wait()
    first.start()


def test_a_rolling_restart_is_noticed_by_nobody(stage):
    stage.await_rotation(stage.replicas[0])
    with Load(stage.balancers.values()) as load:
        for _ in range(ROUNDS):
            for replica, other in [stage.replicas, stage.replicas[::-1]]:
                load.go_on(other.daemon)
                stage.drain(replica)
                load.go_on(other.daemon)
                replica.start()
                stage.await_rotation(replica)
        print(f"{sum(load.done.values())} requests, {len(load.failures)} failed")
    assert not load.failures, load.failures[:5]
