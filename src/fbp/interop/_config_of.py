"""Writes the config.json of a model."""

from typing import Any

from fbp._layer import Layer, name_of
from fbp.combinators import Serial
from fbp.layers import Gelu, Relu, Silu
from fbp.models._gpt2 import gpt2
from fbp.models._llama import llama
from fbp.ports import Tie

ACTIVATIONS: dict[str, Layer] = {
    "gelu_new": Gelu(),
    "gelu_pytorch_tanh": Gelu(),
    "gelu": Gelu(tanh=False),
    "relu": Relu(),
    "silu": Silu(),
}


def config_of(model: Layer) -> dict[str, Any]:
    """The content of config.json for a model made by `gpt2` or `llama`.

    Raises:
      ValueError: the model is not one of these, or a config.json cannot describe it.
    """
    tied = isinstance(model, Tie)
    serial: Any = model.layer if isinstance(model, Tie) else model
    try:
        parts = _named(serial)
        config = (_of_gpt2 if "positions" in parts else _of_llama)(parts)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"save_pretrained: expected a model made by gpt2, or by llama without a window, "
            f"got {name_of(model)}"
        ) from error
    return {**config, "tie_word_embeddings": tied}


def _of_gpt2(parts: dict[str, Any]) -> dict[str, Any]:
    attention, feed_forward = _block(parts)
    activation = feed_forward["activation"]
    dropout = parts["dropout"].rate if "dropout" in parts else 0.0
    sizes = {
        "vocab": parts["embed"].n,
        "context": parts["positions"].n,
        "width": parts["embed"].size,
        "heads": attention["split"].heads,
        "layers": parts["blocks"].n,
        "hidden": feed_forward["up"].n_out,
        "activation": activation,
        "eps": parts["norm"].eps,
        "dropout": dropout,
        "dtype": parts["embed"].dtype,
    }
    _require_same(gpt2(**sizes, tied=False), parts)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": sizes["vocab"],
        "n_positions": sizes["context"],
        "n_embd": sizes["width"],
        "n_head": sizes["heads"],
        "n_layer": sizes["layers"],
        "n_inner": sizes["hidden"],
        "activation_function": _activation_name(activation),
        "layer_norm_epsilon": sizes["eps"],
        "embd_pdrop": dropout,
        "resid_pdrop": dropout,
        "attn_pdrop": 0.0,
    }


def _of_llama(parts: dict[str, Any]) -> dict[str, Any]:
    attention, feed_forward = _block(parts)
    split, rope = attention["split"], attention["rope"]
    groups = split.kv_heads or split.heads
    head_size = attention["out"].n_in // split.heads
    sizes = {
        "vocab": parts["embed"].n,
        "width": parts["embed"].size,
        "heads": split.heads,
        "layers": parts["blocks"].n,
        "hidden": feed_forward["down"].n_in,
        "kv_heads": groups,
        "head_size": head_size,
        "base": rope.base,
        "scaling": rope.scaling,
        "eps": parts["norm"].eps,
        "attention_bias": attention["qkv"].bias,
        "feed_forward_bias": feed_forward["up"].bias,
        "dtype": parts["embed"].dtype,
    }
    _require_same(llama(**sizes, tied=False), parts)
    scaling = {"rope_type": "default"}
    if rope.scaling is not None:
        scaling = {
            "rope_type": "llama3",
            "factor": rope.scaling.factor,
            "low_freq_factor": rope.scaling.low,
            "high_freq_factor": rope.scaling.high,
            "original_max_position_embeddings": rope.scaling.context,
        }
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": sizes["vocab"],
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["hidden"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": groups,
        "head_dim": head_size,
        "hidden_act": "silu",
        "rms_norm_eps": sizes["eps"],
        "attention_bias": sizes["attention_bias"],
        "mlp_bias": sizes["feed_forward_bias"],
        # Newer versions of transformers read `rope_parameters`, older ones the other two.
        "rope_parameters": {**scaling, "rope_theta": rope.base},
        "rope_theta": rope.base,
        "rope_scaling": None if rope.scaling is None else scaling,
    }


def _activation_name(activation: Layer) -> str:
    for name, layer in ACTIVATIONS.items():
        if layer == activation:
            return name
    known = ", ".join(ACTIVATIONS)
    raise ValueError(f"save_pretrained: expected an activation of {known}, got {activation!r}")


def _block(parts: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The layers of a block's two parts, by their names."""
    block = _named(parts["blocks"].layer)
    return _named(block["attention"].layer), _named(block["feed_forward"].layer)


def _named(serial: Any) -> dict[str, Any]:
    return dict(zip(serial.names, serial.layers, strict=True))


def _require_same(model: Layer, parts: dict[str, Any]) -> None:
    """Raises TypeError unless the model made from the config's values has the same parts."""
    if model != Serial(**parts):
        raise TypeError("another model")
