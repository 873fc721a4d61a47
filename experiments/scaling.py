"""python experiments/scaling.py [--only REGEX] [--rounds N] [--json FILE]

With `--only layers --rounds 2` 2.5 minutes on the 2 cores of a 2.6 GHz Xeon, other axes not timed.
Expected there with jax 0.10.2, ms a step on the left and MiB on the right:

    layers                                  2    4    8   16  slope   2   4    8   16  slope
    jax.grad                               49  120  190  416   1.13  44  76  140  269   0.94
    jax.grad, remat: dots                  47  100  157  354   1.17  22  33   54   96   0.83
    jax.grad, remat: dots, loss in chunks  44   90  156  353   1.18  22  33   54   96   0.83
    fbp                                    26   53  103  218   1.08  21  32   54   99   0.86
    fbp, in backward, keep=inputs          32   65   92  213   1.21  19  24   34   54   0.67

How a GPT's training step grows with its context, depth, vocabulary and batch: by `jax.grad`, by
`jax.grad` with what it keeps cut down to the dots of weights, without and with its loss in chunks
of tokens, and by fbp, whose attention sees past keys only, whose head holds the logits of 1,024
tokens at a time, and whose optimizer may run inside the backward.

One size changes at a time, around 4 layers, width 128, 4 heads, context 256, batch 2 and 512 ids;
the vocabulary grows for a batch of 8. All contenders of one size take turns. A slope is the power
of the size that time, or memory (arguments and temporaries), grows with over its last step: 1 is in
proportion, 2 is four times the cost for twice the size.
"""

import argparse
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

from fbp._columns import align
from fbp.bench import CONTENDERS, Figures, GPTSizes, measure

BASE = GPTSizes(layers=4, width=128, heads=4, context=256, batch=2, vocab=512)
Axes = dict[str, tuple[GPTSizes, tuple[int, ...]]]
AXES: Axes = {
    "context": (BASE, (128, 256, 512, 1024)),
    "layers": (BASE, (2, 4, 8, 16)),
    "vocab": (dataclasses.replace(BASE, batch=8), (512, 2048, 8192, 32768)),
    "batch": (BASE, (1, 2, 4, 8)),
}
NAMES = (
    *("jax.grad", "jax.grad, remat: dots", "jax.grad, remat: dots, loss in chunks"),
    *("fbp", "fbp, in backward, keep=inputs"),
)
NONE = float("nan")  # of a size that could not be measured


def slope(sizes: tuple[int, ...], costs: list[float]) -> float:
    """The power that the cost grows with over the last step."""
    return math.log(costs[-1] / costs[-2]) / math.log(sizes[-1] / sizes[-2])


def milliseconds(figures: Figures | None) -> float:
    """Of a step."""
    return NONE if figures is None else 1e3 * figures.median


def mebibytes(figures: Figures | None) -> float:
    """What a step takes."""
    if figures is None:
        return NONE
    return ((figures.arguments or 0) + (figures.temporaries or 0)) / 2**20


def grow(
    axis: str, base: GPTSizes, values: tuple[int, ...], names: tuple[str, ...], rounds: int
) -> list[dict[str, Any]]:
    """The figures of every contender at every size."""
    chosen = [c for c in CONTENDERS if c.name in names]
    found: list[dict[str, Figures]] = []
    for value in values:
        figures, notes = measure(chosen, dataclasses.replace(base, **{axis: value}), rounds=rounds)
        for note in notes:
            print(f"{axis} {value}: {note}")
        found.append({f.name: f for f in figures})
    rows = []
    for c in chosen:
        figures_of_c = [one.get(c.name) for one in found]
        ms, mib = ([of(f) for f in figures_of_c] for of in (milliseconds, mebibytes))
        rows.append(
            {
                **{"axis": axis, "name": c.name, "sizes": values, "ms": ms, "MiB": mib},
                **{"ms_slope": slope(values, ms), "MiB_slope": slope(values, mib)},
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Time, then memory, of one axis."""
    values = rows[0]["sizes"]
    lines = [(rows[0]["axis"], *map(str, values), "slope", *map(str, values), "slope")]
    for row in rows:
        ms, mib = ([f"{x:.0f}" for x in row[unit]] for unit in ("ms", "MiB"))
        lines.append((row["name"], *ms, f"{row['ms_slope']:.2f}", *mib, f"{row['MiB_slope']:.2f}"))
    return align(lines)


def main(
    axes: Axes = AXES, names: tuple[str, ...] = NAMES, rounds: int = 5
) -> list[dict[str, Any]]:
    """Prints a table for each axis: ms a step on the left, MiB on the right."""
    print(f"ms a step, then MiB; around {BASE}")
    rows = []
    for axis, (base, values) in axes.items():
        some = grow(axis, base, values, names, rounds)
        print(f"\n{table(some)}", flush=True)
        rows += some
    return rows


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
    if args.rounds < 1:
        parser.error(f"expected --rounds of 1 or more, got {args.rounds}")
    try:
        chosen = {axis: values for axis, values in AXES.items() if re.search(args.only, axis)}
    except re.error as error:
        parser.error(f"expected --only to be a regular expression: {error}")
    if not chosen:
        parser.error(f"expected --only to match one of: {', '.join(AXES)}")
    results = main(chosen, rounds=args.rounds)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
