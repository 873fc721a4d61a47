"""`fbp`: chooses the command, and prints errors."""

import io
import os
import sys

import tyro

from fbp._errors import InputError
from fbp.cli._audit import Audit
from fbp.cli._bench import Bench
from fbp.cli._check import Check
from fbp.cli._config_file import with_config
from fbp.cli._explain import Explain
from fbp.cli._look import Compare, Plot, Runs
from fbp.cli._lr_find import LrFind
from fbp.cli._mutate import Mutate
from fbp.cli._plan import Plan
from fbp.cli._predict import Predict
from fbp.cli._sample import Sample
from fbp.cli._train import Train, task_first


def main(args: list[str] | None = None) -> int:
    """Runs a command; an error that the user can fix prints one line and gives a status of 2."""
    args = sys.argv[1:] if args is None else args
    if args[:1] == ["train"]:
        try:
            args = ["train", *task_first(with_config(args[1:], Train))]
        except InputError as error:
            print(f"fbp: {error}", file=sys.stderr)
            return 2
    command = tyro.cli(
        Train
        | LrFind
        | Runs
        | Plot
        | Compare
        | Predict
        | Sample
        | Explain
        | Check
        | Audit
        | Mutate
        | Bench
        | Plan,
        prog="fbp",
        description="Functional backprop for JAX: backward passes written by hand.",
        args=args,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal cannot show must not end the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = command.run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # who reads has gone, as in `fbp runs | head`
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 141  # as a shell says of a program that SIGPIPE ends
    except Exception as error:
        if not _is_told(error):
            raise
        print(f"fbp: {error}", file=sys.stderr)
        return 2


def _is_told(error: Exception) -> bool:
    """Whether an exception is shown as its message only, without a traceback."""
    from fbp.verify import WrongGradientError
    from fbp.verify.registry._named import CheckError

    if isinstance(error, CheckError | WrongGradientError | FloatingPointError | OSError):
        return True
    from fbp.interop import FolderError

    return isinstance(error, FolderError | InputError)
