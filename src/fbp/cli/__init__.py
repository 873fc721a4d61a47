"""The command line: parse, call, print."""

from fbp.cli._main import main as main
