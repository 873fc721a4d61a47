"""The command line: parse, call, print."""

import sys


def main(args: list[str] | None = None) -> int:
    """Runs `fbp`; if the packages of the command line are missing, says what to install."""
    try:
        from fbp.cli._main import main as run

        return run(args)
    except KeyboardInterrupt:
        print("fbp: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if error.name != "tyro":
            raise
        print('fbp: the command line needs its extra: pip install "fbp[train]"', file=sys.stderr)
        return 2
