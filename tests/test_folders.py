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
    fbp.models.save_pretrained(tmp_path / "made", model, model.init(jax.random.key(0)))
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
        (with_config(num_hidden_layers=-1), "expected layers of 1 or more, got -1"),
        (with_config(num_hidden_layers=2), r"expected a tensor model\.layers\.1\.\S+, got none"),
        (with_tensor(NORM, None), f"expected a tensor {NORM}, got none"),
        (
            with_tensor(NORM, np.ones(5, np.float32)),
            rf"expected {NORM} of shape \(4,\), got \(5,\)",
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


def test_what_is_there_is_kept(folder: Path) -> None:
    model, params = fbp.models.from_pretrained(folder)
    with pytest.raises(FolderError, match=r"config\.json is there already and is kept"):
        fbp.models.save_pretrained(folder, model, params)


def test_only_models_that_others_know_are_saved(tmp_path: Path) -> None:
    for model in (fbp.Dense(3, 5), fbp.models.char_lstm(5, 3)):
        with pytest.raises(ValueError, match="expected a model made by gpt2 or llama"):
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
