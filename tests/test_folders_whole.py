"""Forty folders that `transformers` wrote: the same numbers come out, and the same folder again."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp._tree import named_leaves

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
from test_pretrained import close, loss_of, their_gradients  # noqa: E402

pytestmark = pytest.mark.torch

GPT2: dict[str, Any] = {
    "vocab_size": 61,
    "n_positions": 40,
    "n_embd": 24,
    "n_head": 4,
    "n_layer": 2,
    "bos_token_id": 3,
    "eos_token_id": 5,
}
LLAMA: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 3,
    "eos_token_id": [5, 7],
}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 700.0, **more}}


def scaled(**more: Any) -> dict[str, Any]:
    return rope(**{"original_max_position_embeddings": 16, **more})


SHORT, LONG = [1.0, 1.25, 1.5, 2.0], [2.0, 3.0, 5.0, 9.0]
LONGROPE = {"kind": "longrope", "short_factor": SHORT, "long_factor": LONG}
# A sequence has 33 tokens: longer than some of these contexts, shorter than others.
FOLDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {}),
    "gpt2/no_dropout": ("GPT2", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "gpt2/odd_dropouts": ("GPT2", {"resid_pdrop": 0.2, "embd_pdrop": 0.3, "attn_pdrop": 0.4}),
    "gpt2/untied": ("GPT2", {"tie_word_embeddings": False, "n_inner": 36}),
    "gpt2/relu": ("GPT2", {"activation_function": "relu", "layer_norm_epsilon": 1e-3}),
    "gpt2/one_head": ("GPT2", {"n_head": 1, "n_layer": 1}),
    "gpt2/task_specific": ("GPT2", {"task_specific_params": {"a": {"max_length": 50}}}),
    "gpt2/no_ends": ("GPT2", {"bos_token_id": None, "eos_token_id": None}),
    "llama": ("Llama", {}),
    "llama/long": ("Llama", {"max_position_embeddings": 131072}),
    "llama/tied": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 6}),
    "llama/biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama/one_group": ("Llama", {"num_key_value_heads": 1, "rms_norm_eps": 1e-4}),
    "llama/dropout": ("Llama", {"attention_dropout": 0.1, "initializer_range": 0.1}),
    "llama/pad": ("Llama", {"pad_token_id": 0, "use_cache": False, "eos_token_id": 5}),
    "llama/theta": ("Llama", rope("default")),
    "llama/linear": ("Llama", rope("linear", factor=4.0)),
    "llama/dynamic": ("Llama", rope("dynamic", factor=2.0)),
    "llama/dynamic_beyond": (
        "Llama",
        {**rope("dynamic", factor=3.0), "max_position_embeddings": 8},
    ),
    "llama/yarn": ("Llama", scaled(kind="yarn", factor=4.0)),
    "llama/yarn_more": (
        "Llama",
        scaled(kind="yarn", factor=4.0, beta_fast=4.0, beta_slow=0.5, attention_factor=1.3),
    ),
    "llama/yarn_not_whole": ("Llama", scaled(kind="yarn", factor=2.0, truncate=False, beta_fast=3)),
    "llama/yarn_mscale": (
        "Llama",
        scaled(kind="yarn", factor=8.0, mscale=0.7, mscale_all_dim=0.4, beta_fast=2),
    ),
    "llama/longrope": ("Llama", scaled(**LONGROPE, factor=4.0)),
    "llama/longrope_short": (
        "Llama",
        scaled(**LONGROPE, attention_factor=1.1, original_max_position_embeddings=40),
    ),
    "llama/llama3": (
        "Llama",
        scaled(kind="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0),
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral/window": ("Mistral", {"sliding_window": 5}),
    "mistral/wide_window": ("Mistral", {"tie_word_embeddings": True}),
    "mistral/yarn": ("Mistral", {**scaled(kind="yarn", factor=2.0), "sliding_window": 9}),
    "qwen2": ("Qwen2", {}),
    "qwen2/tied": ("Qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 6}),
    "qwen2/window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    ),
    "qwen2/window_unused": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5}),
    "qwen2/yarn": ("Qwen2", scaled(kind="yarn", factor=4.0)),
    "qwen3": ("Qwen3", {}),
    "qwen3/biases": ("Qwen3", {"attention_bias": True, "rms_norm_eps": 1e-5}),
    "qwen3/tied": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 4}),
    "qwen3/window": (
        "Qwen3",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0},
    ),
    "qwen3/linear": ("Qwen3", rope("linear", factor=8.0)),
}
# In the plain suite of those with torch; the others of each kind are slow.
FIRST = {"gpt2/odd_dropouts", "llama/longrope", "mistral/window", "qwen2", "qwen3"}


def written(name: str, folder: Path, dtype: Any = None) -> Any:
    """A random model of transformers, in evaluation mode, and its folder."""
    kind, more = FOLDERS[name]
    config = getattr(transformers, f"{kind}Config")(
        **{**(GPT2 if kind == "GPT2" else LLAMA), **more}
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model = model.to(dtype or torch.float32)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "of_ours": {"a": [1, None]}}))
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x", "added": 1}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return model


CASES = [
    pytest.param(name, marks=[] if name in FIRST else pytest.mark.slow) for name in sorted(FOLDERS)
]


def test_there_are_forty() -> None:
    assert len(FOLDERS) == 40


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_and_the_same_folder(name: str, tmp_path: Path) -> None:
    theirs = written(name, tmp_path / "theirs")
    model, params = fbp.models.from_pretrained(tmp_path / "theirs")
    tokens = np.random.default_rng(1).integers(61, size=(2, 34))
    ids, labels = tokens[:, :-1], tokens[:, 1:]
    logits, loss = loss_of(theirs, ids, labels)
    loss.backward()
    ours = jax.jit(lambda p: model.forward(p, ids)[0])(params)
    _, dparams = jax.jit(fbp.models.NextToken(model).value_and_grad)(
        params, (ids, jnp.asarray(labels))
    )
    assert close(ours, logits.detach().numpy()) <= 1e-5
    named = named_leaves(dparams)
    wanted = their_gradients(theirs, tmp_path / "theirs", named)
    errors = {path: close(named[path], wanted[path]) for path in named}
    assert not {path: error for path, error in errors.items() if not error <= 1e-5}

    fbp.models.save_pretrained(tmp_path / "ours", model, params)
    files = {path.name for path in (tmp_path / "theirs").iterdir()}
    assert {path.name for path in (tmp_path / "ours").iterdir()} == files
    for file in files - {"model.safetensors"}:
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(again(torch.tensor(ids)).logits, logits)
    # Without where it is from, a model is still the same model.
    fbp.models.save_pretrained(tmp_path / "plain", *without_origin(model, params))
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    with torch.no_grad():
        assert close(plain(torch.tensor(ids)).logits, logits.detach()) <= 1e-6
    second, _ = fbp.models.from_pretrained(tmp_path / "plain")
    assert second == model


def without_origin(model: Any, params: Any) -> tuple[Any, Any]:
    made = object.__new__(type(model))
    for name, value in vars(model).items():
        if name != "_origin":
            object.__setattr__(made, name, value)
    return made, params


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_dtype_is_kept(dtype: str, tmp_path: Path) -> None:
    written("qwen3", tmp_path / "theirs", getattr(torch, dtype))
    model, params = fbp.models.from_pretrained(tmp_path / "theirs")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {dtype}
    fbp.models.save_pretrained(tmp_path / "ours", model, params)
    theirs, ours = ((tmp_path / f / "config.json").read_bytes() for f in ("theirs", "ours"))
    assert theirs == ours
    # In another dtype, that is all that config.json says otherwise.
    model, params = fbp.models.from_pretrained(tmp_path / "theirs", "float32")
    fbp.models.save_pretrained(tmp_path / "wide", model, params)
    wide = json.loads((tmp_path / "wide" / "config.json").read_text())
    assert wide == {**json.loads(theirs), "dtype": "float32"}


def test_mixed_dtypes_lose_nothing(tmp_path: Path) -> None:
    theirs = written("llama", tmp_path, torch.bfloat16)
    name = "model.norm.weight"
    theirs.model.norm.weight.data = torch.full((24,), 1 / 3)
    (tmp_path / "model.safetensors").unlink()
    fbp.interop.write_tensors(
        tmp_path,
        {
            n: t.numpy() if n == name else np.asarray(t.float().numpy(), jnp.bfloat16)
            for n, t in theirs.state_dict().items()
        },
    )
    _, params = fbp.models.from_pretrained(tmp_path)
    assert params["norm"]["w"].dtype == jnp.float32
    assert float(params["norm"]["w"][0]) == np.float32(1 / 3)


@pytest.mark.parametrize("name", ["gpt2/odd_dropouts", "gpt2/no_dropout"])
def test_the_dropout_of_training(name: str, tmp_path: Path) -> None:
    written(name, tmp_path / "theirs")
    plain, _ = fbp.models.from_pretrained(tmp_path / "theirs")
    model, params = fbp.models.from_pretrained(tmp_path / "theirs", dropout=True)
    rates = [layer.rate for layer in drops(model)]
    assert rates == ([0.3, 0.2, 0.2] if "odd" in name else [])
    assert not drops(plain)
    ids = jnp.arange(8)
    np.testing.assert_array_equal(model.forward(params, ids)[0], model.forward(params, ids)[0])
    fbp.models.save_pretrained(tmp_path / "ours", model, params)
    theirs, ours = ((tmp_path / f / "config.json").read_bytes() for f in ("theirs", "ours"))
    assert theirs == ours


def drops(model: Any) -> list[Any]:
    found: list[Any] = []

    def note(layer: Any) -> Any:
        if isinstance(layer, fbp.Dropout):
            found.append(layer)
        return layer

    fbp.map_layers(note, model)
    return found


def test_a_tuned_model_keeps_its_folder(tmp_path: Path) -> None:
    written("llama/long", tmp_path / "theirs")
    model, params = fbp.models.from_pretrained(tmp_path / "theirs")
    tuned = fbp.models.with_lora(model, params, jax.random.key(0), rank=2)
    merged, params = fbp.models.without_lora(*tuned)
    fbp.models.save_pretrained(tmp_path / "ours", merged, params)
    theirs, ours = ((tmp_path / f / "config.json").read_bytes() for f in ("theirs", "ours"))
    assert theirs == ours


def test_a_chat_goes_on_with_what_was_written(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    written("qwen2", tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer_config.json").unlink()
    (tmp_path / "theirs" / "chat_template.jinja").unlink()
    words = ["<pad>", "<s>", "</s>", "user", "assistant", "hello", ":", "how"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "<pad>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
    fast.save_pretrained(tmp_path / "theirs")
    transformers.GenerationConfig(eos_token_id=[2, 4], max_new_tokens=9).save_pretrained(
        tmp_path / "theirs"
    )
    fbp.models.save_pretrained(tmp_path / "ours", *fbp.models.from_pretrained(tmp_path / "theirs"))
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "how"}]
    theirs, ours = (
        transformers.AutoTokenizer.from_pretrained(tmp_path / folder)
        for folder in ("theirs", "ours")
    )
    said = ours.apply_chat_template(chat, tokenize=False)
    assert said == "user : hello assistant : how "
    assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert model.generation_config.eos_token_id == [2, 4]
    assert fbp.text.tokenizer_of(tmp_path / "ours").marks.stops == (2, 4)
