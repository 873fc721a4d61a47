"""Writes the config.json of a model."""

from typing import Any

from fbp._layer import Layer, name_of
from fbp.combinators import Serial
from fbp.interop._rope_of import rope_config
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
    """The content of config.json for a model made by `gpt2`, `llama`, `mistral`, `qwen2`, `qwen3`.

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
            f"save_pretrained: expected a model made by gpt2, llama, mistral, qwen2 or qwen3, "
            f"got {name_of(model)}"
        ) from error
    return {**config, "tie_word_embeddings": tied}


def _of_gpt2(parts: dict[str, Any]) -> dict[str, Any]:
    attention, feed_forward = _block(parts)
    activation = feed_forward["activation"]
    dropout, of_embedding = (
        part["dropout"].rate if "dropout" in part else 0.0 for part in (attention, parts)
    )
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
        "embedding_dropout": of_embedding,
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
        "embd_pdrop": of_embedding,
        "resid_pdrop": dropout,
        "attn_pdrop": 0.0,
    }


def _of_llama(parts: dict[str, Any]) -> dict[str, Any]:
    attention, feed_forward = _block(parts)
    split, rope = attention["split"], attention["rope"]
    groups = split.kv_heads or split.heads
    window = attention["attend"].window
    bias, output_bias = attention["qkv"].bias, attention["out"].bias
    sizes = {
        "vocab": parts["embed"].n,
        "width": parts["embed"].size,
        "heads": split.heads,
        "layers": parts["blocks"].n,
        "hidden": feed_forward["down"].n_in,
        "kv_heads": groups,
        "head_size": attention["out"].n_in // split.heads,
        "base": rope.base,
        "scaling": rope.scaling,
        "window": window,
        "eps": parts["norm"].eps,
        "attention_bias": bias,
        "output_bias": output_bias,
        "qk_norm": "q_norm" in attention,
        "feed_forward_bias": feed_forward["up"].bias,
        "dtype": parts["embed"].dtype,
    }
    _require_same(llama(**sizes, tied=False), parts)
    config = {
        "vocab_size": sizes["vocab"],
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["hidden"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": groups,
        "head_dim": sizes["head_size"],
        "hidden_act": "silu",
        "rms_norm_eps": sizes["eps"],
        **rope_config(rope.base, rope.scaling),
    }
    return {**_family(sizes), **config}


def _family(sizes: dict[str, Any]) -> dict[str, Any]:
    """The family whose models have these biases, norms and windows, and how it names them."""
    window, bias = sizes["window"], sizes["attention_bias"]
    same, inside = sizes["output_bias"] == bias, sizes["feed_forward_bias"]
    sliding = {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": 0 if window is not None else sizes["layers"],
    }
    if sizes["qk_norm"] and same and not inside:
        return _named_family("qwen3", "Qwen3", {"attention_bias": bias, **sliding})
    if not sizes["qk_norm"] and bias and not same and not inside:
        return _named_family("qwen2", "Qwen2", sliding)
    if not (sizes["qk_norm"] or bias or inside) and same and window is not None:
        return _named_family("mistral", "Mistral", {"sliding_window": window})
    if not sizes["qk_norm"] and same and window is None:
        return _named_family("llama", "Llama", {"attention_bias": bias, "mlp_bias": inside})
    raise TypeError("a mixture of families")


def _named_family(kind: str, name: str, more: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": kind, "architectures": [f"{name}ForCausalLM"], **more}


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
