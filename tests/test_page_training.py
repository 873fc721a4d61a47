"""A run over its checkpoints, on the page of a step of it: the numbers are those of the run."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _chromium import Browser
from test_page import HOSTILE, data_of, in_browser

import fbp
from fbp._tree import named_leaves
from fbp.cli import main
from fbp.models import NextToken
from fbp.step import state_of, step_of
from fbp.text import CharTokenizer
from fbp.train import TASKS, Run
from fbp.train._checkpoint_answers import evenly
from fbp.train._learnable import learnable
from fbp.train._over_training import grouped, over_training
from fbp.train._recipe import Recipe
from fbp.train._step_of_run import StepOfRun, state_in
from fbp.train._tasks import Task, build_model
from fbp.train.checkpoints import Saver, checkpoints_in
from fbp.train.tables._encoding import Column
from fbp.train.text._model import TextModel

STEPS = 0, 3, 7, 20
LR = 1e-2


def run_of(folder: Path, objective: Any, params: Any, batches: Any, log: bool = True) -> Run:
    """A run's folder with checkpoints of these steps."""
    folder.mkdir(parents=True)
    run, recipe = Run(folder), Recipe()
    optimizer = recipe.made(LR, STEPS[-1])
    recipe_said = dataclasses.asdict(recipe)
    run.save_config({"recipe": recipe_said, "lr": LR, "steps": STEPS[-1], "task": "spiral"})
    saver = Saver(run.steps, every=1, keep=99)
    state, step = state_of(params, optimizer), step_of(objective, optimizer)
    value = objective.value(params, batches(0))
    for n in range(STEPS[-1] + 1):
        if n in STEPS:
            saver.save(n, {"state": state}, {"watch": {"best_step": 20}}, 20)
            saver.finish()
            if log:
                run.log(n, {"loss": float(value), "val_loss": 2.0 + n})
        state, value = step(state, batches(n))
    return run


def of_task(task: Task, folder: Path) -> tuple[Run, StepOfRun]:
    task = dataclasses.replace(task, hidden=(8,))
    objective, first, draw, _ = learnable(task, 16, 0)

    def batches(n: int) -> Any:
        return jax.tree.map(lambda a: a[0], draw(n, n + 1))

    run = run_of(folder, objective, first, batches)
    state = state_in(run.steps / "00000020", first, Recipe().made(LR, STEPS[-1]))
    optimizer = Recipe().made(LR, STEPS[-1])
    batch = batches(0)
    return run, StepOfRun(objective, state.params, batch, None, "", optimizer, state, task)


def spiral() -> Task:
    return dataclasses.replace(
        TASKS["spiral"](), train=tuple(a[::4] for a in TASKS["spiral"]().train)
    )


@functools.cache
def text_step() -> Any:
    tokenizer = CharTokenizer.of("hello wrd<>/script")
    spec = {"kind": "gpt", "vocab": tokenizer.vocab, "context": 24}
    model = TextModel.from_spec({**spec, "layers": 1, "heads": 2, "width": 8, "hidden": 16})
    objective = NextToken(model.model)
    ids = tokenizer.encode("hello world hello")
    return model, tokenizer, objective, (ids[None, :-1], ids[None, 1:])


def of_text(folder: Path) -> tuple[Run, StepOfRun]:
    model, tokenizer, objective, batch = text_step()
    params = objective.init(jax.random.key(0))
    run = run_of(folder, objective, params, lambda n: batch)
    return run, StepOfRun(objective, params, batch, None, "", language=(model, tokenizer))


def test_sizes_are_those_of_the_gradient_and_of_the_step(tmp_path: Path) -> None:
    run, step = of_task(spiral(), tmp_path / "run")
    over, said = over_training(run, step)
    assert over is not None
    assert said == []
    assert over.steps == STEPS
    assert over.there == 4
    assert over.explained == 3
    assert list(over.names) == list(named_leaves(step.params))
    optimizer = step.optimizer
    for i, n in enumerate(STEPS):
        state = state_in(run.steps / f"{n:08d}", step.params, optimizer)
        before = jax.tree.map(np.asarray, state.params)
        value, grads = jax.jit(step.objective.value_and_grad)(state.params, step.batch)
        after, _ = step_of(step.objective, optimizer)(state, step.batch)
        assert over.values[i] == pytest.approx(float(value), rel=1e-5)
        change = jax.tree.map(lambda a, b: np.asarray(a) - b, after.params, before)
        for found, tree in ((over.gradients, grads), (over.changes, change)):
            sizes = [np.sqrt(np.mean(np.square(a))) for a in jax.tree.leaves(tree)]
            np.testing.assert_allclose(found[i], sizes, rtol=1e-4, atol=1e-9)
    assert [line[0] for line in over.logged] == list(STEPS)
    assert over.logged[1][2] == 5.0


def test_regions_are_what_the_network_answers(tmp_path: Path) -> None:
    task = spiral()
    columns = Column("x1", 5.0, 2.0), Column("x2", -1.0, 0.5)
    task = dataclasses.replace(task, encoding=dataclasses.replace(task.encoding, columns=columns))
    run, step = of_task(task, tmp_path / "run")
    over, _ = over_training(run, step)
    assert over is not None
    regions = over.answers
    model = build_model(step.task.model_spec())
    (low, bottom), (high, top) = regions.low, regions.high
    for i, row, column in ((0, 0, 0), (3, 7, 30), (2, 39, 39)):
        side = regions.grids.shape[1] - 1
        place = low + (high - low) * column / side, bottom + (top - bottom) * row / side
        x = jnp.array([[(place[0] - 5) / 2, (place[1] + 1) / 0.5]], jnp.float32)
        state = state_in(run.steps / f"{STEPS[i]:08d}", step.params, step.optimizer)
        assert regions.grids[i, row, column] == int(
            model.forward(state.params.model, x)[0].argmax()
        )
    np.testing.assert_allclose(regions.points[0], task.train[0][0] * [2, 0.5] + [5, -1])
    data = data_of(page_of(step, over))["training"]["answers"]
    assert "".join(data["grids"][3]) == "".join(str(k) for k in regions.grids[3].ravel())


def test_a_curve_is_what_the_network_answers(tmp_path: Path) -> None:
    run, step = of_task(TASKS["curve"](), tmp_path / "run")
    over, _ = over_training(run, step)
    assert over is not None
    state = state_in(run.steps / "00000007", step.params, step.optimizer)
    encoding, column = step.task.encoding, step.task.encoding.columns[0]
    x = ((over.answers.x - column.offset) / column.scale).astype(np.float32)[:, None]
    y = np.asarray(build_model(step.task.model_spec()).forward(state.params.model, x)[0])
    np.testing.assert_allclose(
        over.answers.y[2], encoding.decode(y)["prediction"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_a_text_is_what_the_model_writes(tmp_path: Path) -> None:
    run, step = of_text(tmp_path / "run")
    over, _ = over_training(run, step)
    assert over is not None
    model, tokenizer = step.language
    assert over.answers.prompt == "hello"
    assert over.answers.at == (0, 1, 2, 3)
    state = state_in(run.steps / "00000020", step.params, Recipe().made(LR, STEPS[-1]))
    ids = np.asarray(tokenizer.encode("hello"))
    for _ in range(4):  # token by token, without a state between
        logits, _ = model.model.forward(state.params, ids[None])
        ids = np.append(ids, int(logits[0, -1].argmax()))
    assert over.answers.texts[3].startswith(tokenizer.decode(ids[5:]))
    assert len(over.answers.texts[3]) == 60


def test_a_damaged_checkpoint_is_said_and_left_out(tmp_path: Path) -> None:
    run, step = of_task(spiral(), tmp_path / "run")
    (file,) = (run.steps / "00000003").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    over, said = over_training(run, step)
    assert over is not None
    assert over.steps == (0, 7, 20)
    assert len(said) == 1
    assert "00000003" in said[0]
    assert "\n" not in said[0]
    for n in (0, 7):
        for path in (run.steps / f"{n:08d}").iterdir():
            path.unlink()
    over, said = over_training(run, step)
    assert over is None
    assert "00000000" in said[0]
    assert said[1:] == ["nor 2 other checkpoints"]


def test_many_are_chosen_evenly_and_taken_together() -> None:
    assert evenly(5, 12) == [0, 1, 2, 3, 4]
    assert evenly(1000, 3) == [0, 500, 999]
    names = [f"net.layer_{i}.{last}" for i in range(30) for last in "bw"]
    squares = np.arange(120.0).reshape(2, 60)
    groups, (sizes,) = grouped(names, [1, 3] * 30, [squares])
    assert groups == [f"net.layer_{i}" for i in range(30)]
    np.testing.assert_allclose(sizes, np.sqrt((squares[:, ::2] + squares[:, 1::2]) / 4))


@pytest.mark.slow
def test_the_command_shows_the_run(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(Saver, "is_due", lambda self: (self.finish(), True)[1])
    monkeypatch.chdir(tmp_path)
    more = ["--steps", "40", "--eval-every", "10", "--keep", "50", "--runs", "r"]
    assert main(["train", "spiral", *more]) == 0
    steps = [int(path.name) for path in checkpoints_in(Path("r/spiral/steps"))][::-1]
    capsys.readouterr()
    assert main(["explain", "r/spiral", "--html", "s.html"]) == 0
    assert f"over training: {len(steps)} of {len(steps)} checkpoints" in capsys.readouterr().out
    data = data_of(Path("s.html").read_text())["training"]
    assert data["steps"] == steps
    assert steps[data["explained"]] == 40
    assert data["answers"]["kind"] == "regions"
    # The step that is explained is one of them.
    explained = data_of(Path("s.html").read_text())
    at = steps.index(int(explained["title"].rpartition(" ")[2].replace(",", "")))
    assert data["values"][at] == pytest.approx(float(explained["value"]), rel=1e-3)
    for line in explained["update"]["table"][1:]:
        p = data["names"].index(line[0])
        assert data["gradients"][p][at] == pytest.approx(float(line[2]), rel=1e-2)
        assert data["changes"][p][at] == pytest.approx(float(line[3]), rel=1e-2)


def page_of(step: StepOfRun, over: Any, title: str = "") -> str:
    explained = fbp.explain(step.objective, step.params, step.batch, prove=False)
    return explained.page(title, over_training=over)


# In a browser.


@pytest.fixture(scope="module")
def window(tmp_path_factory: Any) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def opened(window: Browser, page: str, folder: Path, width: int = 1280) -> None:
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    window.window(width, 900)
    window.console.clear()
    window.requests.clear()
    window.open(file.as_uri())


def silent(window: Browser, folder: Path) -> None:
    window.run("1")
    assert window.console == []
    assert {url.split("#")[0] for url in window.requests} == {(folder / "page.html").as_uri()}


@in_browser
def test_the_slider_by_mouse_and_keys(window: Browser, tmp_path: Path) -> None:
    run, step = of_task(spiral(), tmp_path / "run")
    over, _ = over_training(run, step)
    assert over is not None
    opened(window, page_of(step, over), tmp_path)
    text = "find('checkpoint').getAttribute('aria-valuetext')"
    assert window.run(text).startswith("step 20 of 20; loss of the examples above")
    assert window.run(text).endswith(", the step above")
    before = window.run("step")
    window.click("find('below')")
    assert window.run("document.activeElement.id") == "checkpoint"
    said = []
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowLeft", "End"):
        window.press(key)
        said.append(window.run(f"[OVER.steps[chosen], {text}, find('when').textContent]"))
    assert [step for step, _, _ in said] == [0, 3, 7, 3, 20]
    assert all(a == b for _, a, b in said)
    assert window.run("step") == before  # of the events above
    window.press("Home")
    shown = window.run(
        "[...find('sizes').tBodies[0].rows]"
        ".map((row) => [row.cells[1].textContent, row.cells[3].textContent])"
    )
    numbers = [[float(cell.replace("\u2212", "-")) for cell in row] for row in shown]
    np.testing.assert_allclose(
        numbers, np.stack([over.gradients[0], over.changes[0]], -1), rtol=1e-3
    )
    share = round(100 * np.mean(over.answers.grids[0] == 1))
    assert f"1 has {share} %" in window.run("find('by').textContent")
    left, wide = window.run(
        "(({ x, width }) => [x, width])(find('losses').getBoundingClientRect())"
    )
    _, y = window.middle("find('losses')")
    window.drag(left + 70, y, wide - 90, 0)
    assert window.run("[OVER.steps[chosen], find('checkpoint').value]") == [20, "3"]
    # What is painted is the class of each place, the lowest row below.
    dots = window.run(
        "[...plane(OVER.answers).getContext('2d')"
        ".getImageData(0, OVER.answers.side - 1, OVER.answers.side, 1).data]"
    )
    rgb = np.array(dots).reshape(-1, 4)[:, :3].tolist()
    assert rgb == [[[0, 114, 178], [230, 159, 0]][k] for k in over.answers.grids[-1][0]]
    silent(window, tmp_path)


@in_browser
def test_a_text_at_each_checkpoint_stays_text(window: Browser, tmp_path: Path) -> None:
    run, step = of_text(tmp_path / "run")
    over, _ = over_training(run, step)
    assert over is not None
    answers = dataclasses.replace(over.answers, prompt=HOSTILE[0], texts=HOSTILE[:4])
    names = (HOSTILE[1], *over.names[1:])
    opened(window, page_of(step, dataclasses.replace(over, answers=answers, names=names)), tmp_path)
    for i in range(4):
        window.run(f"find('checkpoint').value = {i}; find('checkpoint').oninput()")
        assert window.run("find('written').textContent") == HOSTILE[0] + HOSTILE[i]
    assert window.run("find('sizes').tBodies[0].rows[0].cells[0].textContent") == HOSTILE[1]
    assert window.run("document.scripts.length") == 2
    silent(window, tmp_path)


@in_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_the_run_is_not_wider_than_the_window(width: int, window: Browser, tmp_path: Path) -> None:
    run, step = of_task(TASKS["curve"](), tmp_path / "run")
    over, _ = over_training(run, step)
    opened(window, page_of(step, over), tmp_path, width)
    boxes = "header *, #training > *, .panel, .panel > *"
    right = (
        f"Math.max(...[...document.querySelectorAll('{boxes}')]"
        ".map((each) => each.getBoundingClientRect().right))"
    )
    assert window.run(right) <= width
    assert window.run("document.documentElement.scrollWidth") <= width
    silent(window, tmp_path)
