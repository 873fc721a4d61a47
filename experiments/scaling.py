"""python experiments/scaling.py [--only REGEX] [--rounds N] [--json FILE]

TIME on the 2 cores of a 2.6 GHz Xeon. Expected there: NUMBERS

How a GPT's training step grows with its context, depth, vocabulary and batch: by `jax.grad`, by
`jax.grad` with what it keeps cut down to the dots of weights, and by fbp, whose attention sees past
keys only, whose head never holds all logits, and whose optimizer may run inside the backward.

One size grows at a time, doubled or quadrupled, from 4 layers, width 128, 4 heads, context 256,
batch 2 and 512 ids. All contenders of one size take turns. A slope is the power of the size that
time, or memory (arguments and temporaries), grows with over its last step: 1 is in proportion, 2 is
four times the cost for twice the size.
"""

import argparse
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

from fbp._text import align
from fbp.bench import CONTENDERS, Figures, GPTSizes, measure

BASE = GPTSizes(layers=4, width=128, heads=4, context=256, batch=2, vocab=512)
AXES = {
    "context": (256, 512, 1024, 2048),
    "layers": (2, 4, 8, 16),
    "vocab": (512, 2048, 8192, 32768),
    "batch": (1, 2, 4, 8),
}
NAMES = ("jax.grad", "jax.grad, remat: dots", "fbp", "fbp, in backward, keep=inputs")


def slope(sizes: tuple[int, ...], costs: list[float]) -> float:
    """The power that the cost grows with over the last step."""
    return math.log(costs[-1] / costs[-2]) / math.log(sizes[-1] / sizes[-2])


def memory(figures: Figures) -> float:
    """MiB that a step takes."""
    return ((figures.arguments or 0) + (figures.temporaries or 0)) / 2**20


def grow(axis: str, values: tuple[int, ...], names: tuple[str, ...], rounds: int) -> list[Any]:
    """The figures of every contender at every size."""
    chosen = [c for c in CONTENDERS if c.name in names]
    found: dict[str, list[Figures]] = {c.name: [] for c in chosen}
    for value in values:
        sizes = dataclasses.replace(BASE, **{axis: value})
        figures, _ = measure(chosen, sizes, rounds=rounds)
        for f in figures:
            found[f.name].append(f)
    rows = []
    for name, figures in found.items():
        seconds, mebibytes = [f.median for f in figures], [memory(f) for f in figures]
        rows.append(
            {
                **{"axis": axis, "name": name, "sizes": values},
                **{"ms": [1e3 * s for s in seconds], "MiB": mebibytes},
                **{"ms_slope": slope(values, seconds), "MiB_slope": slope(values, mebibytes)},
            }
        )
    return rows


def table(rows: list[Any]) -> str:
    """Time, then memory, of one axis."""
    values = rows[0]["sizes"]
    lines = [(rows[0]["axis"], *map(str, values), "slope", *map(str, values), "slope")]
    for row in rows:
        ms, mebibytes = ([f"{x:.0f}" for x in row[unit]] for unit in ("ms", "MiB"))
        slopes = [f"{row[name]:.2f}" for name in ("ms_slope", "MiB_slope")]
        lines.append((row["name"], *ms, slopes[0], *mebibytes, slopes[1]))
    return align(lines)


def main(
    axes: dict[str, tuple[int, ...]] = AXES, names: tuple[str, ...] = NAMES, rounds: int = 5
) -> list[Any]:
    """Prints a table for each axis: ms a step on the left, MiB on the right."""
    print(f"ms a step, then MiB; from {BASE}")
    rows = []
    for axis, values in axes.items():
        rows.append(grow(axis, values, names, rounds))
        print(f"\n{table(rows[-1])}", flush=True)
    return [row for some in rows for row in some]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="axes")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.json is not None and args.json.exists():
        parser.error(f"expected a new file, got {args.json}, which exists")
    chosen = {axis: values for axis, values in AXES.items() if re.search(args.only, axis)}
    if not chosen:
        parser.error(f"expected --only to match one of: {', '.join(AXES)}")
    results = main(chosen, rounds=args.rounds)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
