"""What arrays are called in Hugging Face's files, and how they lie there."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Names:
    """Where the numbers of one array of ours are.

    Attributes:
      parts: the tensors whose last axes (as we have them) lie side by side in it. `{i}` is the
        number of a block; the blocks are our array's first axis.
      sizes: of these last axes, where there are several.
      transposed: whether the tensors are (out, in), as PyTorch's Linear has them.
    """

    parts: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    transposed: bool = False


def gpt2_names() -> dict[str, Names]:
    """By our path, for GPT-2, whose matrices are (in, out) as ours."""
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
    """By our path, for Llama, whose matrices are (out, in), and queries, keys and values apart."""
    block = "model.layers.{i}."
    names = {
        "embed.w": Names(("model.embed_tokens.weight",)),
        "blocks.attention.norm.w": Names((f"{block}input_layernorm.weight",)),
        "blocks.feed_forward.norm.w": Names((f"{block}post_attention_layernorm.weight",)),
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
    """The names of a config.json's architecture."""
    if config["model_type"] == "gpt2":
        return gpt2_names()
    heads = config["num_attention_heads"]
    return llama_names(
        heads,
        config.get("num_key_value_heads") or heads,
        config.get("head_dim") or config["hidden_size"] // heads,
        config["intermediate_size"],
    )
