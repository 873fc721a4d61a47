"""An explanation in the terminal: the chain of layers, or of one number's factors."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fbp._columns import align
from fbp._layer import PyTree, name_of
from fbp._tree import named_leaves
from fbp.explainer._traced import Pass, Traced, TracedStep
from fbp.explainer._written import number, plain, written, written_loss

# A gradient this much smaller than the loss's own, or larger, is pointed out.
FAR = 1e4


def text_of(explanation: TracedStep) -> str:
    """The whole of it."""
    if _is_scalar(explanation):
        written_out = [*_factors(explanation), *_update_factors(explanation)]
        return "\n".join([*written_out, *proof_lines(explanation)])
    lines = [
        head_of(explanation),
        align(table(explanation)),
        *troubles(explanation),
        *_update_lines(explanation),
        *proof_lines(explanation),
    ]
    return "\n".join(lines)


def head_of(explanation: TracedStep) -> str:
    """The line above the table."""
    loss = name_of(explanation.loss.loss)
    return f"loss {explanation.value:.6g}, {loss}; the root mean square of each array:"


def table(explanation: TracedStep) -> list[list[str]]:
    """A row for each pass of each layer without layers inside, and one for the loss."""
    rows = [["layer", "", "y", "dy", "dparams", "dx", "rule"]]
    for layer, i, one in leaves_of(explanation):
        rows.append(
            [
                place_of(layer, i),
                name_of(layer.layer),
                *(_size(tree) for tree in (one.y, one.dy, one.dparams, one.dx)),
                _distance(one.proof),
            ]
        )
    loss = explanation.loss
    turned = [f"{explanation.value:.3g}", "", _size(loss.dparams), _size(loss.dy)]
    rows.append(["loss", name_of(loss.loss), *turned, _distance(loss.proof)])
    return rows


def rms(tree: PyTree) -> float | None:
    """The root mean square of all floats in a tree; None if there are none."""
    leaves = [np.asarray(a, np.float64) for a in jax.tree.leaves(tree) if _is_float(a)]
    count = sum(a.size for a in leaves)
    return float(np.sqrt(sum(float((a**2).sum()) for a in leaves) / count)) if count else None


def leaves_of(explanation: TracedStep) -> list[tuple[Traced, int, Pass]]:
    """The passes of the layers without layers inside, in the order of the forward."""
    seen = [(explanation.layers[e.layer], e.run) for e in explanation.events if e.kind == "forward"]
    return [(layer, i, layer.passes[i]) for layer, i in seen]


def place_of(layer: Traced, i: int) -> str:
    path = layer.path or "the model"
    return path if len(layer.passes) == 1 else f"{path} [{i}]"


def _size(tree: PyTree) -> str:
    size = rms(tree)
    return "" if size is None else f"{size:.3g}"


def _distance(proof: Any) -> str:
    if proof is None:
        return ""
    return f"{proof.units:.2g} eps" if proof.ok else "WRONG"


def troubles(explanation: TracedStep) -> list[str]:
    """Neurons that are 0 for every example, and gradients that vanish or blow up."""
    lines = []
    start = rms(explanation.loss.dy) or 0.0
    for layer, i, one in leaves_of(explanation):
        y = one.y
        if name_of(layer.layer) == "Relu" and np.ndim(y):
            dead = (np.asarray(y).reshape(-1, y.shape[-1]) == 0).all(0)
            if dead.any():
                lines.append(
                    f"{place_of(layer, i)}: {dead.sum():,} of {dead.size:,} neurons are 0 for "
                    "every example: no gradient passes through them"
                )
        size = rms(one.dx)
        if size is not None and start and not start / FAR <= size <= start * FAR:
            what = "vanishes" if size < start else "blows up"
            lines.append(
                f"{place_of(layer, i)}: the gradient {what}: dx is {size / start:.1e} times the "
                "loss's dy"
            )
        if not all(np.isfinite(a).all() for a in jax.tree.leaves((y, one.dx)) if _is_float(a)):
            lines.append(f"{place_of(layer, i)}: not finite")
    return lines


def proof_lines(explanation: TracedStep) -> list[str]:
    """Whether the rules are right, in a line; none if they were not compared."""
    proofs = [
        (one.proof, place_of(layer, i))
        for layer in explanation.layers
        for i, one in enumerate(layer.passes)
    ]
    proofs.append((explanation.loss.proof, "the loss"))
    if not any(one for one, _ in proofs):
        return []
    if wrong := explanation.wrong:
        return [
            f"WRONG: {', '.join(wrong)}: not what autodiff of the forward says at these numbers"
        ]
    units = [(one.units, name) for one, name in proofs if one and not np.isnan(one.units)]
    if not units:
        return ["each layer's own rule is finite where autodiff is, and only there"]
    most, name = max(units, key=lambda each: each[0])
    return [
        "each layer's own rule is what autodiff of its forward says at these numbers, to "
        f"{most:.2g} units of rounding" + (f" at most, in {name}" if most else "")
    ]


def update_table(explanation: TracedStep) -> list[list[str]]:
    """A row for each parameter: the root mean squares of it, its gradient and its change."""
    assert explanation.update is not None
    rows = [["parameter", "size", "gradient", "change", "change / size"]]
    trees = explanation.params, explanation.grads, explanation.update.change
    for name, p, *others in _together(trees):
        if _is_float(p):
            size, d, change = (rms(a) or 0.0 for a in (p, *others))
            share = f"{change / size:.1e}" if size else ""
            rows.append([name, f"{size:.3g}", f"{d:.3g}", f"{change:.3g}", share])
    return rows


def update_line(explanation: TracedStep) -> str:
    """What the update did to the loss."""
    update = explanation.update
    assert update is not None
    return (
        f"{explanation.value:.6g} -> {update.value:.6g} on the same batch; the gradient foretold "
        f"{update.foretold:.6g}"
    )


def _update_lines(explanation: TracedStep) -> list[str]:
    if explanation.update is None:
        return []
    if not any(np.any(change) for change in jax.tree.leaves(explanation.update.change)):
        return ["no parameter moves, as at the end of a schedule whose rate falls to 0"]
    return [
        "",
        "the update; root mean squares:",
        align(update_table(explanation)),
        f"loss {update_line(explanation)}",
    ]


def _update_factors(explanation: TracedStep) -> list[str]:
    """The update of single numbers, each as what it was and what was added."""
    update = explanation.update
    if update is None:
        return []
    trees = explanation.params, explanation.grads, update.change, update.params
    rows = [
        (name.rpartition(".")[2], *(float(np.asarray(a).reshape(())) for a in leaves))
        for name, *leaves in _together(trees)
    ]
    # Gradient descent adds the same multiple of each gradient.
    rates = {f"{-change / d:.5g}" for _, _, d, change, _ in rows if d}
    rate = rates.pop() if len(rates) == 1 else None
    lines = [
        f"update, against the gradient, by the learning rate {rate}" if rate else "update",
    ]
    for name, before, d, change, after in rows:
        moved = f"- {rate} * {number(d)}" if rate else f"+ {number(change)}"
        lines.append(f"  {name:12} {plain(before)} {moved} = {plain(after)}")
    return [*lines, f"  {'loss':12} {update_line(explanation)}"]


def _factors(explanation: TracedStep) -> list[str]:
    """The chain rule of a network of single numbers, factor by factor."""
    leaves = leaves_of(explanation)
    lines = ["forward"]
    for layer, i, one in leaves:
        lines.append(_line(place_of(layer, i), "y", _written(layer, one, "y")))
    loss = written_loss(explanation.loss)
    lines += [_line("loss", "loss", loss["loss"]), "backward", _line("loss", "dy", loss["dy"])]
    for layer, i, one in reversed(leaves):
        for name, _ in _named(one.dparams, layer.path):
            of = _written(layer, one, f"d{name}")
            lines.append(_line(place_of(layer, i), f"d{name}", f"upstream * local = {of}"))
        lines.append(_line(place_of(layer, i), "dx", _written(layer, one, "dx")))
    return lines


def _written(layer: Traced, one: Pass, what: str) -> str:
    index = (0, 0) if what not in ("dw", "db") or np.ndim(one.dparams) == 2 else (0,)
    made = written(layer.layer, one, what, index)
    if made is not None:
        return made
    tree = getattr(one, what, None)
    return " ".join(plain(a) for a in jax.tree.leaves(tree))


def _line(where: str, what: str, text: str) -> str:
    return f"  {where:12} {what:5} {text}"


def _named(tree: PyTree, path: str) -> list[tuple[str, Any]]:
    """The leaves of a layer's params by their last names; a single one has the layer's."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    last = path.rpartition(".")[2]
    return [
        (jax.tree_util.keystr(keys[-1:], simple=True) if keys else last, leaf)
        for keys, leaf in found
    ]


def _together(trees: Sequence[PyTree]) -> list[tuple[Any, ...]]:
    """The leaves of trees of one form, each with its path before."""
    return list(zip(named_leaves(trees[0]), *map(jax.tree.leaves, trees), strict=True))


def _is_scalar(explanation: TracedStep) -> bool:
    """Whether every array of a small network is one number."""
    trees = [(one.x, one.y, one.params) for layer in explanation.layers for one in layer.passes]
    return len(explanation.events) < 40 and all(
        np.size(a) == 1 for a in jax.tree.leaves([*trees, explanation.loss.y])
    )


def _is_float(a: Any) -> bool:
    return np.issubdtype(np.asarray(a).dtype, np.floating) or str(a.dtype) == "bfloat16"
