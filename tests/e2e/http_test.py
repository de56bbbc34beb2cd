"""The HTTP contract as clients meet it: a real client library, framing, and everything hostile."""

import json
import socket
import struct
import time

import httpx
import openai
import pytest

CHAT = [{"role": "user", "content": "Tell me a short story about a fox."}]
LONG = {"prompt": "The fox", "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def client(demo):
    return openai.OpenAI(base_url=demo.url + "/v1", api_key="anything", max_retries=0, timeout=60)


def test_openai_client_chat(client):
    answer = client.chat.completions.create(model="demo-model", messages=CHAT, max_tokens=20,
                                            temperature=0)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_openai_client_streams(client):
    kwargs = dict(model="demo-model", messages=CHAT, max_tokens=20, temperature=0)
    whole = client.chat.completions.create(**kwargs).choices[0].message.content
    stream = client.chat.completions.create(**kwargs, stream=True,
                                            stream_options={"include_usage": True})
    chunks = list(stream)
    assert len(chunks) > 10, "tokens came in one lump"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices
    assert len({c.id for c in chunks}) == len({c.created for c in chunks}) == 1


def test_openai_client_completions_and_models(client):
    answer = client.completions.create(model="demo-model", prompt=["A", "B"], n=2, max_tokens=3,
                                       logprobs=2, seed=1)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert len(answer.choices[0].logprobs.tokens) == 3
    assert client.models.list().data[0].id == client.models.retrieve("demo-model").id


def test_openai_client_errors(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="demo-model", messages=CHAT, temperature=9)
    assert "temperature" in str(raised.value) and raised.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-oss", messages=CHAT)
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model="demo-model", prompt=[1] * 5000, max_tokens=5)
    assert raised.value.code == "context_length_exceeded"


def test_stream_framing(demo):
    body = {"messages": CHAT, "max_tokens": 5, "temperature": 0, "stream": True}
    response = demo.post("/v1/chat/completions", body)
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    events = response.text.split("\n\n")
    assert events[-1] == "" and events[-2] == "data: [DONE]"
    chunks = [json.loads(e.removeprefix("data: ")) for e in events[:-2]]
    assert all(e.startswith("data: {") and "\n" not in e for e in events[:-2])
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""} or \
        chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert all("usage" not in c and "error" not in c for c in chunks)


def test_headers(demo):
    response = demo.post("/v1/completions", {"prompt": "x", "max_tokens": 1, "frobnicate": 1,
                                             "zap": None},
                         headers={"X-Request-Id": "mine-123"})
    assert response.status_code == 200
    assert response.headers["x-request-id"] == "mine-123"
    assert set(response.headers["x-ignored-params"].replace(" ", "").split(",")) == {"frobnicate",
                                                                                     "zap"}
    assert "x-request-id" in demo.http.get("/v1/models").headers


@pytest.mark.parametrize("path, body, field", [
    ("/v1/chat/completions", {"messages": CHAT, "response_format": {"type": "json_object"}},
     "response_format"),
    ("/v1/chat/completions", {"messages": CHAT, "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
    ("/v1/completions", {"prompt": "x", "suffix": "y"}, "suffix"),
    ("/v1/completions", {"prompt": "x", "guided_regex": "a+"}, "guided_regex"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:,"}}]}]}, "image_url"),
])
def test_known_fields_that_cannot_be_honoured(demo, path, body, field):
    response = demo.post(path, body)
    assert response.status_code == 400 and field in response.text


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"prompt": }', b'{"prompt": 5}',
    b'{"prompt": {"a": 1}}', b'{"prompt": [[]]}', b'{"prompt": [1, "a"]}', b'{"prompt": [-1]}',
    b'{"prompt": [99999999]}', b'{"prompt": "x", "max_tokens": "5"}',
    b'{"prompt": "x", "max_tokens": 1.5}', b'{"prompt": "x", "max_tokens": 1e99}',
    b'{"prompt": "x", "temperature": NaN}', b'{"prompt": "\xff\xfe"}',
    b'{"prompt": "x", "stop": [1]}', b'{"prompt": "x", "stream": "yes"}',
    b'{"prompt": "x", "logit_bias": {"a": 1}}', b'{"prompt": "x", "seed": "s"}',
    b'{"prompt": "x"} trailing', b'{"a":' * 100000, b"[" * 100000,
])
def test_malformed_completion_bodies(demo, body):
    response = demo.http.post("/v1/completions", content=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("messages", [
    None, [], {}, "hi", [1], [{}], [{"role": "user"}], [{"role": "alien", "content": "x"}],
    [{"role": "user", "content": 5}], [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": 1, "content": "x"}],
])
def test_malformed_messages(demo, messages):
    response = demo.post("/v1/chat/completions", {"messages": messages})
    assert response.status_code == 400 and "messages" in response.text


def test_routes_and_methods(demo):
    assert demo.http.get("/nope").json()["error"]["message"]
    assert demo.http.get("/nope").status_code == 404
    assert demo.http.get("/v1/completions").status_code == 405
    assert demo.http.delete("/v1/models").status_code == 405
    assert demo.http.get("/v1/models/").status_code == 200
    assert demo.http.head("/health").status_code == 200
    assert demo.http.get("/v1/models/nope").status_code == 404
    assert "version" in demo.http.get("/version").json()


def test_metrics_have_ours_and_the_aliases(demo):
    demo.post("/v1/completions", {"prompt": "x", "max_tokens": 2})
    text = demo.http.get("/metrics").text
    for name in ["sluice_requests_running", "sluice_time_to_first_token_seconds_bucket",
                 "sluice_generation_tokens_total", "vllm:num_requests_running",
                 "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
                 "vllm:cache_config_info"]:
        assert name in text, name


def test_huge_body_is_refused(demo):
    response = demo.http.post("/v1/completions", content=b" " * (9 << 20))
    assert response.status_code == 413
    assert demo.http.get("/health").status_code == 200


def raw(demo, data, read=True):
    with demo.socket() as s:
        s.sendall(data)
        out = b""
        while read:
            part = s.recv(65536)
            if not part:
                break
            out += part
        return out


@pytest.mark.parametrize("data", [
    b"\x00\x01\x02\x03\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: " + b"b" * 100000 + b"\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
])
def test_broken_http(demo, data):
    answer = raw(demo, data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert demo.http.get("/health").status_code == 200


def test_pipelined_requests_are_answered_in_order(demo):
    one = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = raw(demo, one + one + last)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.count(b'"version"') == 2


def post_bytes(body):
    data = json.dumps(body).encode()
    return (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(data)) + data


def test_a_client_that_leaves_frees_its_blocks(demo):
    demo.wait_for(demo.idle)
    for stream in (True, False):
        s = demo.socket()
        s.sendall(post_bytes({**LONG, "max_tokens": 1900, "stream": stream}))
        demo.wait_for(lambda: demo.metric("sluice_requests_running") > 0)
        # Reset, as a killed process leaves it.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
        before = demo.metric("sluice_generation_tokens_total")
        demo.wait_for(demo.idle, timeout=5)
        assert demo.metric("sluice_generation_tokens_total") - before < 400


def test_a_half_sent_request_does_not_hold_others(demo):
    with demo.socket() as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert demo.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).status_code == 200


def test_slow_body_times_out(start, nano_model):
    daemon = start(nano_model, "--server.body_timeout_seconds=1")
    with daemon.socket() as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        answer = s.recv(65536)
        assert answer == b"" or b" 408 " in answer.split(b"\r\n")[0] + b" "
    assert daemon.http.get("/health").status_code == 200


def test_a_client_that_does_not_read_is_dropped(start, nano_model):
    daemon = start(nano_model, "--server.write_timeout_seconds=1")
    with daemon.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.sendall(post_bytes({**LONG, "max_tokens": 4000, "n": 8, "stream": True, "logprobs": 5}))
        daemon.wait_for(lambda: daemon.metric("sluice_requests_running") > 0)
        daemon.wait_for(daemon.idle, timeout=60)
        # Others were served all the while, and the stream did not run to its end.
        assert daemon.metric("sluice_requests_finished_total", finished_reason="cancelled") >= 1


def test_invalid_utf8_never_leaves_the_server(start, nano_model):
    """Random weights make tokens that are halves of characters."""
    daemon = start(nano_model)
    body = {"prompt": "x", "max_tokens": 200, "temperature": 2, "ignore_eos": True, "seed": 3}
    with daemon.http.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        streamed = b"".join(response.iter_raw())
    text = "".join(json.loads(e[6:])["choices"][0]["text"]
                   for e in streamed.decode("utf-8", "strict").split("\n\n")
                   if e.startswith("data: {"))
    assert text == daemon.post("/v1/completions", body).json()["choices"][0]["text"]


def test_a_thousand_streams(start, nano_model):
    import asyncio
    daemon = start(nano_model, "--scheduler.max_seqs=1024", "--scheduler.max_queue=2000",
                   "--cache.bytes=256MiB")
    tokens = 16

    async def one(client, i):
        got = 0
        body = {"prompt": [300 + i % 500, 301], "max_tokens": tokens, "ignore_eos": True,
                "stream": True, "return_token_ids": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
            done = False
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        got += len(choice.get("token_ids") or [])
                done = done or line == "data: [DONE]"
            return got, done

    async def run():
        limits = httpx.Limits(max_connections=1000)
        async with httpx.AsyncClient(base_url=daemon.url, timeout=120, limits=limits) as client:
            return await asyncio.gather(*[one(client, i) for i in range(1000)])

    results = asyncio.run(run())
    assert results == [(tokens, True)] * 1000
    daemon.wait_for(daemon.idle)


def test_keep_alive_reuses_the_connection(demo):
    with demo.socket() as s:
        for _ in range(3):
            s.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.05)
            assert s.recv(65536).startswith(b"HTTP/1.1 200")
