"""What a step on a mesh would take, from shapes alone: bytes, FLOPs, what is sent, and the time."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax

from fbp._layer import PyTree
from fbp._tree import count
from fbp.mesh._layout import Layout
from fbp.mesh._program import Work, work_of
from fbp.mesh._rules import AXES
from fbp.step import state_of, step_of


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip can do at best, by its maker's figures.

    Attributes:
      flops: of products in bfloat16, a second.
      memory: bytes.
      sends: bytes a second to and from other chips of its kind beside it.
    """

    flops: float
    memory: float
    sends: float


# Sources: Google Cloud's pages on TPU v5e (197 TFLOP/s, 16 GB, 1,600 Gbit/s between chips) and v5p
# (459 TFLOP/s, 95 GB, 4,800 Gbit/s); NVIDIA's data sheets of the H100 and H200 SXM (989 TFLOP/s
# without sparsity, 80 and 141 GB, NVLink 900 GB/s in both directions together).
CHIPS = {
    "v5e": Chip(197e12, 16e9, 200e9),
    "v5p": Chip(459e12, 95e9, 600e9),
    "h100": Chip(989e12, 80e9, 450e9),
    "h200": Chip(989e12, 141e9, 450e9),
}


@dataclasses.dataclass(frozen=True)
class Planned:
    """A step that was compiled and not run.

    Attributes:
      layout: where its arrays lie.
      params: the number of parameters.
      state: bytes of params and of the optimizer's state on a device.
      temporaries: bytes of everything else on it, at the most.
      work: FLOPs of a device, and what it sends.
    """

    layout: Layout
    params: int
    state: int
    temporaries: int
    work: Work

    @property
    def memory(self) -> int:
        """Bytes of a device."""
        return self.state + self.temporaries

    def seconds(self, chip: Chip) -> tuple[float, float]:
        """The time of a step at best: of its products, and of what it sends. A step takes the
        longer of the two where one hides the other, and their sum where it does not."""
        return self.work.flops / chip.flops, self.work.moved() / chip.sends

    def share(self, chip: Chip) -> float:
        """The share of a chip's rate that its products reach at best."""
        products, sending = self.seconds(chip)
        return products / max(products, sending)


def planned(
    objective: Any,
    optimizer: Any,
    layout: Layout,
    batch: PyTree,
    *,
    in_backward: bool = False,
) -> Planned:
    """Returns what a step would take, compiled from shapes: nothing is allocated.

    The devices may be simulated ones of a CPU, for models that fit nowhere here: set
    `JAX_NUM_CPU_DEVICES`. Their compiler keeps about what others keep: a llama of 7B on 16 devices
    has 5.7 GiB of temporaries by it, and 5.9 GiB by that of a TPU v5e.

    Args:
      objective, optimizer, in_backward: as for `fbp.step_of`.
      layout: where arrays lie.
      batch: a batch, or its shapes and dtypes.
    """

    def first(key: Any) -> Any:
        return state_of(objective.init(key), optimizer)

    shapes = jax.eval_shape(first, jax.random.key(0))
    step: Any = step_of(objective, optimizer, in_backward=in_backward, mesh=layout)
    lowered = step.lower(layout.shapes(shapes), layout.shapes(batch, batch=True))
    compiled = lowered.compile()
    memory: Any = compiled.memory_analysis()
    return Planned(
        layout,
        count(jax.eval_shape(objective.init, jax.random.key(0))),
        layout.bytes_a_device(shapes),
        memory.temp_size_in_bytes,
        work_of(compiled),
    )


def meshes_of(devices: int) -> Iterator[str]:
    """Every way to cut so many devices into the axes of a mesh."""
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    for sizes in itertools.product(divisors, repeat=len(AXES) - 1):
        rest = devices
        for size in sizes:
            rest = rest // size if rest % size == 0 else 0
        if rest:
            named = zip(AXES, (*sizes, rest), strict=True)
            yield ",".join(f"{name}={n}" for name, n in named if n > 1) or f"{AXES[0]}=1"
