"""Resident memory must not grow with the number of requests served."""

import concurrent.futures
import http.client
import json


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
