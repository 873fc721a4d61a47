"""What a page says of each layer: its arrays by name, and how its numbers came about."""

from math import isnan
from typing import Any

import numpy as np

from fbp._layer import Layer, name_of
from fbp.explainer._page_arrays import Pool
from fbp.explainer._page_kinds import kind_of
from fbp.explainer._page_loss import more_of_loss
from fbp.explainer._page_named import arrays_of, local_of, named, with_made
from fbp.explainer._rule import rule_of
from fbp.explainer._traced import Pass, TracedStep

FORWARD, BACKWARD = "forward", "backward"


def rows_of(explanation: TracedStep, pool: Pool) -> list[dict[str, Any]]:
    """A row for each pass of each layer in the order of the forward, below those it is inside."""
    rows: list[dict[str, Any]] = []
    seen: set[tuple[int, int]] = set()
    for event in explanation.events:
        if event.kind != FORWARD:
            continue
        leaf = explanation.layers[event.layer]
        for number in [*_around(explanation, event.layer), event.layer]:
            layer = explanation.layers[number]
            run = event.run * len(layer.passes) // len(leaf.passes)
            if (number, run) not in seen:
                seen.add((number, run))
                rows.append(_row(explanation, number, run, pool))
    first = min((row["depth"] for row in rows), default=0)
    for row in rows:
        row["depth"] -= first
    return rows


def _around(explanation: TracedStep, leaf: int) -> list[int]:
    """The layers that a layer is inside, but for the model and wrappers that add nothing."""
    found: list[int] = []
    depth = explanation.layers[leaf].depth
    for number in range(leaf - 1, -1, -1):
        layer = explanation.layers[number]
        if layer.depth < depth:
            depth = layer.depth
            found.append(number)
    kept: list[int] = []
    for number in reversed(found):
        layer = explanation.layers[number]
        if not layer.path or not layer.passes:
            continue
        above = explanation.layers[kept[-1]] if kept else None
        if above and (above.path, len(above.passes)) == (layer.path, len(layer.passes)):
            continue
        kept.append(number)
    return kept


def _row(explanation: TracedStep, number: int, run: int, pool: Pool) -> dict[str, Any]:
    layer, one = explanation.layers[number], explanation.layers[number].passes[run]
    if not layer.is_leaf:  # what is of the layers inside is shown there
        one = Pass(x=one.x, y=one.y, dy=one.dy, dx=one.dx, proof=one.proof)
    arrays = arrays_of(layer.layer, one, pool)
    each = len(layer.steps) // len(layer.passes)
    kind, more = kind_of(layer.layer, one, layer.steps[run * each : (run + 1) * each])
    arrays = with_made(layer.layer, arrays, more, pool)
    if kind == "local":
        arrays += local_of(layer.layer, one, pool)
    if kind == "residual":
        inner = explanation.layers[number + 1].passes[run]
        arrays += named("f(x)", "inner y", inner.y, pool, layer.layer)
        arrays += named("df", "inner dx", inner.dx, pool, layer.layer)
    # The gates are in the rule of the cell.
    cell = getattr(layer.layer, "cell", None)
    of_cell = ["", *rule_of(cell)[1:]] if isinstance(cell, Layer) else []
    inside = _inside(explanation, number)
    when: dict[str, list[int]] = {FORWARD: [], BACKWARD: [], "recompute": []}
    for at, event in enumerate(explanation.events):
        if event.layer not in inside or event.kind not in when:
            continue
        copies = len(explanation.layers[event.layer].passes)
        if event.run * len(layer.passes) // copies == run:
            when[event.kind].append(at)
    return {
        "number": number,
        "path": layer.path,
        "copy": run,
        "copies": len(layer.passes),
        "cls": name_of(layer.layer),
        "depth": layer.depth,
        "leaf": layer.is_leaf,
        "rule": [*layer.rule, *of_cell],
        "kind": kind,
        "given": more.given,
        "note": more.note,
        "arrays": arrays,
        "proof": proof_of(one.proof),
        # Of a layer with layers inside, when the last of them is done.
        "forward": max(when[FORWARD], default=-1),
        "backward": max(when[BACKWARD], default=-1),
        "again": min(when["recompute"], default=-1) if layer.is_leaf else -1,
    }


def _inside(explanation: TracedStep, number: int) -> set[int]:
    """A layer and all layers inside it."""
    found = {number}
    for other in range(number + 1, len(explanation.layers)):
        if explanation.layers[other].depth <= explanation.layers[number].depth:
            break
        found.add(other)
    return found


def proof_of(proof: Any) -> list[Any] | None:
    """Whether a rule is right, and that in words."""
    if proof is None:
        return None
    if not proof.ok:
        return [False, "WRONG: not what autodiff of the forward says at these numbers"]
    if isnan(proof.units):
        return [True, "this rule is finite where autodiff is, and only there"]
    if proof.units == 0:
        return [True, "this rule, at these numbers: exactly what autodiff says"]
    return [
        True,
        f"this rule, at these numbers: what autodiff says, to {proof.units:.2g} units of rounding",
    ]


def loss_of(explanation: TracedStep, pool: Pool) -> dict[str, Any]:
    """What the page says of the loss."""
    loss = explanation.loss
    arrays = []
    for name, side, tree in (
        ("y", "y", loss.y),
        ("target", "target", loss.target),
        ("w", "params", loss.params),
        ("dy", "dy", loss.dy),
        ("dw", "dparams", loss.dparams),
    ):
        arrays += named(name, side, tree, pool)
    kind, more, by_row = more_of_loss(loss)
    for name, side, a in more:
        arrays += named(name, side, a.astype(np.float32), pool)
    at = next((i for i, e in enumerate(explanation.events) if e.kind == "loss"), -1)
    return {
        "path": "loss",
        "copy": 0,
        "copies": 1,
        "cls": name_of(loss.loss),
        "depth": 0,
        "leaf": True,
        "rule": list(loss.rule),
        "kind": kind,
        "arrays": arrays,
        "proof": proof_of(loss.proof),
        "forward": at,
        "backward": at,
        "again": -1,
        "value": f"{explanation.value:.6g}",
        "rows": by_row,
    }
