"""`fbp train gpt | gpt2 | llama` and `fbp sample`, from folders of weights and of runs."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

import fbp
from fbp.cli import main
from fbp.train import InputError, load_language_model

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
        fbp.models.save_pretrained(folder / name, model, jax.jit(model.init)(jax.random.key(0)))
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
@pytest.mark.parametrize(
    ("task", "more"),
    [
        pytest.param("gpt2", [], id="gpt2-whole", marks=pytest.mark.exhaustive),
        pytest.param("gpt2", ["--lora", 2], id="gpt2-lora", marks=pytest.mark.exhaustive),
        pytest.param("llama", [], id="llama-whole", marks=pytest.mark.exhaustive),
        pytest.param("llama", ["--lora", 2], id="llama-lora"),
    ],
)
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
        (
            ["train", "gpt", "--lora", 2],
            "--weights and --lora are of gpt2, llama and their like, not of gpt",
        ),
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
            ["sample", "{made}/gpt2", "--prompt", ""],
            "expected --prompt to be a text of one token or more, got none: this tokenizer has no "
            "token to begin with",
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


def test_a_run_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    spec = {"kind": "gpt", "vocab": 256, "width": 8, "heads": 2, "layers": 1, "context": 8}
    for config, message in [
        ({"task": "llama", "model": {}}, f"expected what was tuned in {tmp_path}/model, got none"),
        (
            {"task": "gpt", "tokenizer": {"kind": "bytes"}, "model": {**spec, "context": 2.5}},
            "expected context to be an integer of 1 or more, got 2.5",
        ),
        ({"task": "gpt", "tokenizer": {"kind": "bytes"}, "model": [spec]}, "expected a run's conf"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=message) as caught:
            load_language_model(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_run_of_a_table_is_no_language_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model": {}}')
    with pytest.raises(ValueError, match="expected a run on text, got one on a table"):
        load_language_model(tmp_path)
