"""The names and layouts of the parameters in Hugging Face's files."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Names:
    """The tensors of a file that make up one array of fbp's params.

    Attributes:
      parts: the names of the tensors, which are concatenated along the array's last axis. `{i}` is
        the index of a block; the blocks are the array's first axis.
      sizes: the last axis of each part, if there are several.
      transposed: whether the tensors are (out, in), as in PyTorch's Linear.
    """

    parts: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    transposed: bool = False


def gpt2_names() -> dict[str, Names]:
    """The names by fbp's path, for GPT-2, whose matrices are (in, out) as in fbp."""
    names = {
        "embed.w": "wte.weight",
        "positions.w": "wpe.weight",
        "norm.w": "ln_f.weight",
        "norm.b": "ln_f.bias",
    }
    parts = {
        "attention.norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "feed_forward.norm": "ln_2",
        "feed_forward.up": "mlp.c_fc",
        "feed_forward.down": "mlp.c_proj",
    }
    for ours, theirs in parts.items():
        names[f"blocks.{ours}.w"] = f"h.{{i}}.{theirs}.weight"
        names[f"blocks.{ours}.b"] = f"h.{{i}}.{theirs}.bias"
    found = {path: Names((f"transformer.{name}",)) for path, name in names.items()}
    found["unembed.w"] = Names(("lm_head.weight",))
    return found


def llama_names(heads: int, kv_heads: int, head_size: int, hidden: int) -> dict[str, Names]:
    """The names by fbp's path, for Llama and its like: matrices are (out, in); q, k, v separate."""
    block = "model.layers.{i}."
    names = {
        "embed.w": Names(("model.embed_tokens.weight",)),
        "blocks.attention.norm.w": Names((f"{block}input_layernorm.weight",)),
        "blocks.feed_forward.norm.w": Names((f"{block}post_attention_layernorm.weight",)),
        "blocks.attention.q_norm.w": Names((f"{block}self_attn.q_norm.weight",)),
        "blocks.attention.k_norm.w": Names((f"{block}self_attn.k_norm.weight",)),
        "norm.w": Names(("model.norm.weight",)),
        "unembed.w": Names(("lm_head.weight",)),
    }
    qkv = (heads * head_size, kv_heads * head_size, kv_heads * head_size)
    dense: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "attention.qkv": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), qkv),
        "attention.out": (("self_attn.o_proj",), ()),
        "feed_forward.up": (("mlp.gate_proj", "mlp.up_proj"), (hidden, hidden)),
        "feed_forward.down": (("mlp.down_proj",), ()),
    }
    for ours, (theirs, sizes) in dense.items():
        weights = tuple(f"{block}{name}.weight" for name in theirs)
        biases = tuple(f"{block}{name}.bias" for name in theirs)
        names[f"blocks.{ours}.w"] = Names(weights, sizes, transposed=True)
        names[f"blocks.{ours}.b"] = Names(biases, sizes)
    return names


def names_of(config: dict[str, Any]) -> dict[str, Names]:
    """The names for the architecture of a config.json."""
    if config["model_type"] == "gpt2":
        return gpt2_names()
    heads = config["num_attention_heads"]
    return llama_names(
        heads,
        config.get("num_key_value_heads") or heads,
        config.get("head_dim") or config["hidden_size"] // heads,
        config["intermediate_size"],
    )
