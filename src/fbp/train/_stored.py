"""What a run has learned, read back from its folder: nothing is believed unseen."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp._errors import InputError
from fbp._layer import Layer, Params
from fbp._tree import named_leaves
from fbp.text import Tokenizer, tokenizer_from_json
from fbp.train._run import CONFIG, WEIGHTS, Run
from fbp.train._tasks import build_model
from fbp.train.checkpoints import checkpoints_in
from fbp.train.tables._encoding import Encoding
from fbp.train.text._model import TextModel


def load(run: Run | str | Path) -> tuple[Layer, Params, Encoding]:
    """Reads the network of a run on a table.

    Args:
      run: its folder, such as `runs/digits`.

    Returns:
      `(model, params, encoding)`, which says what each input of the model means.

    Raises:
      InputError: the folder is not a run on a table, or a file in it is damaged.
    """
    run = _opened(run)
    run.require_whole()
    config = run.config()
    if "recipe" in config and "encoding" not in config and "tokenizer" not in config:
        raise InputError(
            f"{run.folder}: a run of a model of your own: its parameters are in {WEIGHTS}, "
            "by their paths, for a program of your own"
        )
    if "tokenizer" in config:
        raise InputError(f"{run.folder}: expected a run on a table, got one on text")
    try:
        model = build_model(config["model"])
        encoding = Encoding.from_json(config["encoding"])
        fits = _fits(config["model"], encoding)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{run.folder / CONFIG}: expected a run's config: {error}") from None
    if not fits:
        raise InputError(f"{run.folder / CONFIG}: expected a model that fits its encoding")
    return model, weights_of(run, model), encoding


def load_text(run: Run | str | Path) -> tuple[TextModel, Params, Tokenizer]:
    """Reads the language model of a run, trained from the start.

    Args:
      run: its folder, such as `runs/gpt`.

    Returns:
      `(text_model, params, tokenizer)`.

    Raises:
      InputError: the folder is not a run on text, or a file in it is damaged.
    """
    run = _opened(run)
    run.require_whole()
    config = run.config()
    if "tokenizer" not in config:
        raise InputError(f"{run.folder}: expected a run on text, got one on a table")
    try:
        text_model = TextModel.from_spec(config["model"])
        tokenizer = tokenizer_from_json(config["tokenizer"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{run.folder / CONFIG}: expected a run's config: {error}") from None
    if text_model.vocab != tokenizer.vocab:
        raise InputError(f"{run.folder / CONFIG}: expected a model that fits its tokenizer")
    params = jax.tree.map(jnp.asarray, weights_of(run, text_model.model))
    return text_model, params, tokenizer


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run(Path(run))


def weights_of(run: Run, model: Layer) -> Params:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = run.folder / WEIGHTS
    if not path.exists() and checkpoints_in(run.steps):
        raise InputError(
            f"{path}: there are none, as the run did not end: fbp train --resume {run.folder}"
        )
    try:
        saved = load(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path}: expected safetensors, got a damaged file: {error}") from None
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    for name, shape in named_leaves(shapes).items():
        got = saved[name].shape if name in saved else "none"
        if got != shape.shape:
            raise InputError(f"{path}: expected {name} of shape {shape.shape}, got {got}")
        if saved[name].dtype != shape.dtype or not np.isfinite(saved[name]).all():
            raise InputError(f"{path}: expected finite {shape.dtype} numbers in {name}")
    return jax.tree.unflatten(
        jax.tree.structure(shapes), [saved[name] for name in named_leaves(shapes)]
    )


def _fits(spec: dict[str, Any], encoding: Encoding) -> bool:
    """Whether a network's input and output widths are those of a valid encoding."""
    if encoding.kind not in ("regression", "classification"):
        return False
    numbers = [encoding.offset, encoding.scale]
    for column in encoding.columns:
        numbers += [column.offset, column.scale]
        if not isinstance(column.name, str):
            return False
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        return False
    sizes = spec.get("sizes", [1, 1])
    return (sizes[0], sizes[-1]) == (len(encoding.columns), encoding.outputs)
