#!/usr/bin/env python3
"""Writes a fuzz target's seeds, one file each, from fixtures of the golden tests and from what is
written here: seeds.py TARGET DIRECTORY."""

import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden"


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def jinja():
    text = "\n" + (GOLDEN / "jinja/templates.txt").read_text(encoding="utf-8")
    for part in text.split("\n=== ")[1:]:
        yield part.partition("\n")[2].encode()
    for line in (GOLDEN / "jinja/expressions.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("# "):
            yield line.replace("⏎", "\n").encode()


def tensors(entries, metadata=None):
    """A safetensors file; entries are (name, dtype, shape, bytes)."""
    header, at = ({"__metadata__": metadata} if metadata else {}), 0
    for name, dtype, shape, size in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = dump(header)
    return struct.pack("<Q", len(text)) + text + b"x" * at


def safetensors():
    yield tensors([])
    yield tensors([("a", "F32", [2, 3], 24), ("b.weight", "BF16", [4], 8)], {"format": "pt"})
    yield tensors([("none", "F16", [0, 5], 0), ("one", "I64", [], 8), ("half", "F4", [4], 2)])
    yield tensors([(f"t{i}", t, [2], n) for i, (t, n) in enumerate(
        [("F8_E4M3", 2), ("U8", 2), ("BOOL", 2), ("F64", 16), ("C64", 16), ("F8_E5M2", 2)])])
    yield tensors([("a", "F32", [2], 8), ("b", "F32", [2], 8)])[:-3]
    files = {"a": "a.safetensors", "b": "b.safetensors"}
    yield dump({"metadata": {"total_size": 16}, "weight_map": files})
    yield dump({"weight_map": {"a": "a.safetensors", "c": "c.safetensors"}})
    yield dump({"weight_map": {"b": "aors", "c": "b.safetensors"}})
    yield dump({"weight_map": {"a": "../a.safetensors", "b": 1}})


FP8_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
FP8 = {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
       "config_groups": {"group_0": {"targets": ["Linear"], "output_activations": None,
                                     "weights": FP8_WEIGHTS,
                                     "input_activations": FP8_WEIGHTS | {"strategy": "token", "dynamic": True}}}}


def config():
    first = None
    for path in sorted((GOLDEN / "models").glob("*.json")):
        found = json.loads(path.read_text())["config"]
        first = first or found
        yield dump(found)
    generation = {"bos_token_id": 1, "eos_token_id": [2, 3], "do_sample": True, "temperature": 0.6,
                  "top_p": 0.9, "top_k": 20, "min_p": 0, "repetition_penalty": 1.05, "max_new_tokens": 9}
    yield dump(first) + b"\0" + dump(generation)
    yield dump(first | {"quantization_config": FP8})
    yield dump(first | {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}})
    yield dump(first | {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0] * 8,
                                            "long_factor": [2.0] * 8, "factor": 4.0}})


def small(tokenizer):
    """The same tokenizer with so few entries that edits hit what matters."""
    model = dict(tokenizer["model"])
    if model["type"] == "BPE":
        letters = {c: i for c, i in model["vocab"].items() if len(c) == 1}
        if not any(s.get("type") == "ByteLevel" for s in stages(tokenizer.get("pre_tokenizer"))):
            letters = dict(list(letters.items())[:24])
            letters |= {c: i for c, i in model["vocab"].items() if c in ("<unk>", "<s>", "<0x0A>", "<0x61>")}
        merges = []
        for merge in model["merges"]:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            if left in letters and right in letters and left + right in model["vocab"]:
                letters[left + right] = model["vocab"][left + right]
                merges.append(merge)
            if len(merges) == 6:
                break
        model |= {"vocab": letters, "merges": merges}
    else:
        model["vocab"] = model["vocab"][:24]
    return tokenizer | {"model": model, "added_tokens": tokenizer.get("added_tokens", [])[:2]}


def stages(stage):
    if stage:
        yield stage
        for inner in stage.get("pretokenizers", []):
            yield from stages(inner)


def tokenizer():
    bases = {}
    for name in ["gpt2", "llama2", "llama3", "qwen2", "gemma", "unigram", "words"]:
        bases[name] = small(json.loads((GOLDEN / f"tokenizer/{name}.json").read_text(encoding="utf-8")))
        yield dump(bases[name])
    for variant in json.loads((GOLDEN / "tokenizer/variants.json").read_text(encoding="utf-8")):
        patch = {k: v for k, v in variant["patch"].items() if k not in ("model", "added_tokens")}
        if patch and len(dump(patch)) < 1500:
            yield dump(bases[variant["base"]] | patch)
    added = {str(i): {"content": f"<{i}>", "special": i % 2 == 0, "lstrip": True, "rstrip": True,
                      "single_word": True, "normalized": True} for i in range(5000, 5003)}
    yield dump(bases["words"]) + b"\0" + dump({"added_tokens_decoder": added, "add_bos_token": True})


SAMPLING = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "presence_penalty": 1, "seed": 7,
            "frequency_penalty": -1, "repetition_penalty": 1.1, "n": 2, "best_of": 3, "max_tokens": 5,
            "min_tokens": 1, "stop": ["a", "b"], "stop_token_ids": [1], "logit_bias": {"5": 1.5},
            "allowed_token_ids": [1, 2], "ignore_eos": True, "include_stop_str_in_output": True}
MESSAGES = [{"role": "system", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "H\u00e9llo \U0001f600"}]},
            {"role": "assistant", "content": None, "reasoning_content": "x", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":[1,2.5,null]}"}}]},
            {"role": "tool", "tool_call_id": "c", "name": "f", "content": "12"}]


def bodies():
    yield {"prompt": "Hello", "model": "test/model", "stream": True, "stream_options": {"include_usage": True}}
    yield {"prompt": ["a", "b"], "echo": True, "logprobs": 2, "suffix": None} | SAMPLING
    yield {"prompt": [1, 2, 3], "prompt_logprobs": 1, "return_token_ids": True, "add_special_tokens": False}
    yield {"prompt": [[1], [2, 3]], "truncate_prompt_tokens": 5, "priority": -3, "timeout_ms": 10.5,
           "ttft_ms": 5, "tpot_ms": 1e3, "session_id": "s", "cache_salt": "c", "user": "u"}
    yield {"messages": MESSAGES, "max_completion_tokens": 3, "logprobs": True, "top_logprobs": 2,
           "response_format": {"type": "text"}, "tool_choice": "none"}
    yield {"messages": MESSAGES[:2], "continue_final_message": True, "chat_template_kwargs": {"x": {"y": [1]}},
           "documents": [{"title": "t"}], "chat_template": "{{ messages }}"}
    yield {"messages": MESSAGES[1:2], "tools": [{"type": "function", "function": {"name": "f"}}]}
    yield {"tokens": [1, 2, 3], "model": "m"}
    yield {"prompt": "x", "return_token_strs": True}


def request():
    for body in bodies():
        yield dump(body)
        yield json.dumps(body).encode()
    yield b"[" * 80
    yield b'{"prompt":"\\ud800","prompt":"\xff"}'


def http():
    def post(path, body, *fields, version="1.1"):
        head = [f"POST {path} HTTP/{version}", "Host: x", "Content-Type: application/json", *fields]
        if not any(f.lower().startswith("transfer") for f in fields):
            head.append(f"Content-Length: {len(body)}")
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body

    for path in ["/v1/models", "/health", "/ready", "/live", "/metrics", "/version", "/load", "/v1/requests",
                 "/v1/models/test%2Fmodel", "/v1/requests/x/trace", "/%zz?a=b#c", "*", "http://h/v1/models"]:
        yield f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    body = dump({"prompt": "Hello", "max_tokens": 3})
    chunked = b"%x;a=b\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(body), body)
    yield post("/v1/completions", body)
    yield post("/v1/completions", body, version="1.0")
    yield post("/v1/completions", chunked, "Transfer-Encoding: chunked")
    yield post("/v1/completions", body, "Expect: 100-continue", "Connection: close")
    yield post("/v1/completions", body, "Content-Encoding: gzip", "X-Request-Id: abc")
    yield post("/tokenize", dump({"prompt": "x"})) + post("/detokenize", dump({"tokens": [1, 2]}))
    yield post("/v1/chat/completions", dump({"messages": MESSAGES[:2], "stream": True, "max_tokens": 3}))
    yield b"DELETE /v1/requests/x HTTP/1.1\r\n\r\nHEAD /health HTTP/1.1\r\n\r\nOPTIONS * HTTP/1.1\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\nA: b\r\n c\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"
    yield b"GET / HTTP/3.7\r\n\r\n"
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\n" + b"X: " + b"y" * 3000 + b"\r\n\r\n"


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    """A field of a protobuf message: bytes and text by length, whole numbers as varints, floats of
    four bytes; a pair is a double of eight."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value % 2**64)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, tuple):
        return varint(number << 3 | 1) + struct.pack("<d", value[0])
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(*fields):
    return b"".join(field(number, value) for number, value in fields)


def grpc():
    bias = message((1, 5), (2, 1.5))
    sampling = message((1, 0.5), (2, 0.9), (3, -1), (7, 1.1), (8, 2**63), (9, 2), (10, 5), (12, "a"), (12, "b"),
                       (13, b"\x01\x02"), (15, 1), (16, bias), (17, b"\x01\x02"), (18, 2), (20, 0), (21, 3))
    value = message((3, "text"))
    struct_ = message((1, message((1, "x"), (2, value))), (1, message((1, "n"), (2, message((2, (float("nan"),)))))))
    nested = message((1, message((1, "l"), (2, message((6, message((1, message((5, struct_))), (1, value))))))))
    yield b"g" + message((1, "test/model"), (2, "Hello"), (4, sampling), (5, 1), (11, (10.5,)), (14, "s"))
    yield b"g" + message((3, message((1, b"\x01\x02\x03"))), (9, 0), (10, -5))
    yield b"t" + message((1, "m"), (2, "Hello"))
    chat = [(2, message((1, "system"), (2, "Be kind."))), (2, message((1, "user"), (2, "H\u00e9"), (3, "n")))]
    yield b"c" + message(*chat, (3, sampling), (6, struct_), (15, 1))
    yield b"c" + message(*chat, (2, message((1, "assistant"), (5, "x"))), (5, 1), (6, nested), (16, "default"))
    yield b"c" + message((2, message((1, "tool"), (4, "c"), (2, b"\xff"))))


def last_field(message):
    """Of a message whose fields all have a length, the bytes of the last one."""
    at = 0
    while at < len(message):
        at, size, shift = at + 1, 0, 0
        while True:
            size |= (message[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if message[at - 1] < 128:
                break
        at, value = at + size, message[at:at + size]
    return value


def sentencepiece():
    def piece(content, kind=1, score=-1.0):
        return (1, message((1, content), (2, score), (3, kind)))
    first = [piece("<unk>", 2), piece("<s>", 3), piece("</s>", 3)]
    letters = [piece(c, 1, -9.0) for c in "\u2581Helo,wrd'1"]
    words = [piece(w, 1, -1.0 - i) for i, w in enumerate(["He", "ll", "\u2581wo", "rl", "Hell", "Hello"])]
    symbols = [piece("\u2581\u2581", 4), piece("34", 4), piece("zz", 5)]
    data = [piece(f"<0x{b:02X}>", 6) for b in range(256)]
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True, "legacy": False,
              "added_tokens_decoder": {"1": {"content": "<s>", "special": True}, "900": {"content": "123", "lstrip": True}}}
    for kind in (1, 2):
        yield dump(config) + b"\0" + message(*first, *letters, *words, *symbols, (2, message((3, kind))),
                                             (3, message((3, 1), (4, 1), (5, 1))))
        yield b"{}\0" + message(*first, *data, *letters, *words, (2, message((3, kind), (35, 1))), (3, message((3, 0), (4, 0))))
    rules = last_field((GOLDEN / "tokenizer/spm_unigram.model").read_bytes())  # with a character map
    yield dump({"pad_token": "<pad>", "bos_token": {"content": "<s>"}}) + b"\0" + message(*first, *letters, *symbols, (3, rules))


SEEDS = {f.__name__: f for f in [jinja, safetensors, config, tokenizer, sentencepiece, request, http, grpc]}


def main():
    target, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    # What was found once is tried first ever after.
    findings = [path.read_bytes() for path in sorted((HERE / "findings" / target).glob("*"))]
    for i, seed in enumerate([*findings, *SEEDS[target]()]):
        (directory / f"{i:04}").write_bytes(seed)


if __name__ == "__main__":
    main()
