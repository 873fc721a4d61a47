"""Tokenizers trained on a text, files of tokens, and language models from the start."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from fbp import text
from fbp.cli import main
from fbp.cli._train import Train
from fbp.text._in_parts import PART, encode_in_parts
from fbp.train import InputError, Run, Sizes, TextModel, load_text, text_task

tokenizers: Any = pytest.importorskip("tokenizers")
TEXT = "\n".join(f"the number {i} comes before {i + 1}, größer als {i}." for i in range(300))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    (tmp_path / "book.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "book.txt"


def test_a_tokenizer_of_ones_own(book: Path) -> None:
    tokenizer = text.train_bpe([TEXT], 300)
    assert tokenizer.vocab == 300
    end = tokenizer.marks.end
    assert tokenizer.marks == text.Marks((), end, (end,))
    for words in (TEXT, "日本 🙂\t\n", ""):
        assert tokenizer.decode(tokenizer.encode(words)) == words
    assert len(tokenizer.encode(TEXT)) < len(TEXT) / 2
    again = text.tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))
    task = text_task("gpt", book, Sizes("tiny"), "bpe:300")
    assert task.model_spec["vocab"] == 300
    assert task.train[-1] == end
    # Only the text to train on makes the tokenizer.
    assert task.tokenizer.to_json() == text.train_bpe([TEXT[: -(len(TEXT) // 10)]], 300).to_json()


def test_bits_a_byte_are_those_of_the_text(book: Path) -> None:
    held_out = text.read_text(book).val
    for name in ("bytes", "chars", "bpe:290"):
        task = text_task("gpt", book, Sizes("tiny"), name)
        assert task.bytes_per_token * len(task.val) == pytest.approx(len(held_out.encode()))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bpe", "expected bpe:N, as bpe:8192"),
        ("bpe:many", "expected bpe:N, as bpe:8192"),
        ("bpe:256", "expected 257 ids or more, one for each byte, got 256"),
        ("byte", "expected bytes, chars, bpe:N or a folder with tokenizer.json"),
        ("{folder}", "expected a folder with tokenizer.json"),
    ],
)
def test_names_of_tokenizers(name: str, words: str, book: Path) -> None:
    with pytest.raises(InputError, match=words):
        text_task("gpt", book, Sizes("tiny"), name.format(folder=book.parent))


def test_without_the_package(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(InputError, match="expected the package 'tokenizers', which is not inst"):
        text_task("gpt", book, Sizes("tiny"), "bpe:300")


def test_files_of_tokens_are_mapped(book: Path, tmp_path: Path) -> None:
    tokenizer = text.train_bpe([TEXT], 300)
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "tokenizer.json").write_text(tokenizer.to_json()["text"])
    ids = tokenizer.encode(TEXT)
    text.write_tokens(tmp_path / "ids.npy", ids, 300)
    (tmp_path / "parts").mkdir()
    cut = len(ids) - len(ids) // 10
    for name, part in (("train", ids[:cut]), ("val", ids[cut:])):
        part.astype("<u2").tofile(tmp_path / "parts" / f"{name}.bin")
    for data in (tmp_path / "ids.npy", tmp_path / "parts"):
        task = text_task("gpt", data, Sizes("tiny"), str(tmp_path / "tok"))
        assert isinstance(task.train, np.memmap)
        np.testing.assert_array_equal(task.train, ids[:cut])
        np.testing.assert_array_equal(task.val, ids[cut:])
        size = len(tokenizer.decode(ids[cut:]).encode())
        assert task.bytes_per_token == pytest.approx(size / len(task.val))
    with pytest.raises(
        InputError, match=r"expected ids in 0\.\.255, .* name theirs by --tokenizer"
    ):
        text_task("gpt", tmp_path / "ids.npy", Sizes("tiny"))
    with pytest.raises(InputError, match="expected text to make it of, got ids of tokens"):
        text_task("gpt", tmp_path / "ids.npy", Sizes("tiny"), "bpe:300")
    (tmp_path / "odd.bin").write_bytes(b"\0\0\0")
    with pytest.raises(InputError, match=r"expected ids of two bytes each \(uint16\), got 3 bytes"):
        text_task("gpt", tmp_path / "odd.bin", Sizes("tiny"))


def test_nanogpts_small_configuration_by_flags() -> None:
    flags = {
        "--layers": "12",
        "--heads": "12",
        "--width": "768",
        "--context": "1024",
        "--dropout": "0.1",
    }
    sizes = {name[2:]: float(v) if "." in v else int(v) for name, v in flags.items()}
    assert set(sizes) <= set(Train.__dataclass_fields__)
    spec = text_task("gpt", None, Sizes(**sizes)).model_spec
    model = TextModel.from_spec({**spec, "vocab": 50304}).model
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    # 124 million with the positions; nanoGPT counts them without: 123.65 million.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 124_475_904


@pytest.mark.parametrize(
    ("kind", "sizes", "words"),
    [
        ("llama", {"heads": 3, "width": 64}, "expected --heads to divide --width, got 3 of 64"),
        ("llama", {"heads": 4, "kv_heads": 3}, "expected --kv-heads to divide --heads, got 3 of 4"),
        ("llama", {"heads": 64, "width": 64}, "an even multiple of --heads, got 64 and 64"),
        ("llama", {"dropout": 0.1}, "--dropout is of gpt, not of llama"),
        ("gpt", {"kv_heads": 2}, "--kv-heads is of llama, not of gpt"),
        ("gpt", {"dropout": 1.0}, r"expected --dropout to be in \[0, 1\), got 1.0"),
        ("gpt", {"hidden": 0}, "expected --hidden to be 1 or more, got 0"),
        ("lstm", {"hidden": 3}, "--hidden is of gpt and llama, not of lstm"),
    ],
)
def test_sizes_that_do_not_fit(kind: str, sizes: Any, words: str, book: Path) -> None:
    with pytest.raises(InputError, match=words):
        text_task(kind, book, Sizes(**sizes))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["digits", "--tokenizer", "bytes"],
            "--tokenizer is of lstm, gpt and llama, not of digits",
        ),
        (["gpt2", "--kv-heads", "2"], "gpt2: expected --weights FOLDER, the model to start from"),
        (["digits", "--kv-heads", "2"], "--kv-heads is of lstm and gpt, not of digits"),
        (["llama", "--lora", "2"], "llama: expected --weights FOLDER, the model to tune by --lora"),
    ],
)
def test_wrong_flags(args: list[str], words: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["train", *args, "--runs", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err == f"fbp: {words}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        ["llama", "--tokenizer", "bpe:280"],
        pytest.param(["gpt", "--dropout", "0.1", "--hidden", "24"], marks=pytest.mark.exhaustive),
    ],
)
def test_trained_from_the_start(args: list[str], book: Path, tmp_path: Path, capsys: Any) -> None:
    how = ["--preset", "tiny", "--steps", "20", "--data", str(book), "--runs", str(tmp_path / "r")]
    assert main(["train", *args, *how]) == 0
    assert "bits a byte" in capsys.readouterr().out
    run = tmp_path / "r" / args[0]
    assert main(["sample", str(run), "--prompt", "the", "--tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("the")
    model, _, tokenizer = load_text(Run(run))
    assert model.vocab == tokenizer.vocab


def like_llama_2(words: str) -> Any:
    """Byte-pair encoding of whole texts, with no words cut first, spaces written as a letter."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", byte_fallback=False))
    inner.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>"], show_progress=False
    )
    inner.train_from_iterator([line for line in words.split("\n") for _ in range(2)], trainer)
    return inner


@pytest.mark.parametrize("style", ["bytes", "llama"])
def test_a_long_text_is_encoded_in_parts(style: str) -> None:
    rng = np.random.default_rng(0)
    lines = np.array(TEXT.split("\n"))[rng.integers(300, size=9000)]
    whole = "\n".join(f"{'  ' * (i % 3)}{line}" for i, line in enumerate(lines))
    if style == "bytes":
        tokenizer = text.train_bpe([TEXT], 400)
    else:
        tokenizer = text.FileTokenizer(like_llama_2(TEXT).to_str())
    assert len(whole) > 5 * PART
    ids = encode_in_parts(tokenizer._inner, whole)
    assert ids is not None
    np.testing.assert_array_equal(ids, tokenizer._inner.encode(whole, add_special_tokens=False).ids)
    # Without a line to cut at, and where tokens do not fit: the whole is encoded.
    np.testing.assert_array_equal(
        tokenizer.encode("a" * (3 * PART)),
        tokenizer._inner.encode("a" * (3 * PART), add_special_tokens=False).ids,
    )
