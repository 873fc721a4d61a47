"""`fbp explain`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from fbp.cli._step import step_of_run

NEURON = "neuron"


@dataclasses.dataclass(frozen=True)
class Explain:
    """Show what happened in one step of backpropagation, layer by layer, with its true numbers.

    With --html FILE alone: a page to learn from, in chapters, from one neuron to a small GPT.
    """

    what: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="{neuron,RUN}", help_behavior_hint="(default: neuron)"),
    ] = None
    """The worked example of one neuron, or the folder of a run, as runs/digits, or of a model."""
    text: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = None
    """Of a language model: the text to learn from, required there."""
    rows: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """Of other runs: how many rows of the training data."""
    step: Annotated[
        int | None, tyro.conf.arg(metavar="K", help_behavior_hint="(default: the best weights)")
    ] = None
    """The checkpoint to look at."""
    html: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write a page to walk through the step with: one file, a new one, for any browser."""

    def run(self) -> int:
        """Prints the chain, and returns 1 if a rule is not what autodiff says, else 0."""
        from fbp._errors import InputError
        from fbp.explainer import explain

        if self.html is not None:
            _require_new(self.html)
            if self.what is None:
                return self._learn(self.html)
        what = NEURON if self.what is None else self.what
        if what == NEURON and not Path(NEURON).is_dir():
            explanation, title, tokens = _neuron(), "one neuron, y = w x + b", ()
            update, over = ("gradient descent with the learning rate 0.01",), None
        else:
            folder = Path(what)
            if not folder.is_dir():
                raise InputError(f"{folder}: expected neuron, or the folder of a run, got none")
            found = step_of_run(folder, self.text, self.rows, self.step)
            print(found.said)
            explanation = explain(
                found.objective,
                found.params,
                found.batch,
                optimizer=found.optimizer,
                state=found.state,
            )
            print(explanation)
            title, tokens, update = found.said, found.tokens or (), found.update
            over = None if self.html is None else _over_training(folder, found)
        if self.html is not None:
            _write(self.html, explanation.page(title, tokens, over, update))
        return 1 if explanation.wrong else 0

    def _learn(self, file: Path) -> int:
        from fbp._errors import InputError
        from fbp.explainer._learn import learn_page

        if self.text is not None or self.step is not None:
            raise InputError("--text and --step are of a run: expected RUN, its folder, with them")
        _write(file, learn_page(say=print))
        return 0


def _require_new(file: Path) -> None:
    """Says what is wrong with the name of a page before the step is explained.

    Raises:
      InputError: there is a file, or no folder for it.
    """
    from fbp._errors import InputError

    if file.exists() or file.is_symlink():
        raise InputError(f"--html {file}: expected the name of a new file, and it is there already")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--html {file}: expected a file in a folder, and there is no such folder")


def _over_training(folder: Path, found: Any) -> Any:
    """What became of the run, for its page; None where there are not two checkpoints."""
    from fbp.train import Run
    from fbp.train._over_training import over_training

    if not (folder / "steps").is_dir():
        return None
    over, said = over_training(Run(folder), found)
    for line in said:
        print(line)
    if over is not None:
        print(f"over training: {len(over.steps):,} of {over.there:,} checkpoints")
    return over


def _write(file: Path, page: str) -> None:
    from fbp._columns import size
    from fbp._errors import InputError

    try:
        with file.open("x", encoding="utf-8") as new:
            try:
                new.write(page)
                new.flush()
            except OSError:  # no half of a page stays
                file.unlink()
                raise
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise InputError(f"--html {file}: cannot write it: {said}") from None
    print(f"page: {file} ({size(len(page.encode()))})")


def _neuron() -> Any:
    import jax
    import jax.numpy as jnp
    import optax

    import fbp
    from fbp.explainer import explain

    objective = fbp.Objective(fbp.models.neuron(), fbp.MeanSquaredError())
    params = objective.init(jax.random.key(0))
    x, target = 2.1, 4.0
    batch = jnp.float32(x), jnp.float32(target)
    explanation = explain(objective, params, batch, optimizer=optax.sgd(0.01))
    print(f"one neuron y = w x + b, one example: x = {x}, target {target:g}\n{explanation}")
    return explanation
