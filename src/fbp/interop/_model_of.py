"""Builds the model that a config.json describes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from fbp._layer import Layer
from fbp.interop._config import CONFIG, expect, expect_choice
from fbp.interop._config_of import ACTIVATIONS
from fbp.interop._files import FolderError, shown
from fbp.interop._rope_of import rope_of
from fbp.models._gpt2 import gpt2
from fbp.models._llama import llama, mistral, qwen2, qwen3

Config = dict[str, Any]


def model_of(folder: Path, config: Config, dtype: DTypeLike, *, dropout: bool = False) -> Layer:
    """The model that a config describes, with parameters of this dtype.

    Args:
      folder: its name in messages.
      config: what config.json says.
      dtype: of the parameters.
      dropout: whether the model has the config's dropout.

    Raises:
      FolderError: the config describes another model, or a variant that is not supported.
    """
    kind = config.get("model_type")
    if not (isinstance(kind, str) and kind in FAMILIES):
        *known, last = FAMILIES
        raise FolderError(
            f"{folder}: expected model_type {', '.join(known)} or {last}, got {shown(kind)}"
        )
    try:
        _require_plain(config)
        build, sizes_of = FAMILIES[kind]
        sizes = sizes_of(complete(config))
        if kind == "gpt2" and dropout:
            sizes |= _dropouts(config)
        return build(**sizes, dtype=dtype)
    except FolderError as error:
        raise FolderError(f"{folder}: {error}") from None
    except ValueError as error:
        raise FolderError(f"{folder}: {CONFIG}: {error}") from None


def complete(config: Config) -> Config:
    """A config with what transformers takes where a name is absent."""
    return {**_ABSENT.get(config["model_type"], {}), **config}


def left_out_dropout(config: Config) -> float:
    """The dropout of attention's probabilities in a config, which no layer here has."""
    name = "attn_pdrop" if config.get("model_type") == "gpt2" else "attention_dropout"
    default = 0.1 if name == "attn_pdrop" else 0.0
    return expect(config, name, float, default, at_least=0)


def _dropouts(config: Config) -> dict[str, float]:
    return {
        "dropout": expect(config, "resid_pdrop", float, 0.1, at_least=0),
        "embedding_dropout": expect(config, "embd_pdrop", float, 0.1, at_least=0),
    }


def _require_plain(config: Config) -> None:
    """Raises where the tensors are not the weights themselves."""
    for name in ("quantization_config", "compression_config"):
        how = config.get(name)
        if how:
            kind = how.get("quant_method") if isinstance(how, dict) else how
            raise FolderError(
                f"{CONFIG}: expected weights that are not quantized, got {name} "
                f"{shown(kind)}: save the model dequantized, or take its folder in bfloat16"
            )


def _gpt2(config: Config) -> dict[str, Any]:
    _require(config, "scale_attn_weights", True)
    _require(config, "scale_attn_by_inverse_layer_idx", False)
    _require(config, "reorder_and_upcast_attn", False)
    _require(config, "add_cross_attention", False)
    activation = expect_choice(config, "activation_function", list(ACTIVATIONS), "gelu_new")
    return {
        "vocab": _size(config, "vocab_size"),
        "context": _size(config, "n_positions"),
        "width": _size(config, "n_embd"),
        "heads": _size(config, "n_head"),
        "layers": _size(config, "n_layer"),
        "hidden": _size(config, "n_inner", default=None),
        "activation": ACTIVATIONS[activation],
        "eps": expect(config, "layer_norm_epsilon", float, 1e-5),
        "tied": expect(config, "tie_word_embeddings", bool, True),
    }


def _llama(config: Config) -> dict[str, Any]:
    """The sizes that Llama, Mistral, Qwen2 and Qwen3 share."""
    _require(config, "hidden_act", "silu")
    base, scaling = rope_of(config)
    return {
        "vocab": _size(config, "vocab_size"),
        "width": _size(config, "hidden_size"),
        "heads": _size(config, "num_attention_heads"),
        "layers": _size(config, "num_hidden_layers"),
        "hidden": _size(config, "intermediate_size"),
        "kv_heads": _size(config, "num_key_value_heads", default=None),
        "head_size": _size(config, "head_dim", default=None),
        "base": base,
        "scaling": scaling,
        "eps": expect(config, "rms_norm_eps", float, 1e-6),
        "tied": expect(config, "tie_word_embeddings", bool, False),
    }


def _of_llama(config: Config) -> dict[str, Any]:
    biases = {
        "attention_bias": expect(config, "attention_bias", bool, False),
        "feed_forward_bias": expect(config, "mlp_bias", bool, False),
    }
    return {**_llama(config), **biases}


def _of_mistral(config: Config) -> dict[str, Any]:
    return {**_llama(config), "window": _size(config, "sliding_window", default=None)}


def _of_qwen2(config: Config) -> dict[str, Any]:
    return {**_llama(config), "window": _window(config)}


def _of_qwen3(config: Config) -> dict[str, Any]:
    bias = expect(config, "attention_bias", bool, False)
    return {**_llama(config), "window": _window(config), "attention_bias": bias}


def _window(config: Config) -> int | None:
    """The window of a Qwen, in which each layer has one or none: here all or none must have it."""
    window = None
    if expect(config, "use_sliding_window", bool, False):
        window = _size(config, "sliding_window", default=None)
    layers, first = _size(config, "num_hidden_layers"), config.get("max_window_layers", 28)
    kinds = expect(config, "layer_types", list, None)
    if kinds is None:
        first = expect({"max_window_layers": first}, "max_window_layers", int)
        slides = [window is not None and i >= first for i in range(min(layers, 10_000))]
    else:
        slides = [kind == "sliding_attention" for kind in kinds]
        other = [k for k in kinds if k not in ("sliding_attention", "full_attention")]
        if other or len(kinds) != layers:
            raise FolderError(
                f"{CONFIG}: expected layer_types to be full_attention or sliding_attention of "
                f"{layers} layers, got {shown(kinds)}"
            )
    if any(slides) and not all(slides):
        raise FolderError(
            f"{CONFIG}: expected all layers to have a sliding window or none, got "
            f"{sum(slides)} of {len(slides)}"
        )
    return window if any(slides) else None


FAMILIES: dict[str, tuple[Callable[..., Layer], Callable[[Config], dict[str, Any]]]] = {
    "gpt2": (gpt2, _gpt2),
    "llama": (llama, _of_llama),
    "mistral": (mistral, _of_mistral),
    "qwen2": (qwen2, _of_qwen2),
    "qwen3": (qwen3, _of_qwen3),
}
# What transformers takes where config.json has no such name at all; null is no such default.
_ABSENT: dict[str, Config] = {
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"num_key_value_heads": 32, "sliding_window": 4096},
    "qwen3": {"num_key_value_heads": 32, "sliding_window": 4096, "head_dim": 128},
}


def _size(config: Config, name: str, **default: None) -> Any:
    return expect(config, name, int, at_least=1, **default)


def _require(config: Config, name: str, value: Any) -> None:
    got = config.get(name, value)
    if got != value:
        raise FolderError(f"{CONFIG}: expected {name} to be {value!r}, got {got!r}")
