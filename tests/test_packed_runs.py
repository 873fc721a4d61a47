"""`fbp train ... --pack`: what it says and notes, what it leaves, and where it is refused."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import text
from fbp.cli import main
from fbp.text._boundaries import ends_by_marks
from fbp.train import Run, Sizes, text_task
from fbp.train._fault import first_fault
from fbp.train.text._learned import learned, measured
from fbp.train.text._recipe import text_evaluator

DOCUMENTS = [f"{i} comes before {i + 1}."[: 5 + i % 17] for i in range(300)]
TINY = ("--preset", "tiny", "--no-check")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": document}) for document in DOCUMENTS]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    (tmp_path / "one.txt").write_text("a text of some words, and again. " * 40)
    return tmp_path


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


def failure(capsys: Any, *args: object) -> str:
    capsys.readouterr()
    assert run(*args) == 2
    said = capsys.readouterr().err
    assert said.startswith("fbp: ")
    assert said.count("\n") == 1
    return str(said)


def logged(folder: Path) -> list[Any]:
    return [
        {k: v for k, v in line.items() if k != "tokens_per_second"}
        for line in Run(folder).metrics()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt", pytest.param("llama", marks=pytest.mark.exhaustive)])
def test_a_packed_run_and_going_on_with_it(kind: str, here: Path, capsys: Any) -> None:
    args = "train", kind, "--data", "d.jsonl", "--pack", *TINY
    assert run(*args, "--steps", 12, "--eval-every", 4, "--name", "whole") == 0
    said = capsys.readouterr().out
    assert "\npacked: 270 documents in " in said
    assert " rows of 32 tokens, " in said
    assert "% of them padding\n" in said
    config = json.loads((here / "runs/whole/config.json").read_text())
    assert config["pack"] is True
    assert config["command"]["pack"] is True
    # Stopped by its time after a few steps, and gone on with: to the same numbers.
    assert run(*args, "--steps", 12, "--eval-every", 4, "--max-time", 1e-3, "--name", "parts") == 0
    assert run("train", "--resume", "runs/parts", "--max-time", 1e6) == 0
    assert "going on from step" in capsys.readouterr().out
    whole, parts = (here / "runs" / name for name in ("whole", "parts"))
    assert logged(whole) == logged(parts)
    for name in ("weights", "last"):
        files = [folder / f"{name}.safetensors" for folder in (whole, parts)]
        assert files[0].exists() == files[1].exists()
        assert not files[0].exists() or files[0].read_bytes() == files[1].read_bytes()
    # The weights are those of the model that writes.
    assert run("sample", "runs/whole", "--prompt", "3 comes", "--tokens", 5) == 0
    assert capsys.readouterr().out.startswith("3 comes")
    # Other documents are another run, though their tokens are the same.
    halves = [json.dumps({"text": part}) for d in DOCUMENTS for part in (d[:2], d[2:])]
    (here / "d.jsonl").write_text("\n".join(halves))
    said = failure(capsys, "train", "--resume", "runs/whole", "--steps", 13)
    assert "cannot go on: the data is not what the run began with" in said


@pytest.mark.slow
def test_the_loss_is_that_of_documents_alone(here: Path) -> None:
    """Each token of each held-out document but its first, once."""
    task = text_task("gpt", here / "d.jsonl", Sizes("tiny"), pack=True)
    assert task.ends is not None
    text_model = fbp.train.TextModel.from_spec(task.model_spec)
    params = text_model.model.init(jax.random.key(0))
    learns = learned(task, text_model.model, 4, 0)
    assert [leaf.shape for leaf in jax.tree.leaves(learns.draw(3, 5))] == [(2, 4, 32)] * 3
    total = count = 0.0
    alone = jax.jit(fbp.models.NextToken(text_model.model).value)
    for document in np.split(task.val, task.ends[1][:-1]):
        ids = jnp.asarray(document, jnp.int32)[None]
        n = ids.shape[1] - 1
        total, count = total + n * float(alone(params, (ids[:, :-1], ids[:, 1:]))), count + n
    found = text_evaluator(learns.objective, task, 1)(params)
    assert found["val_loss"] == pytest.approx(total / count, rel=1e-5)
    assert (measured(task, True, 2**20)[1] != -1).sum() == count
    # Bytes, of which nothing stands between documents.
    assert task.bytes_per_token == 1


@pytest.mark.slow
def test_the_first_fault_is_named(here: Path) -> None:
    task = text_task("gpt", here / "d.jsonl", Sizes("tiny"), pack=True)
    model = fbp.train.TextModel.from_spec(task.model_spec).model
    params = model.init(jax.random.key(0))
    w = params["blocks"]["feed_forward"]["down"]["w"]
    params["blocks"]["feed_forward"]["down"]["w"] = 3e38 * jnp.ones_like(w)
    learns = learned(task, model, 2, 0)
    batch = jax.tree.map(lambda a: a[0], learns.draw(0, 1))
    said = first_fault(learns.objective, params, batch, None)
    assert said == "forward of blocks.feed_forward.down, Dense"


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("more", [[], ["--bf16"], ["--in-backward"], ["--accumulate", 3]], ids=str)
def test_with_every_way_to_take_a_step(more: list[object], here: Path, capsys: Any) -> None:
    args = "train", "llama", "--data", "d.jsonl", "--pack", *TINY, "--steps", 10
    assert run(*args, *more) == 0
    lines = Run(here / "runs/llama").metrics()
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.slow
def test_one_document_and_a_learning_rate(here: Path, capsys: Any) -> None:
    """A document longer than a row is cut; and lr-find learns from the same rows."""
    args = "train", "gpt", "--data", "one.txt", "--pack", *TINY, "--steps", 1
    assert run(*args, "--tokenizer", "chars") == 0
    said = capsys.readouterr().out
    assert "packed: 1 documents in 38 rows of 32 tokens, " in said
    assert "; 1 documents are longer than a row, and cut" in said
    args = "lr-find", "gpt", "--data", "d.jsonl", "--preset", "tiny", "--batch", 4, "--steps", 40
    assert run(*args, "--pack", "--low", 1e-3, "--high", 1e-2) == 0
    assert "--lr " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_pretrained_model_is_tuned_on_documents(here: Path, capsys: Any) -> None:
    tokenizers: Any = pytest.importorskip("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(["<end>"])
    model = fbp.models.gpt2(vocab=257, context=32, width=16, heads=2, layers=2, dropout=0.1)
    params = model.init(jax.random.key(0))
    fbp.models.save_pretrained(here / "gpt2", model, params)
    inner.save(str(here / "gpt2/tokenizer.json"))
    (here / "gpt2/tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    args = "train", "gpt2", "--weights", "gpt2", "--pack", "--steps", 4, "--batch", 4
    for name, more in (("lora", ["--lora", 2]), ("all", [])):
        assert run(*args, "--data", "d.jsonl", "--context", 16, "--name", name, *more) == 0
        assert "packed: 270 documents in " in capsys.readouterr().out
        after, tuned = fbp.models.from_pretrained(here / "runs" / name / "model", dropout=True)
        assert after == model
        assert jax.tree.structure(tuned) == jax.tree.structure(params)
        config = "gpt2/config.json", f"runs/{name}/model/config.json"
        assert (here / config[0]).read_bytes() == (here / config[1]).read_bytes()
    # Tokens with the tokenizer's mark of an end between documents.
    tokens = np.array([*b"ab", 256, *b"cde", 256, *b"fghi"] * 30, np.uint16)
    np.save(here / "tokens.npy", tokens)
    assert run(*args, "--data", "tokens.npy", "--context", 8, "--name", "tokens") == 0
    assert "packed: 55 documents in " in capsys.readouterr().out
    np.save(here / "none.npy", np.full(300, 7, np.uint16))
    said = failure(capsys, *args, "--data", "none.npy", "--context", 8)
    assert said == "fbp: none.npy: expected documents that end with the token 256, got none\n"


@pytest.mark.parametrize(
    ("marks", "ids", "ends"),
    [
        (text.Marks(end=9), [1, 9, 2, 3, 9], [2, 5]),
        (text.Marks(end=9), [9, 9, 2], [1, 2, 3]),
        (text.Marks(begin=(8,), end=9), [8, 1, 9, 8, 2], [3, 5]),
        (text.Marks(begin=(8,)), [8, 1, 8, 2, 3], [2, 5]),
        (text.Marks(begin=(8,)), [1, 1, 8, 2, 3], [2, 5]),
    ],
)
def test_marks_say_where_documents_end(
    marks: text.Marks, ids: list[int], ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fbp.text._boundaries._PART", 2)
    got, rest = ends_by_marks([np.array(ids), np.array([1, 2, 3])], marks, "it")
    assert got.tolist() == ends
    assert rest.tolist() == [3]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["digits"], "--pack is of gpt, llama and their like, not of digits"),
        (["mine:make"], "--pack is of gpt, llama and their like, not of mine:make"),
        (["lstm"], "--pack is of attention, which can leave a document out: lstm has none"),
        (
            ["gpt", "--data", "t.npy"],
            "t.npy: expected a tokenizer that marks where a document ends",
        ),
        (
            ["gpt", "--data", "short.jsonl"],
            "expected the text to train on of short to have a document of two tokens or more, got",
        ),
    ],
)
def test_where_it_cannot_be_it_is_refused(
    args: list[str], words: str, here: Path, capsys: Any
) -> None:
    np.save(here / "t.npy", np.full(300, 7, np.uint16))
    (here / "short.jsonl").write_text('{"text": "a"}\n' * 9)
    assert words in failure(capsys, "train", *args, "--pack", *TINY[2:])
    assert not (here / "runs").exists()


@pytest.mark.slow
def test_the_held_out_loss_does_not_depend_on_the_batch(here: Path) -> None:
    """Also where the windows are no multiple of it."""
    task = text_task("gpt", here / "one.txt", Sizes("tiny"))
    model = fbp.train.TextModel.from_spec(task.model_spec).model
    objective = fbp.models.NextToken(model)
    params = objective.init(jax.random.key(0))
    found = [text_evaluator(objective, task, batch)(params) for batch in (1, 3, 10_000)]
    for other in found[1:]:
        assert other["val_loss"] == pytest.approx(found[0]["val_loss"], rel=1e-5)
        assert other["loss"] == pytest.approx(found[0]["loss"], rel=1e-5)
