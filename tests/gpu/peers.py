"""PyTorch and transformers on the shapes and models that tests/gpu/run.py measures Sluice on, and as a
second opinion on its greedy tokens. Prints progress on stderr and one line of JSON last. Each figure is
the median of several runs; what this machine's versions do not have is said, not guessed."""

import argparse
import json
import statistics
import sys
import time

import torch
import transformers

SHAPES = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
ROWS = (1, 8, 16, 32, 128, 1024)
ROTATE_BYTES = 256 << 20  # of weights taken in turn: more than the chip's cache
NEAR_TIE = 0.5            # nats


def seconds(device, body, runs=7, calls=10):
    """Of one call, by events on the device; by the clock where the device is the host."""
    body()
    times = []
    for _ in range(runs):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(calls):
                body()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3 / calls)
        else:
            start = time.perf_counter()
            body()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def kernels(device, shrink):
    """bf16 products as a layer of an 8B model has them, and causal attention of one prompt."""
    figures = {}
    for name, (out, inner) in SHAPES.items():
        out, inner = out // shrink, inner // shrink
        count = max(2, ROTATE_BYTES // shrink // shrink // (2 * out * inner))
        weights = [torch.randn(out, inner, device=device, dtype=torch.bfloat16) for _ in range(count)]
        for rows in ROWS:
            x = torch.randn(rows, inner, device=device, dtype=torch.bfloat16)
            turn = iter(range(1 << 30))
            s = seconds(device, lambda: torch.nn.functional.linear(x, weights[next(turn) % count]))
            figures[f"torch linear {name} m={rows} n={out} k={inner}"] = f"{s * 1e6:.1f} us"
    for tokens in (512, 2048, 8192):
        tokens //= shrink
        q = torch.randn(1, 32, tokens, 128, device=device, dtype=torch.bfloat16)
        k, v = (torch.randn(1, 8, tokens, 128, device=device, dtype=torch.bfloat16) for _ in range(2))
        s = seconds(device, lambda: torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True))
        figures[f"torch attention, prompt of {tokens}"] = f"{s * 1e6:.1f} us"
    return figures


def unfused(device, shrink):
    """Attention that writes its scores to memory and reads them back, beside the same in one kernel: of a prompt, and
    of decodes. As many heads of keys as of queries, so that nothing differs but the fusion."""
    backends = torch.nn.attention.SDPBackend
    figures = {}
    shapes = [(1, n // shrink, n // shrink) for n in (512, 2048, 8192)]
    shapes += [(batch, 1, context // shrink) for batch, context in ((1, 512), (32, 512), (32, 2048))]
    for batch, queries, context in shapes:
        q = torch.randn(batch, 32, queries, 128, device=device, dtype=torch.bfloat16)
        k, v = (torch.randn(batch, 32, context, 128, device=device, dtype=torch.bfloat16) for _ in range(2))
        what = f"prompt of {context}" if queries > 1 else f"decode {batch} x {context}"
        times = {}
        for name, backend in [("fused", backends.FLASH_ATTENTION), ("unfused", backends.MATH)]:
            try:
                with torch.nn.attention.sdpa_kernel(backend):
                    times[name] = seconds(device, lambda: torch.nn.functional.scaled_dot_product_attention(
                        q, k, v, is_causal=queries > 1))
                figures[f"torch attention {name}, {what}"] = f"{times[name] * 1e6:.1f} us"
            except RuntimeError as e:  # not for this device, or no memory for the scores
                figures[f"torch attention {name}, {what}"] = f"none: {str(e).splitlines()[0]}"
        if len(times) == 2:
            figures[f"torch attention unfused to fused, {what}"] = f"{times['unfused'] / times['fused']:.2f}"
        del q, k, v
    return figures


def greedy(device, demo, answers):
    """Each token that Sluice drew, given those before it: transformers' first choice, or near it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo)
    model = transformers.AutoModelForCausalLM.from_pretrained(demo, dtype=torch.float32).to(device)
    checked, ties = 0, 0
    for prompt, answer in answers:
        ids = tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids + answer], device=device)).logits[0].float()
        for i, token in enumerate(answer):
            row = logits[len(ids) + i - 1].log_softmax(-1)
            gap = float(row.max() - row[token])
            if gap > NEAR_TIE:
                return f"FAILED: {prompt!r}: token {i} is {token}, {gap:.2f} nats below the best"
            checked += 1
            ties += gap > 0
    return f"{checked} tokens, {ties} of them near ties"


def batched(device, path, prompts, prompt_len, output_len):
    """transformers' own continuous batching: output tokens a second."""
    with torch.device(device):  # weights are random: of the directory only the shape counts
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(path),
                                                              dtype=torch.bfloat16).eval()
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randint(300, 1000, (prompt_len,), generator=generator).tolist() for _ in range(prompts)]
    config = transformers.GenerationConfig(max_new_tokens=output_len, do_sample=False, eos_token_id=-1,
                                           pad_token_id=0)
    begin = time.perf_counter()
    outputs = model.generate_batch(inputs=inputs, generation_config=config)
    took = time.perf_counter() - begin
    made = sum(len(o.generated_tokens) for o in outputs.values())
    return f"{made / took:.0f} tok/s out ({prompts} prompts at once, {made} tokens)"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--demo", required=True)
    parser.add_argument("--greedy", help="the answers that run.py wrote")
    parser.add_argument("--shrink", type=int, default=1, help="sizes by so much, to try this script")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures = {"versions": f"torch {torch.__version__}, transformers {transformers.__version__}, {device}"}
    if options.greedy:
        with open(options.greedy) as file:
            saved = json.load(file)
        answers = [(a["prompt"], a["token_ids"]) for a in saved["gpu"]]
        figures["greedy_against_transformers"] = greedy(device, options.demo, answers)
    print(figures, file=sys.stderr, flush=True)
    figures |= kernels(device, options.shrink) | unfused(device, options.shrink)
    prompts, length = 256 // options.shrink, 128 // options.shrink
    try:
        figures[f"transformers {length}/{length}"] = batched(device, options.model, prompts, length, length)
    except Exception as e:  # an engine that is young: whatever it raises is its figure
        figures[f"transformers {length}/{length}"] = f"none: {type(e).__name__}: {e}"
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
