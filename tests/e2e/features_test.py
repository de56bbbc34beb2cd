"""One table of features over both protocols: the same request must mean the same."""

import json

import grpc
import pytest

from conftest import pb

CHAT = [{"role": "user", "content": "What is two plus three?"}]
PROMPT = "Once upon a time there was a fox"


class Answer:
    """What either protocol said, in one form."""

    def __init__(self):
        self.texts = {}
        self.finish = {}
        self.stop_reason = {}
        self.logprobs = {}
        self.usage = None

    def key(self):
        return self.texts, self.finish, self.stop_reason, self.logprobs, self.usage


def over_http(daemon, prompt, fields, stream):
    chat = isinstance(prompt, list) and prompt and isinstance(prompt[0], dict)
    path = "/v1/chat/completions" if chat else "/v1/completions"
    body = {"messages" if chat else "prompt": prompt, **fields}
    if chat and "logprobs" in body:
        body["top_logprobs"], body["logprobs"] = body["logprobs"], True
    answer = Answer()
    if stream:
        chunks = daemon.chunks(path, {**body, "stream_options": {"include_usage": True}})
        assert chunks[-1]["choices"] == []
        answer.usage = chunks[-1]["usage"]
        choices = [c for chunk in chunks for c in chunk["choices"]]
    else:
        response = daemon.post(path, body)
        assert response.status_code == 200, response.text
        answer.usage = response.json()["usage"]
        choices = response.json()["choices"]
    for choice in choices:
        i = choice["index"]
        part = choice.get("delta") or choice.get("message") or choice
        text = part.get("content" if chat else "text") or ""
        answer.texts[i] = answer.texts.get(i, "") + text
        if choice.get("finish_reason"):
            answer.finish[i] = choice["finish_reason"]
            answer.stop_reason[i] = choice.get("stop_reason")
        logprobs = choice.get("logprobs")
        if logprobs:
            values = ([t["logprob"] for t in logprobs["content"]] if chat
                      else logprobs["token_logprobs"])
            answer.logprobs.setdefault(i, []).extend(round(v, 3) for v in values)
    usage = answer.usage
    answer.usage = (usage["prompt_tokens"], usage["completion_tokens"])
    return answer


def over_grpc(daemon, prompt, fields, stream):
    fields = dict(fields)
    sampling = {}
    for name in list(fields):
        if name in pb.SamplingParams.DESCRIPTOR.fields_by_name:
            sampling[name] = fields.pop(name)
    if isinstance(sampling.get("stop"), str):
        sampling["stop"] = [sampling["stop"]]
    if "logit_bias" in sampling:
        sampling["logit_bias"] = {int(k): v for k, v in sampling["logit_bias"].items()}
    params = pb.SamplingParams(**sampling)
    chat = isinstance(prompt, list) and prompt and isinstance(prompt[0], dict)
    if chat:
        request = pb.ChatRequest(messages=[pb.ChatMessage(**m) for m in prompt], sampling=params,
                                 stream=stream, **fields)
        responses = list(daemon.grpc.chat(request, timeout=60))
    else:
        ids = {"prompt_ids": pb.TokenIds(ids=prompt)} if isinstance(prompt, list) else {"prompt": prompt}
        request = pb.GenerateRequest(sampling=params, stream=stream, **ids, **fields)
        responses = list(daemon.grpc.generate(request, timeout=60))
    answer = Answer()
    for response in responses[:-1]:
        piece = response.piece
        i = piece.index
        answer.texts[i] = answer.texts.get(i, "") + piece.text
        if piece.finish_reason:
            answer.finish[i] = {1: "stop", 2: "length"}[piece.finish_reason]
            reason = piece.WhichOneof("stop_reason")
            answer.stop_reason[i] = getattr(piece, reason) if reason else None
        if piece.logprobs:
            answer.logprobs.setdefault(i, []).extend(round(t.logprob, 3) for t in piece.logprobs)
    usage = responses[-1].usage
    answer.usage = (usage.prompt_tokens, usage.completion_tokens)
    return answer


FEATURES = {
    "greedy": (PROMPT, {"temperature": 0, "max_tokens": 12}),
    "chat": (CHAT, {"temperature": 0, "max_tokens": 20}),
    "system": ([{"role": "system", "content": "Answer in one word."}] + CHAT,
               {"temperature": 0, "max_tokens": 20}),
    "token ids": ([1, 5, 9, 300, 301], {"temperature": 0, "max_tokens": 5}),
    "seeded": (PROMPT, {"temperature": 1.0, "seed": 42, "max_tokens": 16}),
    "top_p": (PROMPT, {"temperature": 1.0, "top_p": 0.5, "seed": 1, "max_tokens": 16}),
    "top_k": (PROMPT, {"temperature": 1.5, "top_k": 3, "seed": 1, "max_tokens": 16}),
    "min_p": (PROMPT, {"temperature": 1.5, "min_p": 0.2, "seed": 1, "max_tokens": 16}),
    "penalties": (PROMPT, {"temperature": 0, "presence_penalty": 1.5, "frequency_penalty": 1.0,
                           "max_tokens": 24}),
    "repetition": (PROMPT, {"temperature": 0, "repetition_penalty": 1.8, "max_tokens": 24}),
    "stop string": (CHAT, {"temperature": 0, "max_tokens": 30, "stop": "is"}),
    "stop kept": (CHAT, {"temperature": 0, "max_tokens": 30, "stop": ["is"],
                         "include_stop_str_in_output": True}),
    "ignore_eos": (CHAT, {"temperature": 0, "max_tokens": 40, "ignore_eos": True}),
    "min_tokens": (CHAT, {"temperature": 0, "max_tokens": 40, "min_tokens": 30}),
    "logit_bias": (PROMPT, {"temperature": 0, "max_tokens": 4, "logit_bias": {"300": 100}}),
    "allowed": (PROMPT, {"temperature": 1, "seed": 3, "max_tokens": 8,
                         "allowed_token_ids": [300, 301, 302]}),
    "logprobs": (PROMPT, {"temperature": 0, "max_tokens": 6, "logprobs": 2}),
    "chat logprobs": (CHAT, {"temperature": 0, "max_tokens": 6, "logprobs": 2}),
    "n": (PROMPT, {"temperature": 1.0, "seed": 11, "n": 3, "max_tokens": 10}),
    "echo": (PROMPT, {"temperature": 0, "max_tokens": 4, "echo": True}),
    "one token": (PROMPT, {"temperature": 0, "max_tokens": 1}),
}


@pytest.mark.parametrize("name", FEATURES)
def test_same_over_both_protocols_streamed_or_not(demo, name):
    prompt, fields = FEATURES[name]
    answers = [call(demo, prompt, fields, stream)
               for call in (over_http, over_grpc) for stream in (False, True)]
    first = answers[0]
    n = fields.get("n", 1)
    assert sorted(first.texts) == list(range(n)) and sorted(first.finish) == list(range(n))
    for other in answers[1:]:
        assert other.key() == first.key()


def test_sampling_fields_have_an_effect(demo):
    def text(**fields):
        return over_http(demo, PROMPT, {"max_tokens": 24, **fields}, False).texts[0]

    greedy = text(temperature=0)
    assert text(temperature=0) == greedy
    assert text(temperature=0, repetition_penalty=1.9) != greedy
    assert text(temperature=1.5, seed=1) != text(temperature=1.5, seed=2)
    assert text(temperature=1.5, seed=1) == text(temperature=1.5, seed=1)
    assert text(temperature=2, top_k=1) == greedy
    assert text(temperature=2, top_p=1e-6) == greedy
    assert text(temperature=2, min_p=1) == greedy


def test_samples_of_one_request_differ(demo):
    texts = over_http(demo, PROMPT, {"temperature": 1.2, "n": 4, "seed": 5, "max_tokens": 24},
                      False).texts
    assert len(set(texts.values())) > 1


def test_stop_string_is_cut_and_named(demo):
    whole = over_http(demo, CHAT, {"temperature": 0, "max_tokens": 30}, False)
    answer = over_http(demo, CHAT, {"temperature": 0, "max_tokens": 30, "stop": ["is"]}, False)
    assert "is" in whole.texts[0]
    assert answer.texts[0] == whole.texts[0].split("is")[0]
    assert answer.finish[0] == "stop" and answer.stop_reason[0] == "is"


def test_ignore_eos_and_min_tokens_count(demo):
    assert over_http(demo, CHAT, {"max_tokens": 40, "ignore_eos": True}, False).usage[1] == 40
    assert over_http(demo, CHAT, {"max_tokens": 40, "min_tokens": 30}, False).usage[1] >= 30


def test_batch_of_prompts_keeps_order(demo):
    prompts = ["The fox", "The bear", "Two plus two"]
    single = [over_http(demo, p, {"temperature": 0, "max_tokens": 8}, False).texts[0]
              for p in prompts]
    batch = over_http(demo, prompts, {"temperature": 0, "max_tokens": 8}, False).texts
    assert [batch[i] for i in range(3)] == single


def test_echo_with_logprobs_scores_the_prompt(demo):
    body = {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 1}
    choice = demo.post("/v1/completions", body).json()["choices"][0]
    lp = choice["logprobs"]
    assert choice["text"] == PROMPT
    assert lp["token_logprobs"][0] is None and all(v <= 0 for v in lp["token_logprobs"][1:])
    assert "".join(lp["tokens"]).endswith(PROMPT)
    assert len(lp["tokens"]) == len(lp["token_logprobs"]) == len(lp["text_offset"])


def test_models_and_tokenizer_agree(demo):
    models = demo.http.get("/v1/models").json()["data"]
    assert [m["id"] for m in models] == [m.id for m in demo.grpc.models().models]
    text = "héllo wörld 🦊 123"
    http = demo.post("/tokenize", {"prompt": text}).json()
    rpc = demo.grpc.tokenize(pb.TokenizeRequest(prompt=text))
    assert http["tokens"] == list(rpc.tokens) and http["count"] == rpc.count == len(rpc.tokens)
    back = demo.post("/detokenize", {"tokens": http["tokens"]}).json()["prompt"]
    assert text in back
    assert demo.grpc.detokenize(pb.DetokenizeRequest(tokens=rpc.tokens)).prompt == back


ERRORS = {
    "temperature": {"temperature": 3}, "top_p": {"top_p": 0}, "n": {"n": 0},
    "presence_penalty": {"presence_penalty": 5}, "max_tokens": {"max_tokens": 10**6},
    "min_p": {"min_p": 2}, "logit_bias": {"logit_bias": {"1000000": 1}}, "stop": {"stop": [""]},
    "min_tokens": {"min_tokens": -1}, "repetition_penalty": {"repetition_penalty": 0},
    "logprobs": {"logprobs": 1000},
}


@pytest.mark.parametrize("field", ERRORS)
def test_same_errors_over_both_protocols(demo, field):
    response = demo.post("/v1/completions", {"prompt": "x", **ERRORS[field]})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == field or field in error["message"]
    with pytest.raises(grpc.RpcError) as raised:
        over_grpc(demo, "x", ERRORS[field], True)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error["message"] in raised.value.details()


def test_unknown_model(demo):
    response = demo.post("/v1/completions", {"model": "no-such", "prompt": "x"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    with pytest.raises(grpc.RpcError) as raised:
        over_grpc(demo, "x", {"model": "no-such"}, True)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    assert json.dumps(response.json())  # a whole JSON body


def test_health_follows_over_both(demo):
    assert demo.http.get("/health").status_code == 200
    assert demo.http.get("/health/ready").status_code == 200
    assert demo.grpc.health() == 1 and demo.grpc.health("sluice.v1.Inference") == 1
