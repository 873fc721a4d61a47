"""python experiments/budget.py [--mebibytes N] [--json FILE]

About 4 minutes on the 2 cores of a 2.6 GHz EPYC. Expected within 512 MiB, with jax 0.10.2:

                                   context   layers   parameters
    jax.grad                           704        7   22,395,392
    jax.grad, remat: dots            1,536        9   28,700,160
    jax.grad, remat: nothing         1,664        9   28,700,160
    fbp                              4,608        9   28,700,160
    fbp, keep=inputs                 6,656        9   28,700,160
    fbp, in backward, keep=inputs    7,168       13   41,309,696

The longest context, and the most layers, whose training step fits into a budget: parameters, the
state of AdamW, the batch and temporaries, as the compiler counts them: nothing is run. Sizes are
tried in steps of an eighth.

The context grows for 6 layers, width 256, 8 heads, batch 1 and 512 ids; the layers for width 512,
8 heads, context 128, batch 2 and 512 ids.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fbp._columns import align
from fbp._tree import count
from fbp.bench import CONTENDERS, Contender, GPTSizes

AXES = {
    "context": GPTSizes(layers=6, width=256, heads=8, context=256, batch=1, vocab=512),
    "layers": GPTSizes(layers=2, width=512, heads=8, context=128, batch=2, vocab=512),
}
NAMES = (
    *("jax.grad", "jax.grad, remat: dots", "jax.grad, remat: nothing"),
    *("fbp", "fbp, keep=inputs", "fbp, in backward, keep=inputs"),
)


def memory(contender: Contender, sizes: GPTSizes) -> int:
    """The bytes of a step."""
    params = jax.eval_shape(sizes.model().init, jax.random.key(0))
    built = contender.build(sizes, params, jnp.float32, 1)
    return (built.arguments or 0) + (built.temporaries or 0)


def largest(fits: Callable[[int], bool], start: int) -> int:
    """A size that fits, where one an eighth larger does not; 0 if `start` does not fit."""
    if not fits(start):
        return 0
    low, high = start, 2 * start
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def main(
    budget: int, axes: dict[str, GPTSizes] = AXES, names: tuple[str, ...] = NAMES
) -> list[dict[str, Any]]:
    """Prints, and returns, the largest sizes."""
    rows = []
    for contender in (c for c in CONTENDERS if c.name in names):
        row: dict[str, Any] = {"name": contender.name}
        for axis, base in axes.items():

            def fits(n: int, c: Contender = contender, a: str = axis, b: GPTSizes = base) -> bool:
                return memory(c, dataclasses.replace(b, **{a: n})) <= budget

            row[axis] = largest(fits, getattr(base, axis))
            jax.clear_caches()
        if "layers" in row:
            model = dataclasses.replace(axes["layers"], layers=row["layers"]).model()
            params = jax.eval_shape(model.init, jax.random.key(0))
            row["parameters"] = count(params) if row["layers"] else 0
        rows.append(row)
    head = list(rows[0])
    cells = [[f"{v:,}" if isinstance(v, int) else v for v in row.values()] for row in rows]
    print(f"within {budget / 2**20:g} MiB\n{align([['', *head[1:]], *cells])}")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mebibytes", type=float, default=512, metavar="N", help="the budget")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.json is not None and args.json.exists():
        parser.error(f"expected a new file, got {args.json}, which exists")
    if args.mebibytes <= 0:
        parser.error(f"expected --mebibytes above 0, got {args.mebibytes}")
    results = main(int(args.mebibytes * 2**20))
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
