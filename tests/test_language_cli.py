"""`fbp train gpt | gpt2 | llama` and `fbp sample`, from folders of weights and of runs."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import text
from fbp.cli import main
from fbp.train import load_language_model

Made = Callable[..., Path]
TEXT = "\n".join(f"the number {i} comes before {i + 1}." for i in range(400))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a GPT-2 and a Llama with a byte-level tokenizer, and a text."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("models")
    (folder / "text.txt").write_text(TEXT)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, [])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    models = {
        "gpt2": fbp.models.gpt2(vocab=257, context=32, width=16, heads=2, layers=2),
        "llama": fbp.models.llama(
            vocab=256, width=16, heads=4, kv_heads=2, layers=2, hidden=24, dtype="bfloat16"
        ),
    }
    for name, model in models.items():
        fbp.models.save_pretrained(folder / name, model, model.init(jax.random.key(0)))
        tokenizer.save(str(folder / name / "tokenizer.json"))
    return folder


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


def tune(made: Path, runs: Path, task: str, *more: object) -> int:
    return run(
        *("train", task, "--weights", made / task, "--data", made / "text.txt", "--steps", 4),
        *("--batch", 2, "--context", 16, "--runs", runs, *more),
    )


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--lora", 2]], ids=["whole", "lora"])
@pytest.mark.parametrize("task", ["gpt2", "llama"])
def test_a_pretrained_model_is_tuned_and_writes(
    task: str, more: list[object], made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(made, tmp_path, task, *more) == 0
    assert "bits a byte" in capsys.readouterr().out
    before, _ = fbp.models.from_pretrained(made / task)
    after, params = fbp.models.from_pretrained(tmp_path / task / "model", dtype="float32")
    assert jax.tree.structure(after.init(jax.random.key(0))) == jax.tree.structure(params)
    assert type(before) is type(after)
    for folder in (tmp_path / task, tmp_path / task / "model"):
        args = "sample", folder, "--prompt", "the ", "--tokens", 9, "--seed", 3
        assert run(*args) == 0
        written = capsys.readouterr().out
        assert written.startswith("the ")
        assert run(*args) == 0
        assert capsys.readouterr().out == written
    config = json.loads((tmp_path / task / "config.json").read_text())
    assert config["lora"] == (2 if more else None)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "gpt2"], "gpt2: expected --weights FOLDER, the model to start from"),
        (["train", "gpt", "--lora", 2], "--weights and --lora are of gpt2 and llama, not of gpt"),
        (
            ["train", "llama", "--weights", "{made}/gpt2"],
            "{made}/gpt2: expected a llama, got model_type 'gpt2'",
        ),
        (
            ["train", "gpt2", "--weights", "{made}/gpt2", "--width", 8],
            "--width is not of gpt2: its weights say what it is",
        ),
        (
            ["train", "gpt2", "--weights", "{made}/gpt2", "--context", 64],
            "expected --context to be at most the model's 32, got 64",
        ),
        (
            ["train", "gpt2", "--weights", "{made}/gpt2", "--lora", 0],
            "expected --lora to be 1 or more, got 0",
        ),
        (
            ["sample", "{made}/gpt2", "--prompt", "x" * 33],
            "expected --prompt of at most 32 tokens, got 33",
        ),
        (
            ["sample", "{made}/gpt2", "--prompt", ""],
            "expected --prompt to be a text of one token or more, got none",
        ),
        (
            ["sample", "{made}/gpt2", "--prompt", "x", "--top-p", 2],
            "choose: expected top_p in (0, 1], got 2.0",
        ),
        (
            ["sample", "{made}/none", "--prompt", "x"],
            "{made}/none: expected the folder of a run or of a model, got none",
        ),
    ],
)
def test_mistakes_are_one_line(
    args: list[object], message: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*(str(arg).replace("{made}", str(made)) for arg in args)) == 2
    assert capsys.readouterr().err == f"fbp: {message.replace('{made}', str(made))}\n"


@pytest.mark.slow
def test_a_step_at_a_time_is_the_forward_pass() -> None:
    for model in (
        fbp.models.gpt2(vocab=13, context=9, width=8, heads=2, layers=2),
        fbp.models.llama(
            vocab=13, width=8, heads=4, kv_heads=2, layers=2, hidden=12, window=3, tied=True
        ),
        fbp.models.char_lstm(13, 8),
    ):
        params = model.init(jax.random.key(0))
        params = jax.tree.map(
            lambda a: a + 0.3 * np.random.default_rng(1).normal(size=a.shape), params
        )
        ids = jnp.asarray(np.random.default_rng(0).integers(13, size=(2, 9)))
        logits, _ = model.forward(params, ids)
        state = model.start(params, ids[:, 0], 9)
        step = jax.jit(model.step)
        for t in range(9):
            y, state = step(params, ids[:, t], state)
            # Float32, and logits of about 5.
            np.testing.assert_allclose(y, logits[:, t], atol=2e-5)


@pytest.mark.slow
def test_the_likeliest_token_every_time_and_beyond_the_context() -> None:
    model = fbp.models.gpt2(vocab=13, context=8, width=8, heads=2, layers=1)
    params = jax.tree.map(
        lambda a: a + np.random.default_rng(1).normal(size=a.shape), model.init(jax.random.key(0))
    )
    prompt, key = jnp.asarray([1, 2, 3]), jax.random.key(0)
    greedy = text.Choice(temperature=0)
    ids = [1, 2, 3]
    for _ in range(5):
        ids.append(int(model.forward(params, jnp.asarray(ids))[0][-1].argmax()))
    written = text.generate(model, params, prompt, 5, key, greedy, context=8)
    assert written.tolist() == ids[3:]
    longer = text.generate(model, params, prompt, 20, key, greedy, context=8)
    assert longer.shape == (20,)
    assert longer[:5].tolist() == ids[3:]
    with pytest.raises(
        ValueError, match=r"^generate: expected a prompt of at most 8 tokens, got 9"
    ):
        text.generate(model, params, jnp.zeros(9, int), 1, key, greedy, context=8)
    with pytest.raises(ValueError, match=r"^generate: expected a prompt \(\.\.\., P\), P >= 1"):
        text.generate(model, params, jnp.zeros(0, int), 1, key, greedy)


def test_a_run_of_a_table_is_no_language_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model": {}}')
    with pytest.raises(ValueError, match="expected a run on text, got one on a table"):
        load_language_model(tmp_path)
