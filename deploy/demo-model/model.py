"""A small Llama in PyTorch, with the weight names and config keys of Hugging Face's LlamaForCausalLM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


Past = dict[int, tuple[Tensor, Tensor]]   # layer -> keys and values so far, [batch, kv heads, time, head_dim]


@dataclass(frozen=True)
class Config:
    vocab_size: int
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int = 32
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048

    def to_json(self, bos: int, eos: list[int], pad: int) -> dict:
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **self.__dict__, "attention_bias": False, "attention_dropout": 0.0,
                "mlp_bias": False, "hidden_act": "silu", "initializer_range": 0.02, "rope_scaling": None, "tie_word_embeddings": True, "use_cache": True,
                "pretraining_tp": 1, "torch_dtype": "bfloat16", "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}

    @staticmethod
    def from_json(d: dict) -> Config:
        return Config(**{k: d[k] for k in Config.__dataclass_fields__})


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on x [batch, heads, time, head_dim]: the two halves of a head are rotated against each other."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, c: Config, index: int) -> None:
        super().__init__()
        self.c, self.index = c, index
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, past: Past | None = None) -> Tensor:
        b, t, _ = x.shape
        heads = lambda y: y.view(b, t, -1, self.c.head_dim).transpose(1, 2)
        q, k, v = rotate(heads(self.q_proj(x)), cos, sin), rotate(heads(self.k_proj(x)), cos, sin), heads(self.v_proj(x))
        if past is not None:
            k, v = past[self.index] = (torch.cat((past[self.index][0], k), 2), torch.cat((past[self.index][1], v), 2)) if self.index in past else (k, v)
        group = self.c.num_attention_heads // self.c.num_key_value_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class MLP(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c: Config, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c, index)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, past: Past | None = None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, past)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """`model.embed_tokens` is also the output projection (tied)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.config = c
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.model.layers = nn.ModuleList(Layer(c, i) for i in range(c.num_hidden_layers))
        self.model.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = 0.02 if "embed" in name else p.shape[1] ** -0.5
                if name.endswith(("o_proj.weight", "down_proj.weight")):   # GPT-2: keep the residual stream's variance as depth grows
                    scale /= (2 * c.num_hidden_layers) ** 0.5
                nn.init.normal_(p, std=scale)

    def hidden(self, ids: Tensor, past: Past | None = None) -> Tensor:
        """Final hidden states [batch, time, hidden] of ids [batch, time], which follow the tokens kept in `past`.

        With tokens in `past`, one new token at a time.
        """
        c = self.config
        start = past[0][0].shape[2] if past else 0
        inv = c.rope_theta ** (-torch.arange(0, c.head_dim, 2, dtype=torch.float32) / c.head_dim)
        angle = torch.outer(torch.arange(start, start + ids.shape[1], dtype=torch.float32), inv)
        cos, sin = angle.cos(), angle.sin()
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin, past)
        return self.model.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.model.embed_tokens.weight.t()


def save(model: Llama, out: Path) -> None:
    tensors = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    path = out / "model.safetensors"
    save_file(tensors, str(path), metadata={"format": "pt"})
    path.chmod(0o644)   # safetensors writes through a private temporary file


def load(directory: Path) -> Llama:
    model = Llama(Config.from_json(json.loads((directory / "config.json").read_text())))
    model.load_state_dict({k: v.float() for k, v in load_file(str(directory / "model.safetensors")).items()})
    return model.eval()
