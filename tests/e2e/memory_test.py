"""Resident memory must not grow with the number of requests served."""

import concurrent.futures
import http.client
import json

from conftest import run_cli


def test_memory_after_many_requests(start, nano_model):
    daemon = start(nano_model, "--cache.bytes=16MiB")
    body = json.dumps({"prompt": [300, 301, 302], "max_tokens": 2, "temperature": 0}).encode()

    def some(count):
        connection = http.client.HTTPConnection("127.0.0.1", daemon.http_port, timeout=60)
        for _ in range(count):
            connection.request("POST", "/v1/completions", body,
                               {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200
            response.read()
        connection.close()

    def many(count):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(some, [count // 8] * 8))

    many(1000)
    after_1000 = daemon.rss_kib()
    many(9000)
    after_10000 = daemon.rss_kib()
    assert after_10000 <= after_1000 * 1.02, (after_1000, after_10000)


def test_blocks_behind_the_window_serve_others(tmp_path, start):
    """Eight answers of 3,000 tokens under a window of 256 live side by side where one of 4,096 tokens
    would fit: all that they hold is what their next token sees."""
    model = tmp_path / "windowed"
    assert run_cli("make-model", "--preset", "tiny-mistral", "--out", model).returncode == 0
    daemon = start(model, "--cache.bytes=2MiB")
    body = {"prompt": "x", "max_tokens": 3000, "ignore_eos": True}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: daemon.post("/v1/completions", body).json(), range(8)))
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [3000] * 8
    assert daemon.metric("sluice_preemptions_total") == 0
    daemon.wait_for(daemon.idle)


def test_windowed_layers_give_back_though_others_see_everything(tmp_path, start):
    """Half of the layers have a window of 256. In 2 MiB, room for 4,096 tokens of all layers, two answers of
    3,000 live side by side; and they come through 1.25 MiB, which one of them would not fit."""
    model = tmp_path / "mixed"
    assert run_cli("make-model", "--preset", "tiny-gemma3", "--out", model).returncode == 0
    body = {"max_tokens": 3000, "ignore_eos": True, "seed": 7}

    def two(daemon):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            asked = [body | {"prompt": prompt} for prompt in ("x", "yes")]
            answers = list(pool.map(lambda b: daemon.post("/v1/completions", b).json(), asked))
        assert [answer["usage"]["completion_tokens"] for answer in answers] == [3000] * 2
        daemon.wait_for(daemon.idle)
        return [answer["choices"][0]["text"] for answer in answers]

    room = start(model, "--cache.bytes=2MiB")
    texts = two(room)
    assert room.metric("sluice_preemptions_total") == 0
    short = start(model, "--cache.bytes=1280KiB")
    assert two(short) == texts
    assert short.metric("sluice_preemptions_total") > 0
