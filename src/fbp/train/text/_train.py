"""One training run of a language model, from its text to its folder."""

import dataclasses
import time

import jax
import numpy as np
import optax

import fbp
from fbp._layer import Params
from fbp._signals import Signals
from fbp.explainer import summary
from fbp.models import with_lora
from fbp.ports import trainable
from fbp.text import Choice
from fbp.train._loop import Fit, Metrics, fit
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
from fbp.train._picture import draw_text_run
from fbp.train._prepared import layout_of, prepared, recipe_of, require_in_backward, say_clamped
from fbp.train._run import Run
from fbp.train._settings import Reporter, Settings
from fbp.train._trackers import Tracked
from fbp.train.checkpoints import Checkpoint
from fbp.train.text._learned import learned
from fbp.train.text._model import TextModel
from fbp.train.text._recipe import text_evaluator, text_recipe
from fbp.train.text._task import TextTask
from fbp.verify import cross_check

# The samples generated during training: how many in a run, and their length.
SAMPLES, SAMPLE_TOKENS = 5, 160


def train_text(
    task: TextTask, settings: Settings, report: Reporter, signals: Signals | None = None
) -> tuple[Run, Fit]:
    """Checks the gradients, trains, generates samples meanwhile, and fills the run's folder.

    Raises:
      InputError: the run's folder cannot be made, or cannot be gone on with.
      WrongGradientError: a hand-written gradient disagrees with jax.grad; nothing is trained.
      FloatingPointError: the loss is not finite before the first update.
    """
    return in_folder(_train_in, task, settings, report, signals)


def _train_in(
    run: Run,
    task: TextTask,
    settings: Settings,
    report: Reporter,
    signals: Signals,
    resume: Checkpoint | None,
) -> Fit:
    chosen = resolved(settings, task, resume)
    steps, batch, lr, seed = (chosen[name] for name in ("steps", "batch", "lr", "seed"))
    text_model, params = start_of(task, seed)
    learns = learned(task, text_model.model, batch, seed)
    objective, draw = learns.objective, learns.draw

    report.say(
        f"{task.name}: {len(task.train):,} tokens of {task.data} to train on, "
        f"{len(task.val):,} held out, {task.tokenizer.vocab} kinds of them"
    )
    for line in (*task.said, *learns.said):
        report.say(line)
    say_clamped(report, settings, steps, batch)
    first = jax.tree.map(lambda a: a[0], draw(0, 1))
    kept = summary(objective.model, first[0])
    report.table(kept.table())
    report.say(kept.total())
    if settings.check and resume is None:
        report.say("hand-written gradients beside jax.grad, on a piece of the first batch:")
        check = cross_check(objective, params, jax.tree.map(lambda a: a[:2, :32], first))
        report.table(check.table())
        check.raise_if_wrong()

    recipe = recipe_of(text_recipe(steps), settings, resume)
    config = {
        "fbp": fbp.__version__,
        "task": task.name,
        "name": run.folder.name,
        "data": task.data,
        **chosen,
        "context": task.context,
        "recipe": recipe.to_json(),
        "lora": task.lora,
        "model": task.model_spec,
        "tokens": fingerprint((task.train, task.val, *(task.ends or ()))),
        **({"pack": True} if task.ends else {}),
        **noted(settings),
        # A pretrained model's tokenizer is saved with the model instead.
        **({} if task.start else {"tokenizer": task.tokenizer.to_json()}),
    }
    trained, drawn = prepared(objective, draw, batch, settings)
    layout = layout_of(trained, batch, settings, report)
    require_in_backward(objective, recipe.made(lr, steps), first, settings)
    go_on_with(run, config, resume, report)
    tracked = Tracked(run, settings.track, config, report.say)
    optimizer = recipe.made(lr, steps)
    if task.lora is not None:
        optimizer = optax.masked(optimizer, trainable(text_model.model))
    measure = text_evaluator(objective, task, batch)
    to_write = {round(steps * i / SAMPLES) for i in range(1, SAMPLES + 1)}
    clock = _Clock(batch * task.context)
    latest: Params = None
    evaluated = -1
    if resume is not None:
        evaluated = resume.content["evaluated"]
        clock.start(resume.step)

    def evaluate(params: Params) -> Metrics:
        nonlocal latest
        latest = jax.block_until_ready(params)
        clock.stop()
        return measure(params)

    def log(step: int, metrics: Metrics) -> None:
        tracked.log(step, {**metrics, **clock.speed(step)})
        # The speed comes first: of the metrics, the progress bar shows the loss and the last one.
        report.progress(step, steps, {**clock.speed(step), **metrics})
        nonlocal evaluated
        if any(evaluated < at <= step for at in to_write):
            text = write(text_model, latest, task, seed)
            run.add_sample(step, text)
            report.say(_quoted(text))
        evaluated = step
        clock.start(step)

    start = [params]
    del params  # so that `fit` alone has them
    result = fit(
        trained,
        start.pop,
        optimizer,
        drawn,
        evaluate,
        patience=settings.patience,
        log=log,
        layout=layout,
        **of_every_run(run, settings, config, resume, signals),
    )
    with signals.meanwhile(None), unless_told(result):
        if task.start is None:
            save_weights(run, result)
        else:
            task.start.save(run, text_model.model, result.params)
        if result.signum is None:
            draw_picture(run, report, lambda: draw_text_run(task.name, run.metrics()))
        seal(run, result, steps)
        tracked.close()
        say_which(run, result, report)
    return result


def start_of(task: TextTask, seed: int) -> tuple[TextModel, Params]:
    """The model and the parameters to start from."""
    key = jax.random.key(seed)
    if task.start is None:
        text_model = TextModel.from_spec(task.model_spec)
        return text_model, text_model.model.init(key)
    text_model, params = task.start.text_model, task.start.take()
    if task.lora is None:
        return text_model, params
    model, params = with_lora(text_model.model, params, key, rank=task.lora)
    return dataclasses.replace(text_model, model=model), params


def write(text_model: TextModel, params: Params, task: TextTask, seed: int) -> str:
    """Text generated after the first training token, always with the same key."""
    choice = Choice(temperature=0.8, vocab=task.tokenizer.vocab)
    key, stops = jax.random.key(seed), task.tokenizer.marks.stops
    ids = text_model.generate(params, task.train[:1], SAMPLE_TOKENS, key, choice, stops)
    return task.tokenizer.decode(np.concatenate([task.train[:1], ids]))


def _quoted(text: str) -> str:
    """Text as lines to print; unprintable characters other than a new line become dots."""
    shown = "".join(c if c.isprintable() or c == "\n" else "·" for c in text)
    return "\n".join(f"  | {line}" for line in shown.split("\n"))


class _Clock:
    """Tokens per second of training, without the time to evaluate and to generate samples.

    The first chunk includes compilation.
    """

    def __init__(self, tokens_per_step: int):
        self._tokens = tokens_per_step
        self.step = 0
        self._started: float | None = None
        self._seconds = 0.0

    def start(self, step: int) -> None:
        self.step, self._started = step, time.perf_counter()

    def stop(self) -> None:
        if self._started is not None:
            self._seconds = time.perf_counter() - self._started
            self._started = None

    def speed(self, step: int) -> Metrics:
        if step == self.step:
            return {}
        return {"tokens_per_second": (step - self.step) * self._tokens / self._seconds}
