"""Folders of GPT-2 and Llama models that are not as they should be: each gets one clear line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fbp
from fbp.interop import FolderError, read_tensors, write_tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = fbp.models.llama(vocab=7, width=4, heads=2, layers=1, hidden=3)
    params = jax.jit(model.init)(jax.random.key(0))
    fbp.models.save_pretrained(tmp_path / "made", model, params)
    return tmp_path / "made"


def with_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def with_tensor(name: str, array: np.ndarray | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = {n: np.array(a) for n, a in read_tensors(folder).items()}
        (folder / "model.safetensors").unlink()
        del tensors[name]
        write_tensors(folder, tensors if array is None else {**tensors, name: array})

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
NORM = "model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_config(model_type="bert"), "expected model_type gpt2 or llama, got 'bert'"),
        (with_config(num_attention_heads=3), "expected heads to divide the width|kv_heads"),
        (with_config(head_dim=None, num_attention_heads=3), "llama: expected heads to divide the"),
        (with_config(hidden_act="gelu"), "expected hidden_act to be 'silu', got 'gelu'"),
        (
            with_config(rope_parameters={"rope_type": "yarn"}),
            "expected rope_type default or llama3, got 'yarn'",
        ),
        (with_config(vocab_size="7"), "expected vocab_size to be an integer, got '7'"),
        (with_config(num_hidden_layers=-1), "expected num_hidden_layers to be 1 or more, got -1"),
        (with_config(num_attention_heads=None), "expected num_attention_heads to be an integer"),
        (with_config(head_dim={}), "expected head_dim to be an integer, got {}"),
        (with_config(rope_parameters="llama3"), "expected rope_parameters to be an object, got"),
        (with_config(rope_parameters={"rope_theta": 0}), "expected rope_theta to be 1 or more"),
        (
            with_config(rope_parameters={**LLAMA_3, "low_freq_factor": 4}),
            r"expected a factor above 0 and high above low above 0, got factor=8\.0, low=4\.0",
        ),
        # Nothing of that size is asked of the machine.
        (with_config(vocab_size=10**15), r"of shape \(1000000000000000, 4\), got \(7, 4\)"),
        (with_config(num_hidden_layers=10**15), r"expected a tensor model\.layers\.1\.\S+, got"),
        (with_config(num_hidden_layers=2), r"expected a tensor model\.layers\.1\.\S+, got none"),
        (with_tensor(NORM, None), f"expected a tensor {NORM}, got none"),
        (
            with_tensor(NORM, np.ones(5, np.float32)),
            rf"expected {NORM} of shape \(4,\), got \(5,\)",
        ),
        (
            with_tensor("model.embed_tokens.weight", np.ones((7, 4), np.int32)),
            r"expected model\.embed_tokens\.weight of floats, got int32",
        ),
        (pickled, "pickle files are not read, because they can execute code"),
    ],
)
def test_a_bad_folder_gets_one_clear_line(
    change: Callable[[Path], None], message: str, folder: Path
) -> None:
    change(folder)
    with pytest.raises(FolderError, match=message) as caught:
        fbp.models.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_gpt2_of_an_unknown_activation(tmp_path: Path) -> None:
    model = fbp.models.gpt2(vocab=7, context=5, width=4, heads=2, layers=1)
    fbp.models.save_pretrained(tmp_path, model, model.init(jax.random.key(0)))
    for name in ("tanh", ["gelu"]):
        with_config(activation_function=name)(tmp_path)
        with pytest.raises(FolderError, match="expected activation_function to be"):
            fbp.models.from_pretrained(tmp_path)


def test_what_is_there_is_kept(folder: Path) -> None:
    model, params = fbp.models.from_pretrained(folder)
    with pytest.raises(FolderError, match=r"config\.json is there already and is kept"):
        fbp.models.save_pretrained(folder, model, params)


def test_only_models_that_others_know_are_saved(tmp_path: Path) -> None:
    for model in (fbp.Dense(3, 5), fbp.models.char_lstm(5, 3)):
        with pytest.raises(ValueError, match="expected a model made by gpt2, or by llama"):
            fbp.models.save_pretrained(tmp_path, model, model.init(jax.random.key(0)))
    model = fbp.models.llama(vocab=7, width=4, heads=2, layers=1, hidden=3, window=2)
    with pytest.raises(ValueError, match="or by llama without a window, got Serial"):
        fbp.models.save_pretrained(tmp_path, model, model.init(jax.random.key(0)))
    model = fbp.models.gpt2(
        vocab=7, context=5, width=4, heads=2, layers=1, activation=fbp.LeakyRelu()
    )
    with pytest.raises(ValueError, match=r"expected an activation of gelu_new, .*, got LeakyRelu"):
        fbp.models.save_pretrained(tmp_path, model, model.init(jax.random.key(0)))
    model = fbp.models.gpt2(vocab=7, context=5, width=4, heads=2, layers=1)
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"expected embed\.w of shape \(7, 4\), got \(6, 4\)"):
        fbp.models.save_pretrained(
            tmp_path, model, {**params, "embed": {"w": params["embed"]["w"][:6]}}
        )
    with pytest.raises(ValueError, match="expected params of the model, got"):
        fbp.models.save_pretrained(tmp_path, model, {"embed": params["embed"]})
    assert not list(tmp_path.iterdir())
