"""Makes the arguments of a function from specs on the command line."""

import re
import zipfile
from pathlib import Path
from typing import Any

from fbp.verify.registry._named import CheckError

FORMS = "float32[7,5], 7x5, 'float32[7]>0', 'int32[7]<11', bool[7], key, none, true, 0.1, @file.npy"
_WORDS = {"none": None, "true": True, "false": False}
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d, ]*)\](?:([<>])(\d+))?")
_SHAPE = re.compile(r"\d+(?:x\d+)+")
# The short names of dtypes in a jaxpr.
_SHORT = {"f": "float", "bf": "bfloat", "i": "int", "u": "uint", "c": "complex"}


def parse_inputs(specs: tuple[str, ...], seed: int) -> tuple[Any, ...]:
    """Makes an argument from each spec; arrays of a given shape are random.

    Raises:
      CheckError: a spec has none of the FORMS, or a file cannot be read.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    return tuple(_parse(spec.strip(), rng, seed) for spec in specs)


def _parse(spec: str, rng: Any, seed: int) -> Any:
    if spec.startswith("@"):
        return _read(Path(spec[1:]))
    if spec == "key":
        import jax

        return jax.random.key(seed)
    if spec.lower() in _WORDS:
        return _WORDS[spec.lower()]
    if _SHAPE.fullmatch(spec):
        spec = f"float32[{spec.replace('x', ',')}]"
    if array := _ARRAY.fullmatch(spec):
        dtype, sizes, relation, bound = array.groups()
        shape = tuple(int(size) for size in sizes.split(",") if size.strip())
        try:
            return _draw(spec, dtype, shape, relation, bound, rng)
        except (MemoryError, ValueError) as error:
            if isinstance(error, CheckError):
                raise
            raise CheckError(f"--input {spec}: cannot be made: {error}") from None
    for number in (int, float):
        try:
            return number(spec)
        except ValueError:
            pass
    raise CheckError(f"--input {spec}: expected one of {FORMS}")


def _draw(
    spec: str, name: str, shape: tuple[int, ...], relation: str | None, bound: str, rng: Any
) -> Any:
    import jax.numpy as jnp

    letters = name.rstrip("0123456789")
    try:
        dtype = jnp.dtype(_SHORT.get(letters, letters) + name[len(letters) :])
    except TypeError:
        raise CheckError(f"--input {spec}: expected a dtype, as float32, got {name}") from None
    if dtype.kind == "b" and relation is None:
        return rng.random(shape) < 0.5
    if jnp.issubdtype(dtype, jnp.integer):
        if relation != "<" or int(bound) < 1:
            raise CheckError(
                f"--input {spec}: expected how large its integers get, as in '{name}[7]<11'"
            )
        return rng.integers(int(bound), size=shape).astype(dtype)
    if jnp.issubdtype(dtype, jnp.inexact) and relation is None:
        values = rng.normal(size=shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            values = values + 1j * rng.normal(size=shape)
        return values.astype(dtype)
    if jnp.issubdtype(dtype, jnp.floating) and (relation, bound) == (">", "0"):
        return jnp.exp(0.5 * rng.normal(size=shape)).astype(dtype)
    raise CheckError(f"--input {spec}: expected one of {FORMS}")


def _read(path: Path) -> Any:
    """The array of an .npy file, or a dict of the arrays of an .npz file. No pickles."""
    import numpy as np

    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.ndarray):
                content = {name: content[name] for name in content.files}
        arrays = list(content.values()) if isinstance(content, dict) else [content]
        if any(array.dtype.kind not in "biufc" for array in arrays):
            raise ValueError("not of numbers")
        return content
    except OSError as error:
        raise CheckError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile):
        raise CheckError(
            f"{path}: expected an .npy or .npz file of numbers; pickled objects are not read"
        ) from None
