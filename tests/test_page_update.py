"""The update on the page of a step: what it holds is what the optimizer did."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from _chromium import Browser
from test_page import HOSTILE, data_of, in_browser, said_by, whole

import fbp
from fbp._tree import named_leaves
from fbp.explainer import _page

NUMBERS = np.random.default_rng(0)


def neuron(optimizer: Any = optax.sgd(0.01)) -> fbp.Explanation:  # noqa: B008
    objective = fbp.Objective(fbp.models.neuron(), fbp.MeanSquaredError())
    params = objective.init(jax.random.key(0))
    batch = np.float32(2.1), np.float32(4.0)
    return fbp.explain(objective, params, batch, optimizer=optimizer, prove=False)


def mlp() -> fbp.Explanation:
    objective = fbp.Objective(fbp.models.mlp((4, 8, 3)), fbp.SoftmaxCrossEntropy())
    batch = NUMBERS.normal(size=(8, 4)).astype(np.float32), NUMBERS.integers(0, 3, 8)
    params = objective.init(jax.random.key(1))
    return fbp.explain(objective, params, batch, optimizer=optax.adamw(1e-2), prove=False)


@functools.cache
def gpt(width: int = 8) -> fbp.Explanation:
    model = fbp.models.gpt2(vocab=19, context=16, layers=2, heads=2, width=width)
    objective = fbp.models.NextToken(model)
    ids = NUMBERS.integers(0, 19, (1, len(HOSTILE)))
    params, batch = objective.init(jax.random.key(2)), (ids[:, :-1], ids[:, 1:])
    return fbp.explain(objective, params, batch, optimizer=optax.adam(1e-3), prove=False)


@functools.cache
def llama() -> fbp.Explanation:
    model = fbp.models.llama(vocab=19, layers=2, heads=2, kv_heads=1, width=8, hidden=12)
    objective = fbp.models.NextToken(model)
    ids = NUMBERS.integers(0, 19, (1, 7))
    params, batch = objective.init(jax.random.key(2)), (ids[:, :-1], ids[:, 1:])
    return fbp.explain(objective, params, batch, optimizer=optax.adam(1e-3), prove=False)


def arrays(data: dict[str, Any], path: str, copy: int = 0) -> dict[str, np.ndarray]:
    (row,) = (r for r in data["rows"] if (r["path"], r["copy"], r["leaf"]) == (path, copy, True))
    return {ref[0]: whole(data, ref) for ref in row["arrays"]}


@pytest.mark.parametrize(
    "made",
    [
        neuron,
        mlp,
        pytest.param(gpt, marks=pytest.mark.slow),
        pytest.param(llama, marks=pytest.mark.slow),
    ],
)
def test_each_parameter_has_its_step_in_the_layers(made: Callable[[], Any]) -> None:
    found = made()
    update = found.update
    data = data_of(found.page())
    assert data["events"][-1] == ["update", len(data["rows"]) - 1]
    assert [float(data["update"][name]) for name in ("before", "after", "foretold")] == [
        pytest.approx(v, rel=1e-5) for v in (found.value, update.value, update.foretold)
    ]
    changes, after = named_leaves(update.change), named_leaves(update.params)
    seen = 0
    for place, line in zip(data["update"]["rows"], data["update"]["table"][1:], strict=True):
        row = data["rows"][place]
        name, last = line[0], line[0].rpartition(".")[2]
        for copy in range(row["copies"]):
            of = arrays(data, row["path"], copy)
            change, new = changes[name], after[name]
            if row["copies"] > 1:
                change, new = change[copy], new[copy]
            np.testing.assert_array_equal(of[f"step {last}"], np.float32(change))
            np.testing.assert_array_equal(of[f"{last} after"], new)
            seen += change.size
    assert seen == sum(np.size(a) for a in jax.tree.leaves(update.change))


@pytest.mark.slow
def test_the_gradients_of_a_shared_parameter_are_added_up() -> None:
    found = gpt()
    data = data_of(found.page())
    np.testing.assert_array_equal(arrays(data, "embed")["dw in all"], found.grads["embed"]["w"])
    np.testing.assert_array_equal(arrays(data, "loss")["dw in all"], found.grads["embed"]["w"])
    assert "dw in all" not in arrays(data, "positions")
    assert "dw in all" not in arrays(data, "blocks.attention.qkv")


def test_a_rate_is_named_where_there_is_one() -> None:
    def rate(optimizer: Any) -> Any:
        return data_of(neuron(optimizer).page())["update"]["rate"]

    assert rate(optax.sgd(0.01)) == pytest.approx(0.01, rel=1e-5)
    assert rate(optax.adam(0.01)) is None
    assert rate(optax.sgd(0.0)) is None


def test_a_layer_that_was_given_other_numbers_has_no_step() -> None:
    model = fbp.mixed_precision(fbp.models.mlp((4, 8, 3)))
    objective = fbp.Objective(model, fbp.SoftmaxCrossEntropy())
    batch = NUMBERS.normal(size=(8, 4)).astype(np.float32), NUMBERS.integers(0, 3, 8)
    params = objective.init(jax.random.key(1))
    found = fbp.explain(objective, params, batch, optimizer=optax.sgd(0.1), prove=False)
    data = data_of(found.page())
    rows = {row["path"]: row for row in data["rows"]}
    assert rows["dense_1"]["arrays"]
    assert not [ref for row in data["rows"] for ref in row["arrays"] if ref[1] == "update"]
    assert set(data["update"]["rows"]) == {-1}
    assert data["events"][-1][0] == "update"


def test_every_script_of_the_room_is_in_the_page() -> None:
    folder = Path(_page.__file__).parent / "page"
    assert {f"page/{path.name}" for path in folder.glob("*.js")} == set(_page.SCRIPTS)


def test_without_an_optimizer_nothing_is_there() -> None:
    found = neuron(None)
    data = data_of(found.page())
    assert data["update"] is None
    assert "update" not in [kind for kind, _ in data["events"]]
    assert data["rows"][-1]["path"] == "loss"


@pytest.mark.slow
def test_steps_are_the_last_to_be_held_whole(monkeypatch: Any) -> None:
    found = gpt(32)
    full = data_of(found.page())
    refs = [ref for row in full["rows"] for ref in row["arrays"]]
    numbers = {ref[2] for ref in refs if ref[1] == "update"}
    letters = sum(len(full["arrays"][i]["d"]) for i in numbers)
    monkeypatch.setattr(_page, "MOST", len(found.page()) - letters // 2)
    cut = data_of(found.page())
    left = {i for i, a in enumerate(cut["arrays"]) if (a["r"], a["c"]) != (a["R"], a["C"])}
    assert left
    assert left <= numbers
    assert "but for the update" in cut["left"]


@in_browser
@pytest.mark.parametrize("made", [neuron, mlp, gpt])
def test_every_step_is_written_out(made: Callable[[], Any], tmp_path: Path) -> None:
    found = made()
    script = """
      goTo(EVENTS.length - 1);
      const [bad, seen] = [[], []];
      ROWS.forEach((row, i) => {
        pinned = i;
        draw();
        for (const ref of row.arrays.filter((ref) => ref[1] === "update")) {
          const a = ARRAYS[ref[2]];
          for (let k = 0; k < a.R * a.C; k++) {
            point(row, ref[0], k);
            const text = find("cell").textContent;
            const p = parameterOf(ref[0]);
            const after = `${number(nth(arrayOf(row, `${p} after`), k))}${p} after`;
            if (!text.includes("✓") || !text.includes(after) || !text.includes("The gradient here: d")) bad.push(text);
            if (document.querySelectorAll(".wrap u").length !== 4) bad.push("frames");
            seen.push(number(nth(a, k)));
          }
        }
      });
      selftest();
      return [bad, seen.length, JSON.parse(find("selftest").dataset.kinds).update, find("strip").children[EVENTS.length - 1].textContent];
    """  # noqa: E501
    bad, seen, again, letter = said_by(
        found.page("", HOSTILE if made is gpt else ()), tmp_path, script
    )
    assert bad == []
    assert letter == "U"
    count = sum(np.size(a) for a in jax.tree.leaves(found.update.change))
    shared = np.size(found.grads["embed"]["w"]) if made is gpt else 0  # shown with the loss too
    assert again["cells"] == count + shared
    assert again["worst"] < 1e-6
    assert seen == 2 * (count + shared) + 2 * shared


@in_browser
def test_the_update_by_mouse_and_keys(tmp_path: Path) -> None:
    script = """
      const press = (key) =>
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      const text = () => find("layer").textContent;
      const seen = [];
      find("net").lastChild.click();
      seen.push(text());
      press("End");
      seen.push(text(), find("said").textContent, location.hash);
      [...find("layer").querySelectorAll("button")].at(-1).click();
      seen.push(find("layer").querySelector("h2").textContent, find("cell").textContent);
      press("ArrowLeft");
      seen.push(text());
      const box = find("strip").getBoundingClientRect();
      find("strip").setPointerCapture = () => {};  // of no real pointer
      const there = { clientX: box.right - 2, pointerId: 1 };
      find("strip").dispatchEvent(new PointerEvent("pointerdown", there));
      return [...seen, EVENTS[step].kind];
    """
    seen = said_by(neuron().page(), tmp_path, script)
    seen = [text.replace("\u2212", "-").replace("\u2192", "->") for text in seen]
    assert "update is the last event" in seen[0]
    assert "loss 3.61 -> 2.87106" in seen[1]
    assert "2.8288" in seen[1]
    assert "Loss 3.61 -> 2.87106" in seen[2]
    assert seen[3] == "#event=7"
    assert seen[4].startswith("w ")
    assert "step w = 0.0798" in seen[5]
    assert "dw = -7.98" in seen[5]
    assert "step = -0.01" in seen[5]
    assert "Update:" not in seen[6]
    assert seen[7] == "update"


@in_browser
def test_a_weight_that_was_chosen_stays_chosen(tmp_path: Path) -> None:
    script = """
      const place = ROWS.findIndex((row) => row.path === "dense_2");
      goTo(EVENTS.findIndex((each) => each.kind === "backward" && each.row === place));
      choose(ROWS[place], "dw", 7);
      const value = () => find("cell").querySelector(".value").textContent.split(" =")[0];
      const seen = [value()];
      goTo(EVENTS.length - 1);
      find("net").children[place].click();
      seen.push(value());
      goTo(EVENTS.findIndex((each) => each.row === place));
      return [...seen, value()];
    """
    seen = said_by(mlp().page(), tmp_path, script)
    assert seen == ["dw[2, 1]", "step w[2, 1]", "w[2, 1]"]


@in_browser
def test_the_optimizer_is_said_with_its_rule(tmp_path: Path) -> None:
    script = 'goTo(EVENTS.length - 1); return find("update").textContent;'
    said = said_by(mlp().page(optimizer=["adamw; fast", "step = -rate d"]), tmp_path, script)
    assert "The optimizer: adamw; fast." in said
    assert "step = \u2212rate d" in said


@in_browser
def test_a_step_that_moves_nothing_is_said(tmp_path: Path) -> None:
    script = """
      goTo(EVENTS.length - 1);
      const whole = find("layer").textContent;
      find("net").children[0].click();
      return [find("said").textContent, whole, find("cell").textContent];
    """
    said, whole_, cell = said_by(neuron(optax.sgd(0.0)).page(), tmp_path, script)
    assert "moves no parameter" in said
    assert "moves none of them" in whole_
    assert "leaves this one where it is" in cell


@in_browser
@pytest.mark.parametrize("made", [neuron, gpt])
def test_the_update_is_not_wider_than_the_window(made: Callable[[], Any], tmp_path: Path) -> None:
    page = made().page("", HOSTILE if made is gpt else ())
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    boxes = "header *, .row, #layer > *, figure, #update *"
    script = f"""(() => {{
      const wide = [];
      goTo(EVENTS.length - 1);
      for (pinned = 0; pinned < ROWS.length; pinned++) {{
        draw();
        const all = [...document.querySelectorAll("{boxes}")];
        const right = Math.max(...all.map((each) => each.getBoundingClientRect().right));
        if (right > 400 || document.documentElement.scrollWidth > 400) wide.push([pinned, right]);
      }}
      return wide;
    }})()"""
    with Browser(tmp_path) as browser:
        browser.window(400, 900)
        browser.open((tmp_path / "page.html").as_uri())
        assert browser.run(script) == []
        assert browser.console == []


@in_browser
def test_a_wrong_step_fails_the_selftest(tmp_path: Path) -> None:
    script = """
      arrayOf(ROWS[0], "w after").v[0] += 0.1;
      selftest();
      goTo(EVENTS.length - 1);
      find("net").children[0].click();
      return [Number(find("selftest").dataset.worst), find("cell").textContent];
    """
    worst, text = said_by(neuron().page(), tmp_path, script)
    assert worst > 1e-3
    assert "✗" in text
