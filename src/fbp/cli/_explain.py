"""`fbp explain`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

NEURON = "neuron"


@dataclasses.dataclass(frozen=True)
class Explain:
    """Show what happened in one step of backpropagation, layer by layer, with its true numbers."""

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="{neuron,RUN}")] = NEURON
    """The worked example of one neuron, or the folder of a run, as runs/digits, or of a model."""
    text: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = None
    """Of a language model: the text to learn from, required there."""
    rows: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """Of other runs: how many rows of the training data."""
    step: Annotated[
        int | None, tyro.conf.arg(metavar="K", help_behavior_hint="(default: the best weights)")
    ] = None
    """The checkpoint to look at."""

    def run(self) -> int:
        """Prints the chain, and returns 1 if a rule is not what autodiff says, else 0."""
        from fbp.explainer import explain

        if self.what == NEURON and not Path(NEURON).is_dir():
            return _neuron()
        found = self._found()
        print(found.said)
        explanation = explain(found.objective, found.params, found.batch)
        print(explanation)
        return 1 if explanation.wrong else 0

    def _found(self) -> Any:
        from fbp.cli._train import Train
        from fbp.interop import read_config
        from fbp.train import InputError, Run
        from fbp.train._step_of_run import step_of_table, step_of_text

        folder = Path(self.what)
        if not folder.is_dir():
            raise InputError(f"{folder}: expected neuron, or the folder of a run, got none")
        config = read_config(folder)
        if "tokenizer" in config or "lora" in config or "model_type" in config:
            if self.text is None:
                raise InputError(f"{folder}: a language model: expected --text TEXT, to learn from")
            return step_of_text(folder, self.text, self.step)
        if self.text is not None:
            raise InputError(f"--text is of a language model, and {folder} is none: give --rows")
        run = Run(folder)
        run.require_whole()
        return step_of_table(run, Train(resume=folder)._resumed().made_task(), self.rows, self.step)


def _neuron() -> int:
    import jax
    import jax.numpy as jnp

    import fbp
    from fbp.explainer import explain
    from fbp.explainer._written import number, plain

    objective = fbp.Objective(fbp.models.neuron(), fbp.MeanSquaredError())
    params = objective.init(jax.random.key(0))
    rate, x, target = 0.01, 2.1, 4.0
    batch = jnp.float32(x), jnp.float32(target)
    explanation = explain(objective, params, batch)
    print(f"one neuron y = w x + b, one example: x = {x}, target {target:g}\n{explanation}")
    print(f"update, against the gradient, by the learning rate {rate}")
    new = jax.tree.map(lambda p, d: p - rate * d, params, explanation.grads)
    for name, before in params.model.items():
        step = f"{plain(before)} - {rate} * {number(explanation.grads.model[name])}"
        print(f"  {name:12} {step} = {plain(new.model[name])}")
    after = float(objective.value(new, batch))
    print(f"  {'loss':12} {plain(explanation.value)} -> {after:.6g}")
    return 1 if explanation.wrong else 0
