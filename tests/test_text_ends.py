"""Where a text begins and ends: BOS, EOS between documents, stops, and what a prompt says."""

import gc
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
from fbp.train import Pretrained, tuning_task
from fbp.train.text._data import tokens_of
from fbp.train.text._train import start_of

tokenizers: Any = pytest.importorskip("tokenizers")
BOS, EOS, TURN = "<s>", "</s>", "<|turn|>"


def words_like_llama(folder: Path, *, begins: bool = True) -> None:
    """A tokenizer whose words have their space in front, as those of Llama 2 and Mistral do."""
    words = ["<unk>", BOS, EOS, TURN, *(f"\u2581{word}" for word in ("the", "quick", "brown"))]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    decoders = tokenizers.decoders
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens([BOS, EOS, TURN])
    if begins:
        inner.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, 1)]
        )
    inner.save(str(folder / "tokenizer.json"))


def with_json(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("begins", "files", "marks"),
    [
        (True, {}, text.Marks((1,))),
        (False, {}, text.Marks()),
        (True, {"config": {"eos_token_id": 2}}, text.Marks((1,), 2, (2,))),
        (True, {"config": {"eos_token_id": [2, 3]}}, text.Marks((1,), 2, (2, 3))),
        (
            True,
            {"config": {"eos_token_id": 2}, "generation_config": {"eos_token_id": [3, 2]}},
            text.Marks((1,), 3, (3, 2)),
        ),
        (
            True,
            {"generation_config": {"eos_token_id": 3}, "tokenizer_config": {"eos_token": EOS}},
            text.Marks((1,), 2, (3, 2)),
        ),
        (
            False,
            {"tokenizer_config": {"add_bos_token": True, "bos_token": {"content": BOS}}},
            text.Marks((1,)),
        ),
        (True, {"tokenizer_config": {"add_bos_token": False}}, text.Marks()),
        (False, {"config": {"eos_token_id": None}, "generation_config": {}}, text.Marks()),
        (False, {"tokenizer_config": {"eos_token": "not there"}}, text.Marks()),
        # Of the default of another tokenizer; of a value that is no id.
        (False, {"config": {"eos_token_id": 50256}}, text.Marks()),
        (False, {"config": {"eos_token_id": [True, -1, "2", 2]}}, text.Marks((), 2, (2,))),
    ],
)
def test_the_marks_of_a_folder(
    begins: bool, files: dict[str, Any], marks: text.Marks, tmp_path: Path
) -> None:
    words_like_llama(tmp_path, begins=begins)
    tokenizer = text.tokenizer_of(with_json(tmp_path, **files))
    assert tokenizer.marks == marks
    again = text.tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again.marks == marks


def test_documents_have_their_marks(tmp_path: Path) -> None:
    words_like_llama(tmp_path)
    tokenizer = text.tokenizer_of(with_json(tmp_path, config={"eos_token_id": 2}))
    for apart in (False, True):
        ids, ends = tokens_of(tokenizer, ["the quick", "brown"], apart)
        assert ids.tolist() == [1, 4, 5, 2, 1, 6, 2]
        assert ends.tolist() == [4, 7]
    for apart, want in ((False, ([97, 10, 98], [3])), (True, ([97, 98], [1, 2]))):
        ids, ends = tokens_of(text.ByteTokenizer(), ["a", "b"], apart)
        assert (ids.tolist(), ends.tolist()) == want


def test_a_prompt_begins_once(tmp_path: Path) -> None:
    words_like_llama(tmp_path)
    tokenizer = text.tokenizer_of(tmp_path)
    for prompt, ids in {"the": [1, 4], "": [1], "<s>the": [1, 4]}.items():
        assert tokenizer.marks.before(tokenizer.encode(prompt)).tolist() == ids
    gpt2 = text.Marks(end=7)
    assert gpt2.before(np.array([], np.int32)).tolist() == [7]
    assert gpt2.before(np.array([3])).tolist() == [3]


def test_the_space_after_the_prompt_survives(tmp_path: Path) -> None:
    words_like_llama(tmp_path)
    tokenizer = text.tokenizer_of(tmp_path)
    ids = tokenizer.encode("the quick brown").tolist()
    assert tokenizer.decode(ids[2:]) == "brown"
    assert text.text_after(tokenizer, ids[:2], ids[2:]) == " brown"
    assert text.text_after(tokenizer, [], ids[2:]) == "brown"


def test_ids_up_to_the_largest(tmp_path: Path) -> None:
    letters = {chr(97 + i): i for i in range(26)} | {" ": 26, "<|far|>": 500}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))
    inner.add_special_tokens(["<|far|>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = text.tokenizer_of(tmp_path)
    assert tokenizer.vocab == 501
    assert tokenizer.decode([500]) == "<|far|>"
    model = fbp.models.gpt2(vocab=512, context=8, width=8, heads=2, layers=1)
    folder = tmp_path / "model"
    fbp.models.save_pretrained(folder, model, model.init(jax.random.key(0)))
    inner.save(str(folder / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("abc <|far|> " * 40)
    task = tuning_task(Pretrained.load(folder), tmp_path / "a.txt")
    assert task.train[:6].tolist() == [0, 1, 2, 26, 500, 26]


def test_the_weights_to_start_from_do_not_stay(tmp_path: Path) -> None:
    words_like_llama(tmp_path)
    model = fbp.models.gpt2(vocab=61, context=8, width=12, heads=2, layers=1)
    fbp.models.save_pretrained(tmp_path, model, model.init(jax.random.key(0)))
    (tmp_path / "a.txt").write_text("the quick brown " * 40)
    task = tuning_task(Pretrained.load(tmp_path), tmp_path / "a.txt")
    shape = (61, 12)  # of the embedding, which no other array has

    def there() -> int:
        return sum(a.shape == shape for a in jax.live_arrays())

    many = there()
    _, params = start_of(task, 0)
    assert there() == many
    del params
    gc.collect()
    assert there() == many - 1
    # Taken again, they are read again.
    _, params = start_of(task, 0)
    assert params["embed"]["w"].shape == shape


def counting() -> tuple[Any, Any]:
    """A model whose likeliest id is always the next one of ten."""
    model = fbp.Serial(embed=fbp.Embedding(10, 10), unembed=fbp.Unembed(10, 10))
    return model, {"embed": {"w": jnp.eye(10)}, "unembed": {"w": jnp.roll(jnp.eye(10), 1, 0)}}


@pytest.mark.parametrize("context", [None, 4])
def test_writing_stops_at_any_stop(context: int | None) -> None:
    model, params = counting()
    greedy, key = text.Choice(temperature=0), jax.random.key(0)

    def write(prompt: Any, n: int, *stops: int) -> Any:
        ids = jnp.array(prompt)
        new = text.generate(model, params, ids, n, key, greedy, context=context, stops=stops)
        return new.tolist()

    assert write([2], 9) == [3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert write([2], 9, 5) == [3, 4, 5, 5, 5, 5, 5, 5, 5]
    assert write([2], 9, 9, 6) == [3, 4, 5, 6, 6, 6, 6, 6, 6]
    # A stop in the prompt ends nothing: the prompt may hold several turns.
    assert write([5], 3, 5) == [6, 7, 8]
    # Each text ends by itself.
    assert write([[2], [4]], 4, 5) == [[3, 4, 5, 5], [5, 5, 5, 5]]


def a_folder(folder: Path, **more: Any) -> Path:
    model = fbp.models.llama(
        vocab=8, width=16, heads=2, layers=1, hidden=16, dtype=more.pop("dtype", "float32")
    )
    fbp.models.save_pretrained(folder, model, jax.jit(model.init)(jax.random.key(0)))
    words_like_llama(folder)
    config = json.loads((folder / "config.json").read_text())
    return with_json(folder, config={**config, "eos_token_id": [2, 3], **more})


def test_a_prompt_longer_than_the_context(tmp_path: Path, capsys: Any) -> None:
    folder = str(a_folder(tmp_path / "m", max_position_embeddings=6))
    how = ["--tokens", "3", "--temperature", "0"]
    assert main(["sample", folder, "--prompt", "the quick " * 3 + "the quick", *how]) == 0
    said = capsys.readouterr()
    assert said.err == "the prompt has 9 tokens; the model reads the last 6\n"
    assert said.out.startswith("the quick the quick")
    assert main(["sample", folder, "--prompt", "", *how]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_tuned_on_documents_learns_to_stop(dtype: str, tmp_path: Path, capsys: Any) -> None:
    folder = a_folder(tmp_path / "m", dtype=dtype)
    before = (folder / "config.json").read_bytes()
    for i in range(20):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{i}.txt").write_text("the quick brown")
    args = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--context", "4"]
    args += ["--steps", "300", "--lr", "0.01", "--no-check", *(["--bf16"] if "b" in dtype else [])]
    assert main(["train", "llama", "--weights", str(folder), *args]) == 0
    capsys.readouterr()
    run = str(tmp_path / "runs" / "llama")
    for prompt, whole in {"the": "the quick brown", "": "the quick brown"}.items():
        how = ["--prompt", prompt, "--tokens", "50", "--temperature", "0"]
        assert main(["sample", run, *how]) == 0
        assert capsys.readouterr().out == f"{whole}\n"
    saved = tmp_path / "runs" / "llama" / "model"
    assert (saved / "config.json").read_bytes() == before
    _, params = fbp.models.from_pretrained(saved)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {dtype}
