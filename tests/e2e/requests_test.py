"""How requests are scheduled, looked at and ended from outside, over both protocols."""

import json
import threading

import grpc
import pytest

from conftest import pb

SLOW = {"prompt": "The fox", "ignore_eos": True, "temperature": 0}
# Seconds of work for the nano model on any machine, so that a test can look on.
VERY_SLOW = {**SLOW, "max_tokens": 4000, "n": 16}
SAMPLES = {"prompt": "Once upon a time", "temperature": 1.3, "seed": 5, "max_tokens": 12}


def over_grpc(daemon, stream=False, **fields):
    sampling = {k: fields.pop(k) for k in list(fields)
                if k in pb.SamplingParams.DESCRIPTOR.fields_by_name}
    request = pb.GenerateRequest(sampling=pb.SamplingParams(**sampling), stream=stream, **fields)
    return list(daemon.grpc.generate(request, timeout=60))


def test_best_of_returns_the_likeliest(demo):
    body = {**SAMPLES, "logprobs": 0}
    every = demo.post("/v1/completions", {**body, "n": 6}).json()
    best = demo.post("/v1/completions", {**body, "n": 2, "best_of": 6}).json()

    def mean(choice):
        logprobs = choice["logprobs"]["token_logprobs"]
        return sum(logprobs) / len(logprobs)

    ranked = sorted(every["choices"], key=mean, reverse=True)
    assert [c["text"] for c in best["choices"]] == [c["text"] for c in ranked[:2]]
    assert [c["index"] for c in best["choices"]] == [0, 1]
    assert best["usage"]["completion_tokens"] == every["usage"]["completion_tokens"]

    pieces = over_grpc(demo, **SAMPLES, n=2, best_of=6)
    assert [p.piece.text for p in pieces[:-1]] == [c["text"] for c in best["choices"]]
    assert pieces[-1].usage.completion_tokens == best["usage"]["completion_tokens"]


ERRORS = {
    "priority": {"priority": 1001}, "timeout_ms": {"timeout_ms": 0}, "ttft_ms": {"ttft_ms": -1},
    "tpot_ms": {"tpot_ms": 1e9}, "session_id": {"session_id": "x" * 257},
    "best_of": {"best_of": 1, "n": 2},
}


@pytest.mark.parametrize("field", ERRORS)
def test_errors_name_the_field_over_both_protocols(demo, field):
    response = demo.post("/v1/completions", {"prompt": "x", **ERRORS[field]})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == field
    with pytest.raises(grpc.RpcError) as raised:
        over_grpc(demo, prompt="x", **ERRORS[field])
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error["message"] in raised.value.details()


def test_scheduling_fields_change_no_text(demo):
    fields = {"prompt": "The fox", "temperature": 0, "max_tokens": 8}
    plain = demo.post("/v1/completions", fields).json()["choices"][0]["text"]
    wishes = {"priority": -5, "timeout_ms": 60000, "ttft_ms": 60000, "tpot_ms": 1000,
              "session_id": "s", "cache_salt": "t"}
    assert demo.post("/v1/completions", {**fields, **wishes}).json()["choices"][0]["text"] == plain
    assert over_grpc(demo, **fields, **wishes)[0].piece.text == plain


def test_a_timeout_frees_the_request(start, nano_model):
    daemon = start(nano_model)
    response = daemon.post("/v1/completions", {**VERY_SLOW, "timeout_ms": 50})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    with pytest.raises(grpc.RpcError) as raised:
        over_grpc(daemon, **VERY_SLOW, timeout_ms=50)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    daemon.wait_for(daemon.idle)
    assert daemon.metric("sluice_requests_finished_total", finished_reason="deadline") == 2


def test_what_the_cache_can_never_hold_is_a_400(start, nano_model):
    daemon = start(nano_model, "--cache.bytes=1MiB")
    request = {"prompt": "x", "n": 16, "max_tokens": 400}
    response = daemon.post("/v1/completions", request)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "n = 16" in message and "cache blocks" in message
    with pytest.raises(grpc.RpcError) as raised:
        over_grpc(daemon, **request)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in raised.value.details()
    assert daemon.metric("sluice_requests_finished_total", finished_reason="refused") == 2


def test_delete_ends_a_stream_and_frees_it(start, nano_model):
    daemon = start(nano_model)
    events = daemon.stream("/v1/completions", {**VERY_SLOW, "request_id": "mine"})
    id = json.loads(next(events))["id"]
    assert id == "cmpl-mine"
    response = daemon.http.delete(f"/v1/requests/{id}")
    assert response.status_code == 200 and response.json() == {"id": id, "cancelled": True}
    last = [json.loads(event) for event in events][-1]
    assert last["error"]["code"] == "cancelled" and id in last["error"]["message"]
    daemon.wait_for(daemon.idle)
    daemon.wait_for(lambda: daemon.http.delete(f"/v1/requests/{id}").status_code == 404)
    assert daemon.metric("sluice_requests_finished_total", finished_reason="cancelled") == 1


def test_cancel_over_grpc_ends_either_protocols_calls(start, nano_model):
    daemon = start(nano_model)
    fields = dict(VERY_SLOW)
    sampling = pb.SamplingParams(**{k: fields[k] for k in ("ignore_eos", "max_tokens", "n")})
    call = daemon.grpc.generate(
        pb.GenerateRequest(prompt=fields["prompt"], sampling=sampling, request_id="rpc"))
    assert next(iter(call)).id == "cmpl-rpc"
    answer = daemon.grpc.cancel("rpc")
    assert answer.cancelled and answer.id == "rpc"
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    assert raised.value.code() == grpc.StatusCode.CANCELLED and "cmpl-rpc" in raised.value.details()

    bodies = []
    waiter = threading.Thread(target=lambda: bodies.append(
        daemon.post("/v1/completions", {**VERY_SLOW, "request_id": "http"})))
    waiter.start()

    def cancelled():
        try:
            return daemon.grpc.cancel("cmpl-http").cancelled
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND
            return False

    daemon.wait_for(cancelled)
    waiter.join()
    assert bodies[0].status_code == 499 and bodies[0].json()["error"]["code"] == "cancelled"
    daemon.wait_for(daemon.idle)


def test_unknown_requests_are_not_found(demo):
    assert demo.http.get("/v1/requests/nobody/trace").status_code == 404
    assert demo.http.delete("/v1/requests/nobody").status_code == 404
    for ask in (demo.grpc.trace, demo.grpc.cancel):
        with pytest.raises(grpc.RpcError) as raised:
            ask("nobody")
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    assert demo.http.get("/v1/requests").json()["object"] == "list"
    assert list(demo.grpc.requests()) == []


def test_every_documented_metric_is_served(demo):
    text = demo.http.get("/metrics").text
    for name in ("sluice_level_requests", "sluice_preemptions_by_cause_total",
                 "sluice_swapped_bytes_total", "sluice_requests_rejected_total",
                 "sluice_host_pool_blocks", "sluice_wasted_tokens_total", "sluice_livelocks_total",
                 "sluice_cost_model_error_ratio", "sluice_cost_model_seconds",
                 "sluice_since_last_step_seconds", "sluice_step_seconds_count",
                 "sluice_cancel_to_free_seconds_count", "sluice_tenant_requests",
                 "sluice_tenant_tokens_total"):
        assert f"\n{name}{{" in text, name


def test_a_wait_predicted_too_long_is_refused(start, nano_model):
    daemon = start(nano_model, "--scheduler.max_ttft_seconds=0.000001")
    refused = daemon.http.post("/v1/completions", content=b"not JSON: nobody reads it")
    assert refused.status_code == 503, refused.text
    assert refused.json()["error"]["code"] == "overloaded"
    assert "scheduler.max_ttft_seconds" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) >= 1
    for ask in (lambda: over_grpc(daemon, prompt="x"),
                lambda: list(daemon.grpc.chat(pb.ChatRequest(), timeout=60))):
        with pytest.raises(grpc.RpcError) as raised:
            ask()
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "retry-after-ms" in dict(raised.value.trailing_metadata())
    assert daemon.metric("sluice_requests_rejected_total", reason="predicted_ttft") == 3
    assert daemon.http.get("/v1/models").status_code == 200


def test_a_request_may_limit_its_own_wait(demo):
    body = {"prompt": "The fox", "max_tokens": 2}
    refused = demo.post("/v1/completions", {**body, "ttft_ms": 0.0001})
    assert refused.status_code == 503 and "ttft_ms" in refused.json()["error"]["message"]
    assert demo.post("/v1/completions", {**body, "ttft_ms": 60000}).status_code == 200
    with pytest.raises(grpc.RpcError) as raised:
        over_grpc(demo, **body, ttft_ms=0.0001)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_live_requests_are_listed_and_traced(start, nano_model):
    daemon = start(nano_model)
    events = daemon.stream("/v1/completions", {**VERY_SLOW, "request_id": "live", "priority": 7})
    next(events)
    listed = daemon.http.get("/v1/requests").json()["data"]
    assert [r["id"] for r in listed] == ["cmpl-live"]
    assert listed[0]["priority"] == 7 and listed[0]["samples"] == 16
    assert listed[0]["state"] == "running" and listed[0]["output_tokens"] > 0
    rpc = daemon.grpc.requests()
    assert [r.id for r in rpc] == ["cmpl-live"] and rpc[0].priority == 7
    trace = daemon.http.get("/v1/requests/live/trace").json()["prompts"][0]
    assert [e["kind"] for e in trace["events"]][0] == "admitted" and trace["total_ms"] is None
    assert daemon.http.delete("/v1/requests/live").status_code == 200
    daemon.wait_for(daemon.idle)
    ended = daemon.grpc.trace("cmpl-live").prompts[0]
    assert ended.info.state == pb.REQUEST_STATE_ENDED and ended.HasField("total_ms")
    assert ended.events[-1].kind == "ended"
    assert daemon.http.get("/v1/requests").json()["data"] == []


@pytest.mark.parametrize("stop", [None, "e"])
def test_timing_is_given_to_who_asks(demo, stop):
    body = {"prompt": "Once upon a time there was", "temperature": 0, "max_tokens": 20,
            "stop": stop, "include_timing": True}
    whole = demo.post("/v1/completions", body).json()
    last = demo.chunks("/v1/completions", body)[-1]
    assert last["choices"] == [] and "usage" not in last
    sampling = pb.SamplingParams(temperature=0, max_tokens=20, stop=[stop] if stop else [])
    rpc = list(demo.grpc.generate(pb.GenerateRequest(
        prompt=body["prompt"], sampling=sampling, include_timing=True), timeout=60))[-1].timing
    for timing in (whole["timing"], last["timing"]):
        assert set(timing) == {"queue_ms", "ttft_ms", "total_ms", "level", "chunks", "preemptions",
                               "swapped_blocks", "swap_ms", "cached_tokens", "host_cached_tokens"}
        assert 0 <= timing["queue_ms"] <= timing["ttft_ms"] <= timing["total_ms"]
        assert timing["chunks"] >= 1
    assert 0 <= rpc.queue_ms <= rpc.ttft_ms <= rpc.total_ms and rpc.chunks >= 1
    assert "timing" not in demo.post("/v1/completions", {**body, "include_timing": False}).json()
