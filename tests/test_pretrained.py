"""GPT-2 and Llama folders beside `transformers`: logits, loss, every gradient, ten steps."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp
from fbp._tree import named_leaves
from fbp.interop._model_of import complete
from fbp.interop._names import names_of

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

GPT2: dict[str, Any] = {
    "vocab_size": 61,
    "n_positions": 24,
    "n_embd": 20,
    "n_head": 5,
    "n_layer": 3,
}
LLAMA: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "gpt2_untied": ("GPT2", {**GPT2, "tie_word_embeddings": False, "n_inner": 36}),
    "gpt2_gelu": ("GPT2", {**GPT2, "activation_function": "gelu"}),
    "llama": ("Llama", LLAMA),
    "llama_tied": ("Llama", {**LLAMA, "tie_word_embeddings": True, "num_key_value_heads": 6}),
    "llama_biases": ("Llama", {**LLAMA, "attention_bias": True, "mlp_bias": True, "head_dim": 8}),
    "llama3": ("Llama", {**LLAMA, "rope_parameters": LLAMA3}),
}


def random_model(name: str, dtype: Any) -> Any:
    """A random model of transformers, in evaluation mode, no parameter at 0 or 1."""
    kind, sizes = CONFIGS[name]
    config = getattr(transformers, f"{kind}Config")(**sizes)
    head = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    torch.manual_seed(0)
    model = getattr(transformers, head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model = model.to(dtype)
    if kind == "Llama" and dtype == torch.float64:
        _angles_in_float64(model)
        _norms_in_float64(model)
    return model


def _angles_in_float64(model: Any) -> None:
    """transformers computes angles in float32 whatever the model's dtype: here they are exact."""
    config, rotary = model.config, model.model.rotary_emb
    rope = getattr(config, "rope_parameters", None) or {}
    scaling = None
    if rope.get("rope_type") == "llama3":
        scaling = fbp.Llama3Scaling(
            rope["factor"],
            rope["low_freq_factor"],
            rope["high_freq_factor"],
            rope["original_max_position_embeddings"],
        )
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    angles = fbp.Rope(rope.get("rope_theta", 10_000.0), scaling).angles(64, size)
    table = torch.tensor(np.concatenate([angles, angles], -1))

    def forward(x: Any, position_ids: Any, *args: Any, **kwargs: Any) -> Any:
        at = table[position_ids]
        return at.cos(), at.sin()

    rotary.forward = forward


def _norms_in_float64(model: Any) -> None:
    """transformers normalizes in float32 whatever the model's dtype."""

    def forward(norm: Any, x: Any) -> Any:
        rms = (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
        return norm.weight * (x * rms)

    for norm in model.modules():
        if type(norm).__name__ == "LlamaRMSNorm":
            norm.forward = functools.partial(forward, norm)


def batch() -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(1).integers(61, size=(3, 18))
    return tokens[:, :-1], tokens[:, 1:]


def loaded(name: str, dtype: Any, folder: Path) -> tuple[Any, Any, Any]:
    theirs = random_model(name, dtype)
    theirs.save_pretrained(folder)
    model, params = fbp.models.from_pretrained(folder)
    return theirs, model, params


def their_gradients(theirs: Any, folder: Path, path_shapes: dict[str, Any]) -> dict[str, Any]:
    """Their gradients by our paths: put together from theirs as the arrays themselves are."""
    config = complete(json.loads((folder / "config.json").read_text()))
    named = dict(theirs.named_parameters())
    found = {}
    for path, leaf in path_shapes.items():
        names = names_of(config)[path]
        blocks = []
        for i in range(leaf.shape[0] if "{i}" in names.parts[0] else 1):
            parts = [named[part.format(i=i)].grad.numpy() for part in names.parts]
            blocks.append(np.concatenate([p.T if names.transposed else p for p in parts], -1))
        found[path] = np.stack(blocks) if "{i}" in names.parts[0] else blocks[0]
    return found


def loss_of(theirs: Any, ids: Any, labels: Any) -> Any:
    logits = theirs(torch.tensor(ids)).logits
    return logits, torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), torch.tensor(labels).reshape(-1)
    )


LIMITS = {"float32": 1e-5, "float64": 1e-10}


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_loss_and_every_gradient(
    name: str, precision: str, tmp_path: Path, x64: None
) -> None:
    theirs, model, params = loaded(name, getattr(torch, precision), tmp_path)
    ids, labels = batch()
    logits, loss = loss_of(theirs, ids, labels)
    loss.backward()
    ours = jax.jit(lambda p: model.forward(p, ids)[0])(params)
    objective = fbp.models.NextToken(model)
    value, dparams = jax.jit(objective.value_and_grad)(params, (ids, jnp.asarray(labels)))
    limit = LIMITS[precision]
    assert str(ours.dtype) == precision
    assert close(ours, logits.detach().numpy()) <= limit
    assert close(value, loss.item()) <= limit
    named = named_leaves(dparams)
    wanted = their_gradients(theirs, tmp_path, named)
    errors = {path: close(named[path], wanted[path]) for path in named}
    assert not {path: error for path, error in errors.items() if not error <= limit}
    print(name, precision, f"{max(errors.values()):.1e}")


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_row_of_documents_is_each_of_them_alone(name: str, tmp_path: Path, x64: None) -> None:
    theirs, model, params = loaded(name, torch.float64, tmp_path)
    ids = np.random.default_rng(1).integers(61, size=(1, 17))
    documents = np.repeat([[0, 1, 2]], [9, 1, 7], axis=1)
    packed = fbp.models.with_documents(model)
    ours = jax.jit(packed.forward)(params, (jnp.asarray(ids), jnp.asarray(documents)))[0]
    with torch.no_grad():
        alone = [theirs(torch.tensor(ids[documents == i][None])).logits for i in range(3)]
    assert close(ours, torch.cat(alone, 1).numpy()) <= LIMITS["float64"]


def close(got: Any, want: Any) -> float:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_ten_steps_of_adamw(name: str, tmp_path: Path) -> None:
    theirs, model, params = loaded(name, torch.float32, tmp_path)
    ids, labels = batch()
    other = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.01)
    optimizer = optax.adamw(1e-3, weight_decay=0.01)
    step = fbp.step_of(fbp.models.NextToken(model), optimizer)
    state = fbp.state_of(params, optimizer)
    for _ in range(10):
        other.zero_grad()
        _, loss = loss_of(theirs, ids, labels)
        loss.backward()
        other.step()
        state, value = step(state, (jnp.asarray(ids), jnp.asarray(labels)))
        assert math.isclose(float(value), loss.item(), rel_tol=1e-4)
    logits, _ = loss_of(theirs, ids, labels)
    assert close(model.forward(state.params, jnp.asarray(ids))[0], logits.detach()) <= 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_loads_in_transformers(name: str, dtype: str, tmp_path: Path) -> None:
    _, model, params = loaded(name, getattr(torch, dtype), tmp_path / "theirs")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {dtype}
    fbp.models.save_pretrained(tmp_path / "ours", model, params)
    theirs, again = (
        transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / folder, dtype=getattr(torch, dtype)
        ).eval()
        for folder in ("theirs", "ours")
    )
    ids, _ = batch()
    with torch.no_grad():
        assert torch.equal(again(torch.tensor(ids)).logits, theirs(torch.tensor(ids)).logits)
    second, reread = fbp.models.from_pretrained(tmp_path / "ours")
    assert second == model
    for path, leaf in named_leaves(reread).items():
        np.testing.assert_array_equal(leaf, named_leaves(params)[path], err_msg=path)


def test_several_files(tmp_path: Path) -> None:
    theirs = random_model("llama", torch.float32)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    model, params = fbp.models.from_pretrained(tmp_path)
    ids, labels = batch()
    logits, _ = loss_of(theirs, ids, labels)
    assert close(model.forward(params, jnp.asarray(ids))[0], logits.detach()) <= 1e-5
