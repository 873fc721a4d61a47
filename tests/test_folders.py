"""Folders of GPT-2 and Llama models that are not as they should be: each gets one clear line."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

import fbp
from fbp.interop import FolderError, _hugging_face, read_tensors, write_tensors


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


def with_more(name: str, array: np.ndarray) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = {n: np.array(a) for n, a in read_tensors(folder).items()}
        (folder / "model.safetensors").unlink()
        write_tensors(folder, {**tensors, name: array})

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
LONG = {"max_position_embeddings": 64}
PROJECTION = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_config(model_type="bert"),
            r"expected model_type gpt2, .* or qwen3, got 'bert'",
        ),
        (with_config(num_attention_heads=3), "expected heads to divide the width|kv_heads"),
        (with_config(head_dim=None, num_attention_heads=3), "llama: expected heads to divide the"),
        (with_config(hidden_act="gelu"), "expected hidden_act to be 'silu', got 'gelu'"),
        (
            with_config(rope_parameters={"rope_type": "spiral"}),
            r"expected rope_type to be one of default, linear, .*, got 'spiral'",
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
        (
            with_config(rope_parameters={"rope_type": "yarn"}, max_position_embeddings=None),
            "expected original_max_position_embeddings, an integer, got none",
        ),
        (
            with_config(rope_parameters={"rope_type": "dynamic", "factor": 0.5}, **LONG),
            "DynamicScaling: expected a factor and a context of 1 or more, got factor=0.5",
        ),
        (
            with_config(rope_parameters={"rope_type": "linear", "factor": 0}),
            "LinearScaling: expected factor above 0, got 0.0",
        ),
        (
            with_config(
                rope_parameters={"rope_type": "longrope", "short_factor": [1, "2"]}, **LONG
            ),
            "expected short_factor to be a number, got '2'",
        ),
        (with_config(partial_rotary_factor=0.5), "expected partial_rotary_factor to be 1, got 0.5"),
        (
            with_config(quantization_config={"quant_method": "fp8"}),
            "expected weights that are not quantized, got quantization_config 'fp8'",
        ),
        (
            with_config(model_type="qwen2", use_sliding_window=True, layer_types=["linear"]),
            r"expected layer_types to be full_attention or sliding_attention of 1 layers",
        ),
        (
            with_more(f"{PROJECTION}_scale", np.ones(1, np.float32)),
            rf"expected only the tensors that config\.json describes, got '{PROJECTION}_scale'",
        ),
        (
            with_more("model.layers.1.self_attn.q_proj.weight", np.ones((4, 4), np.float32)),
            r"expected only the tensors that config\.json describes, got 'model\.layers\.1",
        ),
        (
            with_tensor(PROJECTION, np.ones((4, 4), ml_dtypes.float8_e4m3fn)),
            rf"expected weights that are not quantized, got {PROJECTION} of float8_e4m3fn",
        ),
        (
            with_tensor(PROJECTION, np.ones((4, 4), np.int8)),
            rf"expected {PROJECTION} of floats, got int8",
        ),
        (
            with_config(tie_word_embeddings=True),
            "expected lm_head.weight to be model.embed_tokens.weight, since tie_word_embeddings is",
        ),
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
        with pytest.raises(ValueError, match="expected a model made by gpt2, llama"):
            fbp.models.save_pretrained(tmp_path, model, model.init(jax.random.key(0)))
    model = fbp.models.qwen3(vocab=7, width=4, heads=2, layers=1, hidden=3, feed_forward_bias=True)
    with pytest.raises(ValueError, match="llama, mistral, qwen2 or qwen3, got Serial"):
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


def test_a_folder_is_there_whole_or_not_at_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, params = fbp.models.from_pretrained(folder)
    there = sorted(tmp_path.iterdir())
    for broken in ("write_tensors", "write_file"):
        with monkeypatch.context() as patch:
            patch.setattr(_hugging_face, broken, full)
            with pytest.raises(FolderError, match="ours: cannot be written: No space left"):
                fbp.models.save_pretrained(tmp_path / "ours", model, params)
        assert sorted(tmp_path.iterdir()) == there
    fbp.models.save_pretrained(tmp_path / "ours", model, params)
    assert (tmp_path / "ours").stat().st_mode == folder.stat().st_mode


def full(*args: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_files_of_others_are_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("theirs")
    model, params = fbp.models.from_pretrained(folder)
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "notes.txt").write_text("mine")
    (ours / "tokenizer.json").write_text("mine")
    with pytest.raises(FolderError, match=r"tokenizer\.json is there already and is kept"):
        fbp.models.save_pretrained(ours, model, params)
    assert sorted(path.name for path in ours.iterdir()) == ["notes.txt", "tokenizer.json"]
    (ours / "tokenizer.json").unlink()
    fbp.models.save_pretrained(ours, model, params)
    assert (ours / "tokenizer.json").read_text() == "theirs"
    assert (ours / "notes.txt").read_text() == "mine"
