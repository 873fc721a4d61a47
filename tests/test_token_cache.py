"""Tokens are kept for the next run on the same text; several files; runs found from anywhere."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fbp import text
from fbp.cli._train import Train, task_first
from fbp.train import Beside, InputError
from fbp.train.text import _cache
from fbp.train.text._data import read_data

pytest.importorskip("tokenizers")
TEXT = "\n".join(f"the number {i} comes before {i + 1}." for i in range(400))


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> text.FileTokenizer:
    monkeypatch.setattr(_cache, "LEAST", 1000)
    return text.train_bpe([TEXT], 300)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    (tmp_path / "book.txt").write_text(TEXT)
    return tmp_path / "book.txt"


def read(book: Path, tokenizer: Any, folder: Path | None) -> Any:
    return read_data(book, lambda _: tokenizer, beside=Beside(folder))


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_the_second_run_does_not_encode(
    book: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / ".tokens"
    plain, first = read(book, tokenizer, None), read(book, tokenizer, folder)
    assert not any("former run" in line for line in first.said)
    assert len(files(folder)) == 2  # to train on, and held out
    monkeypatch.setattr(text.FileTokenizer, "encode", None)
    second = read(book, tokenizer, folder)
    assert any("tokens of a former run, from" in line for line in second.said)
    for one in (first, second):
        assert isinstance(one.train, np.memmap)
        np.testing.assert_array_equal(one.train, plain.train)
        np.testing.assert_array_equal(one.val, plain.val)
        assert one.train.dtype == plain.train.dtype


@pytest.mark.parametrize("change", ["text", "tokenizer", "marks", "version"])
def test_another_text_or_tokenizer_is_encoded(
    change: str, book: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(book, tokenizer, tmp_path / "kept")
    if change == "text":
        book.write_text(TEXT.replace("number 7 ", "number 8 "))
    elif change == "tokenizer":
        tokenizer = text.train_bpe([TEXT], 299)
    elif change == "marks":
        tokenizer = text.FileTokenizer(tokenizer.to_json()["text"], marks=text.Marks((1,), 2, (2,)))
    else:
        monkeypatch.setattr("importlib.metadata.version", lambda _: "another")
    found = read(book, tokenizer, tmp_path / "kept")
    # The held-out text has not changed.
    assert len(files(tmp_path / "kept")) == (3 if change == "text" else 4)
    np.testing.assert_array_equal(found.train, read(book, tokenizer, None).train)


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "named"])
def test_a_damaged_file_is_made_anew(
    damage: str, book: Path, tmp_path: Path, tokenizer: Any
) -> None:
    folder = tmp_path / "kept"
    read(book, tokenizer, folder)
    plain = read(book, tokenizer, None)
    before = files(folder)
    for path in before:
        content = bytearray(path.read_bytes())
        if damage == "bit":
            content[-5] ^= 1
        path.write_bytes(
            {"bit": content, "cut": content[:-7], "empty": b"", "named": content}[damage]
        )
        if damage == "named":
            path.rename(path.with_name(path.name[:-10] + "000000.npy"))
    found = read(book, tokenizer, folder)
    assert not any("former run" in line for line in found.said)
    np.testing.assert_array_equal(found.train, plain.train)
    assert files(folder) == before


def test_a_folder_that_cannot_be_written_is_no_failure(
    book: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read(book, tokenizer, None)
    (tmp_path / "file").write_text("")

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    np.testing.assert_array_equal(
        read(book, tokenizer, tmp_path / "file" / ".tokens").train, plain.train
    )
    monkeypatch.setattr("os.write", full)
    found = read(book, tokenizer, tmp_path / "kept")
    np.testing.assert_array_equal(found.train, plain.train)
    assert files(tmp_path / "kept") == []


def test_it_does_not_grow(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    stale = folder / ".partial-x-1"
    stale.write_text("")
    os.utime(stale, (0, 0))
    for i in range(_cache.KEPT + 2):
        _cache.kept_tokens(folder, tokenizer, [TEXT, str(i)], lambda i=i: np.arange(i + 9))
        for path in folder.glob("*.npy"):  # all older than the next
            os.utime(path, (path.stat().st_mtime - 10,) * 2)
    assert len(files(folder)) == _cache.KEPT
    # The one that was used last stays.
    monkeypatch.setattr(_cache, "MOST_BYTES", 1)
    _cache.kept_tokens(folder, tokenizer, [TEXT, "new"], lambda: np.arange(3))
    assert len(files(folder)) == 1


def test_bytes_and_characters_and_short_texts_are_not_kept(
    book: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in (text.ByteTokenizer(), text.CharTokenizer.of(TEXT)):
        read(book, one, tmp_path / "kept")
    monkeypatch.setattr(_cache, "LEAST", 10**6)
    read(book, tokenizer, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_how_far_it_is(book: Path, tokenizer: Any) -> None:
    heard: list[tuple[int, int]] = []
    long = TEXT * 20
    book.write_text(long)
    read_data(book, lambda _: tokenizer, beside=Beside(None, lambda *done: heard.append(done)))
    done = [one for one, whole in heard if whole == len(long) - len(long) // 10]
    assert len(done) >= 2
    assert done == sorted(done)
    assert done[-1] == len(long) - len(long) // 10


def test_a_tokenizers_own_limits_cut_no_text(tokenizer: Any) -> None:
    plain, inner = tokenizer.encode("the number"), tokenizer._inner
    inner.enable_truncation(5)
    inner.enable_padding(length=7)
    cut = text.FileTokenizer(inner.to_str())
    np.testing.assert_array_equal(cut.encode("the number"), plain)
    assert len(cut.encode(TEXT)) > 100


def test_several_files_are_the_same_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "odd [1]"
    (folder / "more").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "more/a.txt", "more/c.txt"):
        (folder / name).write_text(f"{name} " * 9)
    monkeypatch.chdir(folder)
    command = Train(data=(Path("a.txt"), Path("more/*.txt"), Path("./a.txt")))._command()
    here = text.read_text(["a.txt", "more/*.txt", "./a.txt"])
    assert len(here.train_texts) + len(here.val_texts) == 3
    monkeypatch.chdir(tmp_path)
    there = text.read_text(command["data"])  # type: ignore[arg-type]
    assert (there.train_texts, there.val_texts) == (here.train_texts, here.val_texts)
    # Two folders may have files of the same name.
    both = text.read_text([folder / "more", folder])
    assert len(both.train_texts) + len(both.val_texts) == 4
    with pytest.raises(InputError, match="expected text in each of several files"):
        read_data(["a.txt", "b.npy"], lambda _: text.ByteTokenizer())
    (folder / "b.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match="expected text in UTF-8"):
        text.read_text([folder / "a.txt", folder / "b.txt"])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("--data a b gpt", "gpt --data a b"),
        ("--steps 3 --data a gpt --seed 1", "gpt --steps 3 --data a --seed 1"),
        ("gpt --data a lstm", "gpt --data a lstm"),
        ("--data gpt", "--data gpt"),
        ("gpt --data a b", "gpt --data a b"),
        ("--data t.csv --target y", "--data t.csv --target y"),
        ("", ""),
    ],
)
def test_a_task_after_the_files(given: str, wanted: str) -> None:
    assert task_first(given.split()) == wanted.split()


def test_tables_take_one_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected one file, got 2: several are for the text"):
        Train(data=(Path("a.csv"), Path("b.csv")), target="y").made_task()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_run_goes_on_without_its_tokenizers_folder(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text(TEXT[:4000])
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "tokenizer.json").write_text(tokenizer.to_json()["text"])

    def fbp(*args: str, cwd: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "fbp", *args], cwd=cwd, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    sizes = "--layers 1 --width 16 --heads 2 --context 16 --batch 2 --no-check --steps 2"
    words = f"train gpt --data a.txt b*.txt --tokenizer tok {sizes}"
    fbp(*words.split(), cwd=tmp_path)
    (tmp_path / "tok" / "tokenizer.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    resume = ["train", "--resume", "../runs/gpt", "--steps", "3", "--no-check"]
    fbp(*resume, cwd=tmp_path / "elsewhere")
    sample = "sample ../runs/gpt --prompt the --tokens 3"
    fbp(*sample.split(), cwd=tmp_path / "elsewhere")
