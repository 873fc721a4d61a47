"""The step of a run that a command looks at."""

from pathlib import Path
from typing import Any


def step_of_run(folder: Path, text: str | None, rows: int, step: int | None) -> Any:
    """A step of a run or of a model's folder, as `fbp.explain` takes it.

    Args:
      folder: of the run or the model.
      text: of a language model, to learn from.
      rows: of other runs: how many rows of the training data.
      step: the checkpoint; None takes the best weights.

    Raises:
      InputError: the folder, the text or the checkpoint cannot be used; the message is one line.
    """
    from fbp.interop import read_config
    from fbp.train import InputError, Run
    from fbp.train._step_of_run import step_of_table, step_of_text

    config = read_config(folder)
    if "tokenizer" in config or "lora" in config or "model_type" in config:
        if text is None:
            raise InputError(f"{folder}: a language model: expected --text TEXT, to learn from")
        return step_of_text(folder, text, step)
    if text is not None:
        raise InputError(f"--text is of a language model, and {folder} is none: give --rows")
    run = Run(folder)
    run.require_whole()
    return step_of_table(run, task_of_run(folder), rows, step)


def task_of_run(folder: Path) -> Any:
    """The task that a run was trained on, its data read again."""
    from fbp.cli._train import Train

    return Train(resume=folder)._resumed().made_task()
