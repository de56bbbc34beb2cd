"""Models whose layers have sizes of their own, which transformers has not: its own layers, each made
from the config of a model that has only such layers."""

import copy
import types

import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer


class NoAttention(torch.nn.Module):
    def forward(self, hidden_states, **_):
        return torch.zeros_like(hidden_states), None


class LinearAttention(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.linear_attn = torch.nn.Linear(size, size, bias=False)

    def forward(self, hidden_states, **_):
        return self.linear_attn(hidden_states), None


class NoMlp(torch.nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


class LinearMlp(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.linear_mlp = torch.nn.Linear(size, size, bias=False)

    def forward(self, x):
        return self.linear_mlp(x)


class Rows(torch.nn.Module):
    """Some rows of a fused projection, which owns them."""

    def __init__(self, fused, begin, count):
        super().__init__()
        self.fused, self.begin, self.end = [fused], begin, begin + count

    def forward(self, x):
        return torch.nn.functional.linear(x, self.fused[0].weight[self.begin:self.end])


def fuse(module, name, inputs, parts):
    fused = torch.nn.Linear(inputs, sum(parts.values()), bias=False)
    setattr(module, name, fused)
    begin = 0
    for part, count in parts.items():
        setattr(module, part, Rows(fused, begin, count))
        begin += count


def sizes(config, key):
    """A list, however the config has it."""
    value = config.get(f"{key}_per_layer", config.get(key))
    return value if isinstance(value, list) else [value] * config["num_hidden_layers"]


def stacked(model_class, layer_class, config, heads, kv_heads, ffn):
    """A model of `model_class` with layers of these sizes; 0: whatever, it will be replaced."""
    plain = {**config, "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 1}
    ours = model_class.config_class(**copy.deepcopy(plain), attn_implementation="eager")
    model = model_class(ours)
    for i in range(ours.num_hidden_layers):
        own = copy.deepcopy(ours)
        own.num_attention_heads, own.num_key_value_heads = heads[i] or 1, kv_heads[i] or 1
        own.intermediate_size = ffn[i] or 1
        model.model.layers[i] = layer_class(own, i)
    return model


def llama(config):
    plain = {k: v for k, v in config.items() if not k.endswith("_per_layer")}
    return stacked(transformers.LlamaForCausalLM, LlamaDecoderLayer, plain,
                   *(sizes(config, key) for key in
                     ("num_attention_heads", "num_key_value_heads", "intermediate_size")))


def decilm(config):
    blocks = [types.SimpleNamespace(**block) for block in config["block_configs"]]
    heads, size = config["num_attention_heads"], config["hidden_size"]
    plain = {**config, "head_dim": size // heads}
    del plain["block_configs"]
    ffn = [-(-int(2 * (b.ffn.get("ffn_mult") or 1) * size / 3) // 256) * 256 for b in blocks]
    model = stacked(transformers.LlamaForCausalLM, LlamaDecoderLayer, plain, [heads] * len(blocks),
                    [heads // (b.attention.get("n_heads_in_group") or heads) for b in blocks], ffn)
    for layer, block in zip(model.model.layers, blocks):
        if block.attention.get("no_op"):
            layer.self_attn, layer.input_layernorm = NoAttention(), torch.nn.Identity()
        if block.attention.get("replace_with_linear"):
            layer.self_attn = LinearAttention(size)
        if block.ffn.get("no_op"):
            layer.mlp, layer.post_attention_layernorm = NoMlp(), torch.nn.Identity()
        if block.ffn.get("replace_with_linear"):
            layer.mlp = LinearMlp(size)
    return model


def openelm(config):
    size, dim, divisor = config["model_dim"], config["head_dim"], config["ffn_dim_divisor"]
    heads, kv_heads = config["num_query_heads"], config["num_kv_heads"]
    ffn = []
    for multiplier in config["ffn_multipliers"]:
        width = max(divisor, int(multiplier * size + divisor / 2) // divisor * divisor)
        ffn.append(width if width >= 0.9 * multiplier * size else width + divisor)
    plain = dict(
        hidden_size=size, head_dim=dim, num_hidden_layers=config["num_transformer_layers"],
        vocab_size=config["vocab_size"], max_position_embeddings=config["max_context_length"],
        rms_norm_eps=1e-6, rope_theta=config["rope_freq_constant"], hidden_act="silu",
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=1)
    model = stacked(transformers.Qwen3ForCausalLM, Qwen3DecoderLayer, plain, heads, kv_heads, ffn)
    for i, layer in enumerate(model.model.layers):
        fuse(layer.self_attn, "qkv_proj", size, {
            "q_proj": heads[i] * dim, "k_proj": kv_heads[i] * dim, "v_proj": kv_heads[i] * dim})
        fuse(layer.mlp, "proj_1", size, {"gate_proj": ffn[i], "up_proj": ffn[i]})
    return model


def openelm_name(key):
    for old, new in (("model.embed_tokens", "transformer.token_embeddings"), ("model.", "transformer."),
                     ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
                     ("self_attn.", "attn."), ("o_proj", "out_proj"), ("mlp.", "ffn."),
                     ("down_proj", "proj_2")):
        key = key.replace(old, new)
    return key


MODELS = {"DeciLMForCausalLM": decilm, "OpenELMForCausalLM": openelm}
