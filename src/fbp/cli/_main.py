"""`fbp`: which command, and how a failure looks."""

import io
import sys

import tyro

from fbp.cli._audit import Audit
from fbp.cli._bench import Bench
from fbp.cli._check import Check
from fbp.cli._mutate import Mutate
from fbp.cli._predict import Predict
from fbp.cli._sample import Sample
from fbp.cli._train import Train


def main(args: list[str] | None = None) -> int:
    """Runs a command; every failure a user can mend is one line and a status of 2."""
    command = tyro.cli(
        Train | Predict | Sample | Check | Audit | Mutate | Bench,
        prog="fbp",
        description="Functional backprop for JAX: backward passes written by hand.",
        args=args,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot write is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return command.run()
    except Exception as error:
        if not _is_told(error):
            raise
        print(f"fbp: {error}", file=sys.stderr)
        return 2


def _is_told(error: Exception) -> bool:
    """Whether the message of an exception is all that a user needs."""
    from fbp.verify import WrongGradientError
    from fbp.verify.registry._named import CheckError

    if isinstance(error, CheckError | WrongGradientError | FloatingPointError | OSError):
        return True
    from fbp.interop import FolderError
    from fbp.train import InputError

    return isinstance(error, FolderError | InputError)
