"""Reports the measurements as a table, a JSON file and a plot."""

import dataclasses
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from fbp._columns import align
from fbp.bench._contenders import AUTODIFF, FBP
from fbp.bench._measure import PRODUCTS, Figures
from fbp.bench._sizes import GPTSizes

# Environment variables that make glibc keep freed memory instead of returning it.
KEEPING_MEMORY = "MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592"


def table(figures: Sequence[Figures], sizes: GPTSizes) -> str:
    """The table as text. If `PRODUCTS` was measured, `of rate` is its time over a step's time.

    This is the share that a step reaches of the rate at which XLA runs fbp's products alone.
    """
    by_name = {f.name: f for f in figures}
    products = by_name.get(PRODUCTS)
    bases = [name for name in (AUTODIFF, FBP) if name in by_name]
    head = ["", "ms/step", "min", "max", "system", *(f"/ {name}" for name in bases)]
    head += ["args MiB", "temps MiB", "peak MiB", "compile s", "TFLOP/s"]
    rows = [[*head, *(["of rate"] if products else [])]]
    for f in figures:
        row = [f.name, *(f"{1e3 * s:.2f}" for s in (f.median, min(f.seconds), max(f.seconds)))]
        row += ["-" if f.system is None else f"{f.system:.2f}"]
        row += [f"{f.ratio(by_name[name]):.2f}" for name in bases]
        row += [mebibytes(b) for b in (f.arguments, f.temporaries, f.peak)]
        row += ["-" if f.compile_seconds is None else f"{f.compile_seconds:.1f}"]
        row += [f"{sizes.flops / f.median / 1e12:.3f}"]
        rows.append([*row, *([f"{products.ratio(f):.2f}"] if products else [])])
    return align(rows)


def mebibytes(n: int | None) -> str:
    """A number of bytes as text, in MiB."""
    return "-" if n is None else f"{n / 2**20:.0f}"


def remarks(figures: Sequence[Figures], sizes: GPTSizes) -> list[str]:
    """Lines about the validity of the numbers: whether the losses agree, and the noise."""
    trained = [f for f in figures if f.first_losses]
    first = trained[0]
    worst = max(trained, key=lambda f: f.agrees(first))
    spread = statistics.median(max(f.seconds) / min(f.seconds) for f in figures)
    lines = [
        f"losses of the first steps: at most {worst.agrees(first):.1e} apart ({worst.name})",
        f"on paper {sizes.flops / 1e9:.1f} GFLOP a step, {sizes.attention_flops / 1e9:.1f} of it "
        "attention's causal half",
        f"slowest round / fastest round: {spread:.2f} in the median",
    ]
    if spread > 1.3:
        lines.append("the machine was busy with something else: repeat before you rely on this")
    share, name = max((f.system or 0, f.name) for f in trained)
    is_glibc = jax.default_backend() == "cpu" and platform.libc_ver()[0] == "glibc"
    if is_glibc and share > 0.1:
        lines.append(
            f"for {name} {100 * share:.0f} % of the processors' work is the "
            "operating system's, the most of all; if for memory that glibc gives back after each "
            f"step, compare: {KEEPING_MEMORY} fbp bench ..."
        )
    return lines


def write_json(
    path: Path, workload: str, figures: Sequence[Figures], about: dict[str, Any]
) -> None:
    """Writes all measurements, in the place of those that were written before."""
    rows = [dataclasses.asdict(f) for f in figures]
    partial = path.with_name(f"{path.name}.partial")
    text = json.dumps({"workload": workload, **about, "figures": rows}, indent=1)
    partial.write_text(text + "\n")
    partial.replace(path)


def draw(path: Path, title: str, figures: Sequence[Figures]) -> None:
    """Plots time against memory: further left is faster, further down uses less memory."""
    from matplotlib.figure import Figure

    known = [f for f in figures if f.temporaries is not None and f.arguments is not None]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for f in known:
        memory = ((f.arguments or 0) + (f.temporaries or 0)) / 2**20
        ours = f.name.startswith(FBP)
        axes.scatter(1e3 * f.median, memory, color="C3" if ours else "C0", zorder=3)
        axes.annotate(
            f.name, (1e3 * f.median, memory), xytext=(5, 4), textcoords="offset points", fontsize=8
        )
    axes.set(xlabel="ms a step", ylabel="MiB, arguments and temporaries", title=title)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.25)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
