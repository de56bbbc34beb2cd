#!/usr/bin/env python3
"""Makes the fixtures of golden_model_test.cc: logits and greedy tokens of transformers.

    pip install torch transformers numpy
    python tests/golden/models/make_fixtures.py [CASE ...]

Each case is a small configuration with real head sizes. Its weights are not stored: they are a
function of seed, tensor name and index (base/random_weights.h), rounded to bf16, and computed
here with the same bits. <case>.json has the directory's config.json, the weights' recipe, the
prompts and the greedy tokens; <case>.logits has float32 rows of teacher-forced logits, for each
prompt those of its `positions`.

Scales are chosen so that mistakes show: embeddings are small, so the epsilon of the first norm
matters; norm weights differ by dimension, so their place before or after the rotation does; the
final norm is large, so that logits are peaked. Prompts are longer than the Llama 3 cases' original
context, so that every branch of its frequency scaling is used.
"""

import copy
import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from transformers.models.bloom import modeling_bloom
from transformers.models.falcon import modeling_falcon

import layerwise_reference

HERE = pathlib.Path(__file__).parent
GREEDY_STEPS = 64


def common(**more):
    return {
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "bos_token_id": None,
        "eos_token_id": 1,
        **more,
    }


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# name, seed, config.json
CASES = [
    ("llama3_gqa", 1, common(
        architectures=["LlamaForCausalLM"], hidden_size=160, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, intermediate_size=448,
        vocab_size=331, tie_word_embeddings=False, rope_theta=500000.0, rope_scaling=LLAMA3_ROPE)),
    ("llama3_tied", 2, common(
        architectures=["LlamaForCausalLM"], hidden_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=1, head_dim=128, intermediate_size=320,
        vocab_size=320, tie_word_embeddings=True,
        rope_parameters={**LLAMA3_ROPE, "factor": 32.0, "rope_theta": 500000.0})),
    ("llama2_bias", 3, common(
        architectures=["LlamaForCausalLM"], hidden_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, intermediate_size=344, vocab_size=320,
        tie_word_embeddings=False, attention_bias=True, mlp_bias=True, pretraining_tp=1,
        rope_theta=10000.0, rope_scaling=None)),
    ("qwen3_tied", 4, common(
        architectures=["Qwen3ForCausalLM"], hidden_size=128, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=128, intermediate_size=384,
        vocab_size=320, tie_word_embeddings=True, rms_norm_eps=1e-6, attention_bias=False,
        use_sliding_window=False, sliding_window=None, max_window_layers=4,
        rope_theta=1000000.0, rope_scaling=None)),
    ("qwen3_gqa", 5, common(
        architectures=["Qwen3ForCausalLM"], hidden_size=192, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=2, head_dim=64, intermediate_size=320,
        vocab_size=331, tie_word_embeddings=False, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        layer_types=["full_attention"] * 2)),
    ("qwen2", 6, common(
        architectures=["Qwen2ForCausalLM"], hidden_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, intermediate_size=256, vocab_size=320,
        tie_word_embeddings=True, rms_norm_eps=1e-6, use_sliding_window=False,
        sliding_window=512, rope_theta=1000000.0)),
    ("mistral", 7, common(
        architectures=["MistralForCausalLM"], hidden_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, intermediate_size=256,
        vocab_size=320, tie_word_embeddings=False, sliding_window=None, rope_theta=1000000.0)),
]


def small(**more):
    """Two layers or a few more; the fixtures are small too (see make_case)."""
    return common(**{"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 192,
                     "vocab_size": 160, "tie_word_embeddings": False, "rope_theta": 10000.0, **more})


def gemma(**more):
    return small(**{"rms_norm_eps": 1e-6, "tie_word_embeddings": True, "num_hidden_layers": 3,
                    "hidden_act": "gelu_pytorch_tanh",
                    "hidden_activation": "gelu_pytorch_tanh", **more})


# Windows and caps are so small that most tokens are beyond them.
SMALL_CASES = [
    ("mistral_window", 11, small(architectures=["MistralForCausalLM"], sliding_window=40)),
    ("qwen2_window", 12, small(
        architectures=["Qwen2ForCausalLM"], num_hidden_layers=3, use_sliding_window=True,
        sliding_window=24, max_window_layers=1)),
    ("gemma", 13, gemma(
        architectures=["GemmaForCausalLM"], num_hidden_layers=2)),
    ("gemma2", 14, gemma(
        architectures=["Gemma2ForCausalLM"], sliding_window=40, query_pre_attn_scalar=48,
        attn_logit_softcapping=2.0, final_logit_softcapping=10.0)),
    ("gemma3", 15, gemma(
        architectures=["Gemma3ForCausalLM"], sliding_window=40, query_pre_attn_scalar=24,
        sliding_window_pattern=3, rope_theta=1000000.0, rope_local_base_freq=10000.0,
        rope_scaling={"rope_type": "linear", "factor": 8.0})),
    ("gemma3_types", 16, gemma(
        architectures=["Gemma3ForCausalLM"], sliding_window=40, query_pre_attn_scalar=32,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        rope_theta=None, rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0}})),
    ("phi3_long", 17, small(
        architectures=["Phi3ForCausalLM"], sliding_window=100, partial_rotary_factor=0.75,
        original_max_position_embeddings=64, pad_token_id=0, rope_scaling={
            "type": "longrope", "short_factor": [1.0 + i / 20 for i in range(12)],
            "long_factor": [1.0 + i * i / 8 for i in range(12)]})),
    ("phi3_short", 18, small(
        architectures=["Phi3ForCausalLM"], sliding_window=None, pad_token_id=0,
        original_max_position_embeddings=400, rope_scaling={
            "type": "longrope", "short_factor": [1.0 + i / 20 for i in range(16)],
            "long_factor": [1.0 + i * i / 8 for i in range(16)]}), 400),
    ("phi4_partial", 19, small(
        architectures=["Phi3ForCausalLM"], partial_rotary_factor=0.5, pad_token_id=0,
        tie_word_embeddings=True, sliding_window=None)),
    ("olmo2", 20, small(architectures=["Olmo2ForCausalLM"], pad_token_id=0, num_hidden_layers=3)),
    ("granite", 21, small(
        architectures=["GraniteForCausalLM"], attention_bias=True, mlp_bias=True,
        embedding_multiplier=12.0, logits_scaling=0.25, residual_multiplier=0.22,
        attention_multiplier=0.125)),
    ("llama_linear", 22, small(
        architectures=["LlamaForCausalLM"], rope_scaling={"type": "linear", "factor": 3.0})),
    ("llama_dynamic", 23, small(
        architectures=["LlamaForCausalLM"], max_position_embeddings=128,
        rope_scaling={"type": "dynamic", "factor": 4.0}), 400),
    ("qwen2_yarn", 24, small(
        architectures=["Qwen2ForCausalLM"], max_position_embeddings=128, use_sliding_window=False,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128})),
    ("llama_yarn_mscale", 25, small(
        architectures=["LlamaForCausalLM"], rope_scaling={
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64,
            "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 1.0, "mscale_all_dim": 0.5})),
]

# LayerNorm and MLPs without a gate.
def without(config, *names):
    return {key: value for key, value in config.items() if key not in names}


def ungated(*drop, **more):
    return without(small(**more), "rms_norm_eps", "hidden_act", "head_dim", *drop)


SMALL_CASES += [
    ("gpt2", 31, {
        "architectures": ["GPT2LMHeadModel"], "n_embd": 128, "n_layer": 2, "n_head": 4,
        "n_positions": 512, "n_inner": None, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "vocab_size": 160, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": 1}),
    ("neox", 32, ungated(
        "num_key_value_heads", "rope_theta", architectures=["GPTNeoXForCausalLM"],
        hidden_act="gelu", layer_norm_eps=1e-5, rotary_pct=0.25, rotary_emb_base=10000,
        use_parallel_residual=True)),
    ("neox_serial", 33, ungated(
        "num_key_value_heads", "rope_theta", architectures=["GPTNeoXForCausalLM"],
        layer_norm_eps=1e-5, rotary_pct=0.5, rotary_emb_base=20000, use_parallel_residual=False)),
    ("opt", 34, ungated(
        "num_key_value_heads", "rope_theta", "intermediate_size", architectures=["OPTForCausalLM"],
        ffn_dim=192, activation_function="relu", do_layer_norm_before=True, word_embed_proj_dim=128,
        tie_word_embeddings=True)),
    ("falcon_7b", 35, ungated(
        "num_key_value_heads", "intermediate_size", architectures=["FalconForCausalLM"],
        tie_word_embeddings=True, layer_norm_epsilon=1e-5, alibi=False, bias=False,
        multi_query=True, parallel_attn=True, new_decoder_architecture=False)),
    ("falcon_40b", 36, ungated(
        "num_key_value_heads", "intermediate_size", architectures=["FalconForCausalLM"],
        tie_word_embeddings=True, layer_norm_epsilon=1e-5, alibi=False, bias=False,
        num_kv_heads=2, ffn_hidden_size=256, new_decoder_architecture=True)),
    ("falcon_serial", 37, ungated(
        "num_key_value_heads", "intermediate_size", architectures=["FalconForCausalLM"],
        layer_norm_epsilon=1e-5, alibi=False, bias=True, multi_query=False, parallel_attn=False,
        new_decoder_architecture=False)),
    ("starcoder2", 38, ungated(
        architectures=["Starcoder2ForCausalLM"], norm_epsilon=1e-5, use_bias=True,
        hidden_act="gelu_pytorch_tanh", sliding_window=60, tie_word_embeddings=True)),
    ("phi", 39, ungated(
        architectures=["PhiForCausalLM"], layer_norm_eps=1e-5, hidden_act="gelu_new",
        partial_rotary_factor=0.5)),
]

# Experts; what they get of a prompt's tokens differs by up to 1 to 12.
SMALL_CASES += [
    ("mixtral", 41, small(
        architectures=["MixtralForCausalLM"], num_local_experts=4, num_experts_per_tok=2,
        intermediate_size=96, sliding_window=None)),
    ("qwen2_moe", 42, small(
        architectures=["Qwen2MoeForCausalLM"], num_experts=6, num_experts_per_tok=3,
        moe_intermediate_size=48, shared_expert_intermediate_size=96, norm_topk_prob=False,
        num_hidden_layers=3, decoder_sparse_step=1, mlp_only_layers=[1], use_sliding_window=False)),
    ("qwen3_moe", 43, small(
        architectures=["Qwen3MoeForCausalLM"], num_experts=8, num_experts_per_tok=2,
        moe_intermediate_size=48, norm_topk_prob=True, decoder_sparse_step=2, mlp_only_layers=[],
        num_hidden_layers=4, use_sliding_window=False)),
]

# Linear biases. Heads that are no power of two have slopes in between.
# Falcon's own function rounds every bias to bf16, whatever the model's type: beyond 256 tokens only
# every other one has a bias of its own.
modeling_falcon.build_alibi_tensor = modeling_bloom.build_alibi_tensor

SMALL_CASES += [
    ("falcon_rw", 51, ungated(
        "num_key_value_heads", "intermediate_size", "rope_theta",
        architectures=["FalconForCausalLM"], num_attention_heads=6, hidden_size=192, alibi=True,
        layer_norm_epsilon=1e-5, bias=True, multi_query=False, parallel_attn=False,
        tie_word_embeddings=True, new_decoder_architecture=False)),
    ("bloom", 152, {
        "architectures": ["BloomForCausalLM"], "hidden_size": 128, "n_layer": 2, "n_head": 4,
        "layer_norm_epsilon": 1e-5, "vocab_size": 160, "seq_length": 512, "offset_alibi": 100,
        "apply_residual_connection_post_layernorm": False, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": 1}),
    ("mpt", 53, {
        "architectures": ["MPTForCausalLM"], "d_model": 192, "n_layers": 2, "n_heads": 6,
        "expansion_ratio": 4, "max_seq_len": 512, "vocab_size": 160, "no_bias": True,
        "norm_type": "low_precision_layernorm", "tie_word_embeddings": True,
        "attn_config": {"alibi": True, "alibi_bias_max": 8, "attn_type": "multihead_attention",
                        "clip_qkv": None, "prefix_lm": False, "qk_ln": False,
                        "softmax_scale": None, "attn_uses_sequence_id": False},
        "bos_token_id": None, "eos_token_id": 1}),
]

# Layers with sizes of their own.
SMALL_CASES += [
    ("llama_pruned", 61, small(
        architectures=["LlamaForCausalLM"], num_hidden_layers=3, intermediate_size=[192, 80, 144],
        num_attention_heads=[4, 2, 3], num_key_value_heads=[2, 2, 1])),
    ("decilm_7b", 62, without(small(
        architectures=["DeciLMForCausalLM"], num_hidden_layers=3,
        num_key_value_heads_per_layer=[4, 1, 2]), "num_key_value_heads")),
    ("nemotron_nas", 63, small(
        architectures=["DeciLMForCausalLM"], num_hidden_layers=5, intermediate_size=None,
        num_key_value_heads=None, head_dim=None, rope_scaling={**LLAMA3_ROPE}, block_configs=[
            {"attention": {"n_heads_in_group": 2, "no_op": False, "replace_with_linear": False},
             "ffn": {"ffn_mult": 2.9, "no_op": False, "replace_with_linear": False}},
            {"attention": {"n_heads_in_group": None, "no_op": True}, "ffn": {"ffn_mult": 5.25}},
            {"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": None, "no_op": True}},
            {"attention": {"replace_with_linear": True}, "ffn": {"ffn_mult": 3.0}},
            {"attention": {"n_heads_in_group": 1}, "ffn": {"replace_with_linear": True}}])),
    ("openelm", 64, {
        "architectures": ["OpenELMForCausalLM"], "model_dim": 128, "num_transformer_layers": 3,
        "head_dim": 32, "num_query_heads": [2, 3, 6], "num_kv_heads": [1, 1, 2],
        "ffn_multipliers": [0.6, 1.3, 2.14], "ffn_dim_divisor": 64, "ffn_with_glu": True,
        "activation_fn_name": "swish", "normalization_layer_name": "rms_norm",
        "normalize_qk_projections": True, "share_input_output_layers": True,
        "rope_freq_constant": 10000, "rope_max_length": 1024, "max_context_length": 512,
        "vocab_size": 160, "bos_token_id": None, "eos_token_id": 1, "tie_word_embeddings": True}),
]

MASK = (1 << 64) - 1


def mix64(x):
    """base/hash.h, on numpy arrays of uint64."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def weight_stream(seed, name):
    hash_ = 0xCBF29CE484222325
    for byte in name.encode():
        hash_ = ((hash_ ^ byte) * 0x100000001B3) & MASK
    return mix64(mix64(np.uint64(seed)) ^ np.uint64(hash_))


def random_weights(seed, name, count, mean, deviation):
    with np.errstate(over="ignore"):
        bits = mix64(weight_stream(seed, name) + np.arange(count, dtype=np.uint64))
    low = np.uint64(0xFFFF)
    total = sum((bits >> np.uint64(s)) & low for s in (0, 16, 32, 48)).astype(np.int64) - 131070
    unit = 1.0 / 37837.22
    values = (total * (deviation * unit)).astype(np.float32) + np.float32(mean)
    words = values.view(np.uint32)  # to bf16 and back: nearest, ties to even
    words = (words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return (words << np.uint32(16)).view(np.float32)


def recipe_of(name, shape, one=0):
    """(mean, deviation) of a tensor; `one`: what is stored less one."""
    leaf = name.removesuffix(".weight").split(".")[-1]
    if leaf in ("embed_tokens", "lm_head", "wte", "wpe", "embed_in", "embed_out",
                "embed_positions", "word_embeddings", "token_embeddings"):
        return 0.0, 0.02
    if "word_embeddings_layernorm" in name:  # with more, a tied head repeats every token
        return (0.06, 0.02) if name.endswith(".weight") else (0.0, 0.02)
    if name.endswith(".bias"):
        return 0.0, 0.1
    if name in ("model.norm.weight", "transformer.ln_f.weight", "gpt_neox.final_layer_norm.weight",
                "model.decoder.final_layer_norm.weight", "model.final_layernorm.weight",
                "transformer.norm.weight", "transformer.norm_f.weight"):
        return 15.0 - one, 2.0
    if len(shape) == 1:
        return round(1.2 - one, 1), 0.3
    gain = 1.2 if any(x in name for x in ("q_proj", "k_proj", "qkv_proj")) else 1.0
    inputs = shape[0] if any(x in name for x in (".c_attn.", "attn.c_proj.", "h.0.mlp.c_", "h.1.mlp.c_")) \
        and name.startswith("transformer.h.") else shape[1]
    return 0.0, gain / inputs ** 0.5


def stored_tensors(architecture, key, shape):
    """Which tensors of a published checkpoint make this one of transformers': (name, shape, where in
    it they lie)."""
    if architecture == "GPTNeoXForCausalLM":
        key = key.replace("lm_head.", "embed_out.")
    if architecture == "OpenELMForCausalLM":
        key = layerwise_reference.openelm_name(key)
    if architecture == "MixtralForCausalLM":
        key = key.replace(".mlp.", ".block_sparse_moe.")
    gate, up, down = ("w1", "w3", "w2") if architecture == "MixtralForCausalLM" else (
        "gate_proj", "up_proj", "down_proj")
    if key.endswith("experts.gate_up_proj"):
        half = shape[1] // 2
        for e in range(shape[0]):
            name = f"{key.removesuffix('gate_up_proj')}{e}."
            yield f"{name}{gate}.weight", (half, shape[2]), (e, slice(0, half))
            yield f"{name}{up}.weight", (half, shape[2]), (e, slice(half, None))
    elif key.endswith("experts.down_proj"):
        for e in range(shape[0]):
            yield f"{key.removesuffix('down_proj')}{e}.{down}.weight", tuple(shape[1:]), (e,)
    else:
        yield key, tuple(shape), ()


def pin_frequencies(model, max_model_len):
    """Of kinds that depend on a prompt's length, as they are for `max_model_len` tokens."""
    rotary = model.model.rotary_emb
    if getattr(rotary, "rope_type", "") in ("dynamic", "longrope"):
        initialise = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[rotary.rope_type]
        rotary.inv_freq, rotary.attention_scaling = initialise(
            model.config, "cpu", seq_len=max_model_len)
        rotary.rope_type = "default"


def make_model(config):
    architecture = config["architectures"][0]
    if architecture in layerwise_reference.MODELS and "num_key_value_heads_per_layer" not in config:
        return layerwise_reference.MODELS[architecture](config)
    if any(isinstance(config.get(key), list) for key in
           ("intermediate_size", "num_key_value_heads_per_layer")):
        return layerwise_reference.llama(config)
    model_class = getattr(transformers, architecture.replace("MPT", "Mpt"))
    # A copy: reading a config completes its nested tables in place.
    # The eager attention of Falcon adds its biases twice (in transformers 5.23), the usual one once.
    attention = "sdpa" if config.get("alibi") else "eager"
    ours = model_class.config_class(**copy.deepcopy(config), attn_implementation=attention)
    return model_class(ours)


def make_case(name, seed, config, max_model_len=None):
    is_small = (name, seed) not in [case[:2] for case in CASES]
    model = make_model(config).eval()
    recipe, state = [], {}
    for key, parameter in model.state_dict().items():
        if key in ("lm_head.weight", "embed_out.weight") and config["tie_word_embeddings"]:
            continue
        one = 1 if config["architectures"][0].startswith("Gemma") else 0
        state[key] = torch.zeros_like(parameter)
        for stored, shape, where in stored_tensors(config["architectures"][0], key, parameter.shape):
            mean, deviation = recipe_of(stored, shape, one)
            values = random_weights(seed, stored, int(np.prod(shape)), mean, deviation)
            state[key][where] = torch.from_numpy(values.reshape(shape))
            recipe.append({"name": stored, "shape": list(shape), "mean": mean,
                           "deviation": deviation})
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    model = model.float()
    if is_small and "rope_scaling" in config:
        pin_frequencies(model, max_model_len or config["max_position_embeddings"])

    rng = np.random.default_rng(seed)
    prompts, rows = [], []
    with torch.no_grad():
        for length in (23, 150, 277):
            tokens = rng.integers(0, config["vocab_size"], length).tolist()
            logits = model(torch.tensor([tokens])).logits[0].numpy()
            positions = sorted({*np.linspace(0, length - 1, 8 if is_small else 14).astype(int).tolist()})
            rows.append(logits[positions])
            prompt = {"tokens": tokens, "positions": positions, "greedy": [], "gaps": []}
            if length < 200:  # greedy, step by step with the whole context: no cache to trust
                context = list(tokens)
                for _ in range(GREEDY_STEPS):
                    last = model(torch.tensor([context])).logits[0, -1]
                    top = torch.topk(last, 2)
                    prompt["greedy"].append(int(top.indices[0]))
                    prompt["gaps"].append(round(float(top.values[0] - top.values[1]), 6))
                    context.append(prompt["greedy"][-1])
            prompts.append(prompt)
    stacked = np.concatenate(rows).astype("<f4")
    spread = float(stacked.max() - stacked.min())
    chance = torch.softmax(torch.from_numpy(stacked), -1).max(-1).values.mean()
    print(f"{name}: logits span {spread:.1f}, best token's mean probability {float(chance):.2f}, "
          f"{len(set(sum((p['greedy'] for p in prompts), [])))} distinct greedy tokens")
    stacked.tofile(HERE / f"{name}.logits")
    fixture = {"made_by": f"transformers {transformers.__version__}", "seed": seed,
               "max_model_len": max_model_len or 0, "config": config, "tensors": recipe, "prompts": prompts}
    text = json.dumps(fixture, indent=None, separators=(",", ":"))
    text = text.replace('{"name"', '\n{"name"').replace('{"tokens"', '\n{"tokens"')
    (HERE / f"{name}.json").write_text(text.replace('"config"', '\n"config"') + "\n")


def main():
    torch.set_num_threads(1)
    for case in CASES + SMALL_CASES:
        if not sys.argv[1:] or case[0] in sys.argv[1:]:
            make_case(*case)


if __name__ == "__main__":
    main()
