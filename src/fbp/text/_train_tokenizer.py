"""Tokenizers by name, and one trained on a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fbp._errors import InputError
from fbp.text._marks import Marks
from fbp.text._tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    FileTokenizer,
    Tokenizer,
    tokenizer_of,
)

END = "<|endoftext|>"


def named_tokenizer(name: str, texts: Sequence[str] | None) -> Tokenizer:
    """The tokenizer that a name means.

    Args:
      name: "bytes"; "chars", those of the texts; "bpe:8192", trained on the texts until it has so
        many ids; or a folder with tokenizer.json, or such a file.
      texts: to train on; None if there are only ids of tokens.

    Raises:
      InputError: the name means none of these, or needs texts.
    """
    kind, _, size = name.partition(":")
    if name == "bytes":
        return ByteTokenizer()
    if name == "chars" or kind == "bpe":
        if texts is None:
            raise InputError(f"--tokenizer {name}: expected text to make it of, got ids of tokens")
        if kind == "bpe":
            return train_bpe(texts, _vocab(name, size))
        return CharTokenizer.of("\n".join(texts))
    path = Path(name)
    if path.is_file():
        path = path.parent
    if not path.is_dir():
        raise InputError(
            f"--tokenizer {name}: expected bytes, chars, bpe:N or a folder with tokenizer.json"
        )
    return tokenizer_of(path)


def train_bpe(texts: Sequence[str], vocab: int) -> FileTokenizer:
    """Byte-pair encoding of UTF-8, as GPT-2's, trained on texts; it can represent any other text.

    It has the 256 bytes, an id that ends a document, and the pairs that occur most often.

    Raises:
      InputError: vocab is below 257, or the package `tokenizers` is not installed.
    """
    if vocab < 257:
        raise InputError(f"train_bpe: expected a vocabulary of 257 ids or more, got {vocab}")
    try:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise InputError(
            "a tokenizer of one's own: expected the package 'tokenizers', which is not installed: "
            "pip install 'fbp[text]'"
        ) from None
    inner: Any = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END],
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    end = inner.token_to_id(END)
    return FileTokenizer(inner.to_str(), marks=Marks((), end, (end,)))


def _vocab(name: str, size: str) -> int:
    if not size.isdecimal():
        raise InputError(f"--tokenizer {name}: expected bpe:N, as bpe:8192")
    if int(size) < 257:
        raise InputError(
            f"--tokenizer {name}: expected 257 ids or more, one for each byte, got {size}"
        )
    return int(size)
