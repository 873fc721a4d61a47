"""Which axis of a parameter lies over which axis of a mesh."""

import re
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh, PartitionSpec

Rules = Callable[[str, tuple[int, ...]], PartitionSpec]

# The axes of a mesh by what lies over them: examples, parameters between their uses (and examples
# too), the columns of weights while they are used.
DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
AXES = DATA, FSDP, TENSOR
# Of the models in `fbp.models`, for weights (in, out) and embeddings (V, D). A product whose
# columns are split is followed by one whose rows are: between the two nothing moves.
_NAMED = (
    (re.compile(r"(^|\.)(unembed|embed|tokens)\.w$"), (TENSOR, FSDP)),
    (re.compile(r"(^|\.)(qkv|up|gate)\.w$"), (FSDP, TENSOR)),
    (re.compile(r"(^|\.)(out|down)\.w$"), (TENSOR, FSDP)),
    (re.compile(r"(^|\.)(qkv|up|gate)\.b$"), (TENSOR,)),
)


def default_rules(mesh: Mesh) -> Rules:
    """Returns the rules for models of fbp, which hold for others too.

        the axis "fsdp"     cuts the largest axis of every array with two axes or more
        the axis "tensor"   cuts the outputs of `qkv`, `up` and `gate`, the inputs of `out` and
                            `down`, and the vocabulary of embeddings
        everything else     is whole on every device

    An axis that does not divide is not cut.

    Args:
      mesh: the devices.
    """

    def rules(path: str, shape: tuple[int, ...]) -> PartitionSpec:
        entries: list[Any] = [None] * len(shape)
        for pattern, names in _NAMED:
            if pattern.search(path) and len(names) == len(shape):
                entries = list(names)
                break
        else:
            if len(shape) > 1:
                largest = max(
                    range(len(shape)), key=lambda i: (_divides(mesh, FSDP, shape[i]), shape[i])
                )
                entries[largest] = FSDP
        return PartitionSpec(
            *(
                name if name is not None and _divides(mesh, name, n) else None
                for name, n in zip(entries, shape, strict=True)
            )
        )

    return rules


def _divides(mesh: Mesh, name: str, n: int) -> bool:
    size = mesh.shape.get(name, 1)
    return size > 1 and n % size == 0
