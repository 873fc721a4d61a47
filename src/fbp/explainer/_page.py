"""An explanation as a page: one file with its script, its style and its numbers."""

from collections.abc import Sequence
from typing import Any

from fbp._html import lines, shown
from fbp._html import table as html_table
from fbp.explainer._page_arrays import Pool, parts, stored
from fbp.explainer._page_file import filled, json_text
from fbp.explainer._page_named import IMAGES
from fbp.explainer._page_rows import loss_of, rows_of
from fbp.explainer._page_training import training_of
from fbp.explainer._page_update import UPDATE, update_of, update_row, with_update
from fbp.explainer._text import head_of, proof_lines, table, troubles
from fbp.explainer._traced import TracedStep
from fbp.explainer._training import OverTraining

# The most letters of a page.
MOST = 2_000_000
STYLES = "page/colours.css", "page/page.css"
SCRIPTS = tuple(
    f"page/{name}.js"
    for name in (
        *("basics", "numbers", "heat", "frames", "sums", "attention", "norms", "windows", "gates"),
        *("pairs", "softmax", "layer", "update", "training", "steps", "selftest"),
    )
)


def page_of(
    explanation: TracedStep,
    title: str = "",
    tokens: Sequence[str] = (),
    over_training: OverTraining | None = None,
    optimizer: Sequence[str] = (),
) -> str:
    """The page, which asks for nothing outside itself.

    Args:
      explanation: the step.
      title: what it is a step of.
      tokens: of a text, each token as text, and the one after the last.
      over_training: what became of the run that it is a step of.
      optimizer: what it is, and its rule, a line each.
    """
    pool = Pool()
    rows, loss = rows_of(explanation, pool), loss_of(explanation, pool)
    places = {(row["number"], row["copy"]): i for i, row in enumerate(rows)}
    events = [
        [event.kind, places.get((event.layer, event.run), len(rows))]
        for event in explanation.events
    ]
    update, ends = None, []
    if explanation.update is not None:
        first = with_update(explanation, explanation.update, [*rows, loss], pool)
        update = {**update_of(explanation, explanation.update, first), "by": list(optimizer)}
        ends = [update_row(len(events))]
        events.append([UPDATE, len(rows) + 1])
    rules: list[list[str]] = []
    for row in (*rows, loss, *ends):
        if row["rule"] not in rules:
            rules.append(row["rule"])
        row["rule"] = rules.index(row["rule"])
    data: dict[str, Any] = {
        "title": title,
        "value": loss["value"],
        "wrong": list(explanation.wrong),
        "proof": proof_lines(explanation),
        "troubles": troubles(explanation),
        "tokens": list(tokens),
        "rules": rules,
        # Then arrays of four axes are images.
        "images": any(isinstance(layer.layer, IMAGES) for layer in explanation.layers),
        "rows": [*rows, loss, *ends],
        "events": events,
        "update": update,
        "training": None if over_training is None else training_of(over_training),
    }
    bare = _filled(data)
    # A corner of what is known of each array is not letters of its numbers.
    known = sum(len(json_text(stored(a, (0, 0)))) + 1 for a in pool.arrays)
    layers = (loss, *reversed(rows))
    wanted = [_numbers(row, update) for update in (False, True) for row in layers]
    held = parts(pool.arrays, wanted, MOST - len(bare.encode()) - known - 2000)
    data["left"] = _left_out(pool, held, rows)
    data["arrays"] = [stored(a, part) for a, part in zip(pool.arrays, held, strict=True)]
    return _filled(data)


def _filled(data: dict[str, Any]) -> str:
    return filled("page/page.html", STYLES, SCRIPTS, data)


def _numbers(row: dict[str, Any], update: bool) -> list[int]:
    """The arrays of a row, those of its update or all others."""
    return [ref[2] for ref in row["arrays"] if (ref[1] == UPDATE) == update]


def _left_out(pool: Pool, held: list[tuple[int, int]], rows: list[dict[str, Any]]) -> str:
    """What the page does not hold, in words."""
    cut = [i for i, a in enumerate(pool.arrays) if held[i] != a.shape]
    if not cut:
        return ""
    there = sum(r * c for r, c in held)
    missing = set(cut)
    leaves = [row for row in rows if row["leaf"]]
    whole = [row for row in leaves if not missing & set(_numbers(row, False))]
    updates = any(_numbers(row, True) for row in leaves)
    return (
        f"This page holds {there:,} of {pool.size():,} numbers, to stay below "
        f"{MOST // 1_000_000} MB: of {len(cut):,} of {len(held):,} arrays only the first rows and "
        "columns. Sizes, scales and counts are those of whole arrays, and a sum whose factors are "
        "not all here has the rest of it as one term. "
        + f"Whole{', but for the update,' if updates else ''} are {len(whole):,} of "
        + f"{len(leaves):,} layers, those nearest to the loss first. "
        + "fbp.explain has every number."
    )


def small_page_of(explanation: TracedStep) -> str:
    """A table for a notebook, without scripts."""
    return shown(
        lines(head_of(explanation)),
        html_table(table(explanation), ("WRONG",)),
        lines(*troubles(explanation), *proof_lines(explanation)),
    )
