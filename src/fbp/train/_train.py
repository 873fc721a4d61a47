"""One training run on a table, from its data to its folder."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

import fbp
from fbp._errors import LOUD
from fbp._objective import Objective, ObjectiveParams
from fbp._signals import Signals
from fbp.explainer import summary
from fbp.train._arrays import batches, evaluator
from fbp.train._loop import Fit, fit
from fbp.train._opened import (
    draw_picture,
    fingerprint,
    go_on_with,
    in_folder,
    noted,
    of_every_run,
    resolved,
    save_weights,
    say_which,
    seal,
    unless_told,
)
from fbp.train._picture import draw_run
from fbp.train._predict import answering
from fbp.train._prepared import layout_of, prepared, recipe_of, require_in_backward, say_clamped
from fbp.train._run import Run
from fbp.train._settings import Reporter, Settings
from fbp.train._tasks import Task, build_model
from fbp.train._trackers import Tracked
from fbp.train.checkpoints import Checkpoint
from fbp.train.tables._folds import Arrays, folds
from fbp.train.tables._scores import scores
from fbp.train.tables._start import linear_start
from fbp.verify import cross_check


def train(
    task: Task, settings: Settings, report: Reporter, signals: Signals | None = None
) -> tuple[Run, Fit]:
    """Checks the gradients, trains, and fills the run's folder.

    Raises:
      InputError: the run's folder cannot be made, or cannot be gone on with.
      WrongGradientError: a hand-written gradient disagrees with jax.grad; nothing is trained.
      FloatingPointError: the loss is not finite before the first update.
    """
    return in_folder(_train_in, task, settings, report, signals)


def _train_in(
    run: Run,
    task: Task,
    settings: Settings,
    report: Reporter,
    signals: Signals,
    resume: Checkpoint | None,
) -> Fit:
    chosen = resolved(settings, task, resume)
    steps, lr, seed = chosen["steps"], chosen["lr"], chosen["seed"]
    rows, left = rows_of_task(task, seed)
    batch = min(chosen["batch"], len(rows[0]))
    model = build_model(task.model_spec(), side_by_side=True)
    objective = Objective(model, task.loss())
    draw = batches(*rows, batch, seed)
    recipe = recipe_of(task.recipe(), settings, resume)
    optimizer = recipe.made(lr, steps)

    held_out = 0 if task.held_out is None else len(task.held_out[0])
    report.say(
        f"{task.name}: {task.encoding.kind}, {len(task.train[0]):,} rows to train on, "
        f"{held_out:,} held out, {len(task.encoding.columns)} inputs"
    )
    for line in task.said:
        report.say(line)
    if task.members is not None:
        report.say(_members_said(task.members))
    say_clamped(report, settings, steps, batch, rows=len(rows[0]))
    first = jax.tree.map(lambda a: a[0], draw(0, 1))
    kept = summary(model, first[0])
    report.table(kept.table())
    report.say(kept.total())
    if settings.check and resume is None:
        report.say("hand-written gradients beside jax.grad, on the first batch:")
        check = cross_check(objective, objective.init(jax.random.key(seed)), first)
        report.table(check.table())
        check.raise_if_wrong()

    config = {
        "fbp": fbp.__version__,
        "task": task.name,
        "name": run.folder.name,
        **chosen,
        "batch": batch,
        "recipe": recipe.to_json(),
        "label_smoothing": task.label_smoothing,
        "model": task.model_spec(),
        "encoding": task.encoding.to_json(),
        "data": fingerprint((task.train, task.held_out)),
        **noted(settings),
    }
    trained, drawn = prepared(objective, draw, batch, settings)
    layout = layout_of(trained, batch, settings, report)
    require_in_backward(objective, optimizer, first, settings)
    go_on_with(run, config, resume, report)
    tracked = Tracked(run, settings.track, config, report.say)

    # Where rows were set aside to choose by, the held-out ones are looked at once, at the end;
    # where there are none, they are shown on the way, and choose nothing.
    validates = left is not None
    evaluate = evaluator(objective, rows, left if validates else task.held_out)
    watch = "val_loss" if validates else "loss"

    def log(step: int, metrics: dict[str, float]) -> None:
        tracked.log(step, metrics)
        report.progress(step, steps, metrics)

    result = fit(
        trained,
        lambda: first_params(task, objective, rows, left, seed),
        optimizer,
        drawn,
        evaluate,
        watch=watch,
        patience=settings.patience or task.patience,
        # About what always the same answer gives: targets are standardized, and a label's
        # surprise is a few times 1 at most.
        usual=1.0 if task.members is not None else 0.0,
        log=log,
        # On a CPU, XLA runs a convolution several times slower inside a loop than outside.
        scan=task.image is None,
        layout=layout,
        **of_every_run(run, settings, config, resume, signals),
    )
    answers = build_model(task.model_spec())
    with signals.meanwhile(None):
        if validates and task.held_out is not None and result.signum is None:
            tested = evaluator(Objective(answers, task.loss()), task.held_out, None)(result.params)
            tested = {f"test_{name}": value for name, value in tested.items()}
            result = dataclasses.replace(result, metrics={**result.metrics, **tested})
        with unless_told(result):
            save_weights(run, result)
            if result.signum is None:
                predict = answering(answers, result.params.model)
                _score(run, task, predict, report)
                draw_picture(run, report, lambda: draw_run(task, run.metrics(), predict))
            seal(run, result, steps)
            say_which(run, result, report)
        tracked.close()
    is_line = task.members is not None and result.step == 0
    if is_line and result.last_step and result.signum is None:
        report.say(
            "no step was better on rows left out: the linear models that they began with are kept; "
            "more --steps, a larger --patience or a lower --lr may help"
        )
    return result


def rows_of_task(task: Task, seed: int) -> tuple[Arrays, Arrays | None]:
    """The rows to train on, and those that choose the best weights."""
    if task.members is None:
        return task.train, task.validation
    return folds(*task.train, task.members, seed)


def first_params(
    task: Task, objective: Objective, rows: Arrays, left: Arrays | None, seed: int
) -> ObjectiveParams:
    key = jax.random.key(seed)
    params = objective.init(key)
    if task.members is None or left is None:
        return params
    biases = jax.random.fold_in(key, 1)
    started = linear_start(params.model, rows, left, len(task.encoding.classes), biases)
    return params._replace(model=started)


def _members_said(members: int) -> str:
    if members == 1:
        return "a network that begins as a linear model; a fifth of the rows choose when to stop"
    return (
        f"{members} networks that begin as linear models, each leaves out other rows, which choose "
        "when to stop; the answer is their mean"
    )


def _score(
    run: Run, task: Task, predict: Callable[[np.ndarray], np.ndarray], report: Reporter
) -> None:
    """Saves and says how good the answers on held-out rows are; says what is not to be missed."""
    if task.held_out is not None:
        x, target = task.held_out
        reached = scores(task.encoding, predict(x), target, task.train[1])
        run.save_scores(reached.to_json())
        for line in reached.said("held out"):
            report.say(line)
    for line in task.said:
        if line.startswith(LOUD):
            report.say(line)  # again, as the first time is far above
