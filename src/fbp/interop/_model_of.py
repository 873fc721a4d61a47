"""Builds the model that a config.json describes."""

from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from fbp._layer import Layer
from fbp.interop._config import CONFIG, expect, expect_choice
from fbp.interop._config_of import ACTIVATIONS
from fbp.interop._files import FolderError
from fbp.layers import Llama3Scaling
from fbp.models._gpt2 import gpt2
from fbp.models._llama import llama

Config = dict[str, Any]


def model_of(folder: Path, config: Config, dtype: DTypeLike) -> Layer:
    """The GPT-2 or the Llama that a config describes, with parameters of this dtype.

    Raises:
      FolderError: the config describes another model, or a variant that is not supported.
    """
    kind = config.get("model_type")
    try:
        if kind == "gpt2":
            return gpt2(**_gpt2(config), dtype=dtype)
        if kind == "llama":
            return llama(**_llama(config), dtype=dtype)
    except FolderError as error:
        raise FolderError(f"{folder}: {error}") from None
    except ValueError as error:
        raise FolderError(f"{folder}: {CONFIG}: {error}") from None
    raise FolderError(f"{folder}: expected model_type gpt2 or llama, got {kind!r}")


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
    _require(config, "hidden_act", "silu")
    # Newer folders have one object, older ones a number and a separate object for the scaling.
    rope = expect(config, "rope_parameters", dict, None)
    rope = rope or expect(config, "rope_scaling", dict, None) or {}
    return {
        "vocab": _size(config, "vocab_size"),
        "width": _size(config, "hidden_size"),
        "heads": _size(config, "num_attention_heads"),
        "layers": _size(config, "num_hidden_layers"),
        "hidden": _size(config, "intermediate_size"),
        "kv_heads": _size(config, "num_key_value_heads", default=None),
        "head_size": _size(config, "head_dim", default=None),
        "base": expect({**config, **rope}, "rope_theta", float, 10_000.0, at_least=1),
        "scaling": _scaling(rope),
        "eps": expect(config, "rms_norm_eps", float, 1e-6),
        "attention_bias": expect(config, "attention_bias", bool, False),
        "feed_forward_bias": expect(config, "mlp_bias", bool, False),
        "tied": expect(config, "tie_word_embeddings", bool, False),
    }


def _scaling(rope: Config) -> Llama3Scaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise FolderError(f"{CONFIG}: expected rope_type default or llama3, got {kind!r}")
    return Llama3Scaling(
        factor=expect(rope, "factor", float),
        low=expect(rope, "low_freq_factor", float),
        high=expect(rope, "high_freq_factor", float),
        context=_size(rope, "original_max_position_embeddings"),
    )


def _size(config: Config, name: str, **default: None) -> Any:
    return expect(config, name, int, at_least=1, **default)


def _require(config: Config, name: str, value: Any) -> None:
    got = config.get(name, value)
    if got != value:
        raise FolderError(f"{CONFIG}: expected {name} to be {value!r}, got {got!r}")
