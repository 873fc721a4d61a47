"""Text: tokenizers, files of tokens, windows, corpora, choices, and language models that learn."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import text
from fbp._errors import InputError
from fbp.cli import main
from fbp.train import Run, Sizes, TextModel, text_task

SAMPLE = "def f(x):\n    return 'größe 日本 🙂'\n"


def refused(f: Any, *args: Any) -> str:
    with pytest.raises(InputError) as caught:
        f(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Tokenizers.


@pytest.mark.parametrize("tokenizer", [text.ByteTokenizer(), text.CharTokenizer.of(SAMPLE)])
def test_tokenizers_give_the_text_back(tokenizer: text.Tokenizer) -> None:
    ids = tokenizer.encode(SAMPLE)
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab
    assert tokenizer.decode(ids) == SAMPLE
    assert tokenizer.decode(ids.tolist()) == SAMPLE
    assert len(tokenizer.encode("")) == 0
    assert tokenizer.decode([]) == ""
    again = text.tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again == tokenizer
    for wrong in (-1, tokenizer.vocab):
        expected = f"expected ids in 0..{tokenizer.vocab - 1}, got {wrong}"
        assert refused(tokenizer.decode, [0, wrong]) == expected


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    tokenizer = text.ByteTokenizer()
    assert tokenizer.vocab == 256
    assert tokenizer.decode([104, 105, 0xF0, 33]) == "hi\ufffd!"
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


def test_characters_that_were_not_there_are_refused() -> None:
    tokenizer = text.CharTokenizer.of("cab")
    assert tokenizer.chars == "abc"
    assert tokenizer.encode("bac").tolist() == [1, 0, 2]
    assert text.CharTokenizer("ba").encode("ab").tolist() == [1, 0]
    expected = "CharTokenizer: expected its 3 characters, got 'd'"
    assert refused(tokenizer.encode, "abd") == expected
    assert "different characters" in refused(text.CharTokenizer, "aa")
    assert "different characters" in refused(text.CharTokenizer, "")


@pytest.mark.skipif(importlib.util.find_spec("tokenizers") is None, reason="not installed")
def test_a_tokenizer_of_a_folder(tmp_path: Path) -> None:
    import tokenizers

    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, "?"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = text.tokenizer_of(tmp_path)
    assert tokenizer.vocab == 3
    assert tokenizer.encode("b a c").tolist() == [1, 0, 2]
    assert tokenizer.decode([1, 0]) == "b a"
    again = text.tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again.encode("b a").tolist() == [1, 0]
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "expected a tokenizer" in refused(text.tokenizer_of, tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    expected = f"{tmp_path}: expected a folder with tokenizer.json"
    assert refused(text.tokenizer_of, tmp_path) == expected
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert "expected the package 'tokenizers'" in refused(text.tokenizer_of, tmp_path)
    assert "expected a tokenizer of bytes" in refused(text.tokenizer_from_json, {"kind": "x"})


# Files of tokens.


@pytest.mark.parametrize(("vocab", "dtype"), [(256, "uint8"), (257, "uint16"), (70000, "uint32")])
def test_tokens_are_mapped_in_the_fewest_bytes(vocab: int, dtype: str, tmp_path: Path) -> None:
    ids = np.array([0, vocab - 1, 5])
    text.write_tokens(tmp_path / "t.npy", ids, vocab)
    back = text.open_tokens(tmp_path / "t.npy")
    assert isinstance(back, np.memmap)
    assert back.dtype == dtype
    assert back.tolist() == ids.tolist()


def test_files_that_hold_no_tokens_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npy"
    assert refused(text.write_tokens, path, np.array([3, 7]), 7).endswith(
        "expected ids in 0..6, got 7"
    )
    assert "expected ids in 0..6, got -1" in refused(text.write_tokens, path, np.array([-1]), 7)
    assert "expected integers (T,)" in refused(text.write_tokens, path, np.array([0.5]), 7)
    assert "named .npy" in refused(text.write_tokens, tmp_path / "t.bin", np.array([1]), 7)
    assert "cannot be written" in refused(
        text.write_tokens, tmp_path / "none" / "t.npy", np.array([1]), 7
    )
    assert "no such file" in refused(text.open_tokens, path)
    path.write_bytes(b"nothing")
    assert "expected a .npy file" in refused(text.open_tokens, path)
    np.save(path, np.array([1.0]))
    assert "expected unsigned integers" in refused(text.open_tokens, path)
    np.save(path, np.array([{}]), allow_pickle=True)
    assert "expected a .npy file" in refused(text.open_tokens, path)


# Windows.


def test_windows_are_a_function_of_the_step() -> None:
    tokens = np.arange(100, dtype=np.uint8)
    draw = text.random_windows(tokens, batch=4, context=8, seed=3)
    ids, labels = draw(0, 5)
    assert ids.shape == labels.shape == (5, 4, 8)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(labels, ids + 1)
    np.testing.assert_array_equal(np.diff(ids, axis=-1), 1)
    np.testing.assert_array_equal(draw(3, 5)[0], ids[3:])
    for step in range(3):  # where they begin, for a run to say
        ids, _ = draw(step, step + 1)
        for i, first in enumerate(draw.rows(step)):
            np.testing.assert_array_equal(ids[0, i], tokens[first : first + 8])
    other = text.random_windows(tokens, batch=4, context=8, seed=4)
    assert (other(0, 5)[0] != ids).any()
    starts = draw(0, 500)[0][..., 0]
    assert (starts.min(), starts.max()) == (0, 100 - 9)


def test_fixed_windows_do_not_overlap() -> None:
    tokens = np.arange(83)
    ids, labels = text.fixed_windows(tokens, context=8, most=100)
    assert ids.shape == (10, 8)
    np.testing.assert_array_equal(labels.ravel(), np.arange(1, 81))
    ids, _ = text.fixed_windows(tokens, context=8, most=3)
    assert ids[:, 0].tolist() == [0, 24, 48]
    assert text.fixed_windows(tokens[:9], context=8, most=3)[0].shape == (1, 8)


def test_a_text_shorter_than_a_window_is_refused() -> None:
    tokens = np.arange(8)
    expected = "to have at least 9 tokens for a context of 8, got 8"
    assert refused(text.random_windows, tokens, 2, 8, 0).endswith(expected)
    assert refused(text.fixed_windows, tokens, 8, 2).endswith(expected)


# Corpora.


def test_the_standard_library_is_split_by_file() -> None:
    corpus = text.stdlib_text(300_000)
    train, val = corpus.train_texts, corpus.val_texts
    assert train
    assert val
    assert not set(train) & set(val)
    assert sum(len(t.encode()) for t in train + val) <= 300_000
    assert corpus.train == "\n".join(train)
    assert "files of Python's standard library" in corpus.said[0]
    assert text.stdlib_text(300_000) == corpus
    assert "expected Python's own source" in refused(text.stdlib_text, 10)


def test_a_folder_is_split_by_file(tmp_path: Path) -> None:
    for i in range(25):
        (tmp_path / f"{i}.txt").write_text(f"text {i}.")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.md").write_text("more")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "latin.txt").write_bytes(b"gr\xf6\xdfe")
    (tmp_path / "empty.txt").write_text("")
    corpus = text.read_text(tmp_path)
    train, val = set(corpus.train.split("\n")), set(corpus.val.split("\n"))
    assert not train & val
    assert train | val == {*(f"text {i}." for i in range(25)), "more"}
    assert len(val) == 3
    assert corpus.said[0] == "26 files of text"
    assert corpus.said[1].startswith("2 files that are not text in UTF-8, as a.png")
    assert text.read_text(tmp_path) == corpus


def test_of_one_file_the_last_tenth_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("0123456789" * 10)
    corpus = text.read_text(path)
    assert (corpus.name, len(corpus.train), len(corpus.val)) == ("book", 90, 10)


def test_what_holds_no_text_is_refused(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(text.read_text, tmp_path / "none")
    assert "expected files of text, got none among 0" in refused(text.read_text, tmp_path)
    (tmp_path / "a.bin").write_bytes(b"\0\1")
    assert "got none among 1 files" in refused(text.read_text, tmp_path)
    assert "got something else" in refused(text.read_text, tmp_path / "a.bin")
    (tmp_path / "a.txt").write_text("")
    assert "got nothing" in refused(text.read_text, tmp_path / "a.txt")
    assert "expected files of text, got none" in refused(text.read_text, [])
    assert "a pattern that some file has" in refused(text.read_text, tmp_path / "*.md")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "größe".encode("utf-16"), "got UTF-16: convert it by iconv -f UTF-16 -t UTF-8"),
        ("a.txt", "some words".encode("utf-16-le"), "got UTF-16: convert it by iconv"),
        ("a.txt", "größe".encode("latin-1"), "one byte a letter, perhaps latin-1: convert it by"),
        ("a.txt", b"\x7fELF\0\0\1", "got something else"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": 1}',
            r"line 2: expected an object with a 'text' that",
        ),
        ("a.jsonl", b'{"body": "a"}', "that is a text, got ['body']"),
        ("a.jsonl", b"[]", "that is a text, got list"),
        ("a.jsonl", b"{", "line 1: expected an object with a 'text', got '{'"),
        ("a.jsonl", b"\xff\xfe{\0", "got UTF-16: convert it by iconv"),
        ("a.parquet", b"PAR", "pyarrow|expected parquet"),
    ],
)
def test_a_file_of_another_kind_is_named(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    said = refused(text.read_text, tmp_path / name)
    assert any(part in said for part in words.split("|"))
    assert said.startswith(str(tmp_path / name))
    assert "\n" not in said


def test_documents_of_lines(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"one\ntwo {i}", "id": i}) for i in range(30)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join([*lines, '{"text": ""}']))
    corpus = text.read_text(path)
    assert {*corpus.train_texts, *corpus.val_texts} == {f"one\ntwo {i}" for i in range(30)}
    assert len(corpus.val_texts) == 3
    assert corpus.said == ("30 documents in them",)


def test_several_files_and_patterns(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
    (tmp_path / ".hidden").write_text("secret")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("secret")
    whole = text.read_text(tmp_path)
    assert whole.said == ("4 files of text", "2 hidden files: left out")
    listed = text.read_text([tmp_path / f"{i}.txt" for i in range(4)])
    matched = text.read_text(f"{tmp_path}/*.txt")
    for corpus in (whole, listed, matched):
        assert {*corpus.train_texts, *corpus.val_texts} == {f"text {i}" for i in range(4)}
        assert len(corpus.val_texts) == 1
    # Of a folder with one file, the last tenth of it is held out.
    for i in range(1, 4):
        (tmp_path / f"{i}.txt").unlink()
    (tmp_path / "0.txt").write_text("0123456789")
    assert (text.read_text(tmp_path).train, text.read_text(tmp_path).val) == ("012345678", "9")


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": ["a", None, "b", ""], "n": [1, 2, 3, 4]})
    parquet.write_table(table, tmp_path / "a.parquet")
    corpus = text.read_text(tmp_path / "a.parquet")
    assert {*corpus.train_texts, *corpus.val_texts} == {"a", "b"}
    parquet.write_table(pyarrow.table({"n": [1]}), tmp_path / "a.parquet")
    assert "expected a column 'text', got n" in refused(text.read_text, tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": [1]}), tmp_path / "a.parquet")
    assert "to be texts, got int" in refused(text.read_text, tmp_path / "a.parquet")


# Choosing.

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.05, 0.3, 0.15]))


def chosen(n: int = 4000, **how: Any) -> np.ndarray:
    """How often each of five ids is chosen."""
    ids = text.choose(jnp.broadcast_to(LOGITS, (n, 5)), jax.random.key(0), **how)
    assert ids.dtype == jnp.int32
    return np.bincount(ids, minlength=5) / n


def test_choices_follow_the_probabilities() -> None:
    # Three standard deviations of a count of 4000 are at most 0.024.
    np.testing.assert_allclose(chosen(), [0.1, 0.4, 0.05, 0.3, 0.15], atol=0.03)
    sharp = np.array([0.1, 0.4, 0.05, 0.3, 0.15]) ** 2
    np.testing.assert_allclose(chosen(temperature=0.5), sharp / sharp.sum(), atol=0.03)


def test_top_k_and_top_p_leave_the_rest_out() -> None:
    np.testing.assert_allclose(chosen(top_k=2), [0, 4 / 7, 0, 3 / 7, 0], atol=0.03)
    np.testing.assert_allclose(chosen(top_p=0.6), [0, 4 / 7, 0, 3 / 7, 0], atol=0.03)
    assert (chosen(top_p=0.75) > 0).tolist() == [False, True, False, True, True]
    assert chosen(top_p=1e-6)[1] == 1
    assert chosen(top_k=1)[1] == 1
    # After top_k = 2 the first has 4/7 of what is left.
    assert chosen(top_k=2, top_p=0.5)[1] == 1
    assert (chosen(top_k=99, top_p=1.0) > 0).all()


def test_temperature_0_is_the_largest_and_needs_no_key() -> None:
    assert text.choose(LOGITS, None, temperature=0) == 1
    assert text.choose(jnp.zeros(3), None, temperature=0) == 0
    with pytest.raises(ValueError, match=r"^choose: expected a key, or a temperature of 0$"):
        text.choose(LOGITS, None)


def test_a_seed_gives_the_same_choices() -> None:
    logits = jnp.zeros((100, 50))
    same = [text.choose(logits, jax.random.key(seed), top_k=20, top_p=0.9) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(same[0], same[1])
    assert (same[0] != same[2]).any()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"temperature": -1}, "a temperature of 0 or more, got -1"),
        ({"temperature": math.nan}, "a temperature of 0 or more, got nan"),
        ({"top_k": 0}, "top_k to be 1 or more, got 0"),
        ({"top_p": 0.0}, r"top_p in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p in \(0, 1\], got 1.5"),
    ],
)
def test_wrong_settings_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^choose: expected {message}$"):
        text.choose(LOGITS, jax.random.key(0), **how)
    with pytest.raises(ValueError, match=f"^choose: expected {message}$"):
        text.Choice(**how)


# Writing.

SPECS = {
    "lstm": {"kind": "lstm", "vocab": 7, "width": 5, "layers": 2},
    "gpt": {"kind": "gpt", "vocab": 7, "context": 6, "width": 4, "heads": 2, "layers": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
def test_what_is_written_is_what_the_model_says_comes_next(kind: str) -> None:
    text_model = TextModel.from_spec(SPECS[kind])
    params = text_model.model.init(jax.random.key(0))
    params = jax.tree.map(lambda p: 5 * p, params)
    prompt = [1, 4]
    greedy = text.Choice(temperature=0)
    new = text_model.generate(params, np.array(prompt), 10, jax.random.key(0), greedy)
    ids, room = list(prompt), text_model.context or 12
    forward = jax.jit(lambda ids: text_model.model.forward(params, ids)[0])
    window = list(prompt)
    for _ in range(10):
        # A full context is read anew from its last half.
        window = window if len(window) <= room else window[-(room // 2) :]
        # What comes after the last token changes nothing: one program for all lengths.
        logits = forward(jnp.array(window + [0] * (room - len(window))))
        window.append(int(logits[len(window) - 1].argmax()))
        ids.append(window[-1])
    assert new.tolist() == ids[2:]
    assert len(set(new.tolist())) > 1
    with pytest.raises(ValueError, match="expected a prompt"):
        text_model.generate(params, np.array([], np.int32), 3, jax.random.key(0))


# Training.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    book = "the cat sat on the mat. " * 60
    (tmp_path / "book.txt").write_text(book)
    return tmp_path


TINY = ["--data", "book.txt", "--layers", "1", "--width", "16", "--context", "8", "--batch", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt", "lstm"])
def test_a_language_model_trains_and_writes(kind: str, folder: Path, capsys: Any) -> None:
    args = [*TINY, "--heads", "2"] if kind == "gpt" else TINY
    assert main(["train", kind, *args, "--steps", "20", "--lr", "0.05", "--no-check"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "bits a byte of the held-out text after 20 steps" in printed[-1]
    assert sum(line.startswith("  | the") or line.startswith("  | t") for line in printed) >= 5

    run = folder / "runs" / kind
    assert sorted(p.name for p in run.iterdir()) == [
        *("config.json", "manifest.json", "metrics.jsonl", "picture.png", "samples.txt", "steps"),
        "weights.safetensors",
    ]
    lines = Run(run).metrics()
    assert set(lines[0]) == {"step", "loss", "val_loss", "bits_per_byte"}
    assert set(lines[-1]) == {*lines[0], "tokens_per_second"}
    assert lines[0]["bits_per_byte"] == pytest.approx(8, abs=0.3)
    assert lines[-1]["bits_per_byte"] < 5
    # The text is ASCII, a byte a token.
    assert lines[-1]["bits_per_byte"] == pytest.approx(lines[-1]["val_loss"] / math.log(2))
    assert (run / "samples.txt").read_text(errors="replace").count("--- step ") == 5

    text_model, params, tokenizer = fbp.train.load_text(Run(run))
    ids = tokenizer.encode("the cat")
    logits, _ = text_model.model.forward(params, jnp.asarray(ids[-8:], jnp.int32))
    assert logits.shape == (7, 256)
    assert "got one on text" in refused(lambda: fbp.train.load(Run(run)))


@pytest.mark.slow
def test_a_language_models_gradients_are_checked(folder: Path, capsys: Any) -> None:
    assert main(["train", "lstm", *TINY, "--steps", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.endswith("  ok") for line in printed) == 5


def failure(capsys: Any, *args: str) -> str:
    assert main(["train", *args]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fbp: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["digits", "--layers", "2"], "--layers is of lstm and gpt, not of digits"),
        (["--preset", "tiny"], "--preset is of lstm and gpt, not of digits"),
        (["lstm", "--target", "y"], "--target is of a table, not of lstm"),
        (["lstm", "--heads", "2"], "--heads is of attention: lstm has none"),
        (["gpt", "--heads", "3", "--width", "32"], "to divide --width, got 3 of 32"),
        (["lstm", "--width", "0"], "expected --width to be 1 or more, got 0"),
        (["lstm", "--preset", "huge"], "one of small, tiny, medium, got huge"),
        (["lstm", "--data", "none.txt"], "none.txt: no such file or folder"),
        (
            ["lstm", "--data", "book.txt", "--context", "500"],
            "the text held out of book to have at least 501 tokens for a context of 500, got 144",
        ),
    ],
)
def test_wrong_flags_are_refused(args: list[str], words: str, folder: Path, capsys: Any) -> None:
    assert words in failure(capsys, *args)
    assert not (folder / "runs").exists()


def test_a_task_takes_any_tokenizer(folder: Path) -> None:
    chars = text.CharTokenizer.of((folder / "book.txt").read_text())
    task = text_task("lstm", folder / "book.txt", Sizes("tiny"), chars)
    assert task.model_spec == {"kind": "lstm", "vocab": chars.vocab, "width": 64, "layers": 1}
    assert task.train.dtype == np.uint8
    assert task.bytes_per_token == 1.0


def test_a_run_on_a_table_is_no_text_model(folder: Path, capsys: Any) -> None:
    assert main(["train", "neuron", "--steps", "1", "--no-check"]) == 0
    assert "got one on a table" in refused(
        lambda: fbp.train.load_text(Run(folder / "runs" / "neuron"))
    )
    run = folder / "runs" / "broken"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"tokenizer": {"kind": "bytes"}, "model": {}}))
    assert "expected a run's config" in refused(lambda: fbp.train.load_text(Run(run)))


def test_text_is_imported_when_first_used() -> None:
    assert fbp.text is text
