"""Gradient checkers beside each other, on rules with a planted bug and on rules that are right."""

from comparison._by_fbp import names as names
from comparison._case import Case as Case
from comparison._case import installed as installed
from comparison._floats import as_dtype as as_dtype
from comparison._floats import is_float as is_float
from comparison._floats import of_floats as of_floats
from comparison._main import main as main
from comparison._record import ERROR as ERROR
from comparison._record import SLOW as SLOW
from comparison._run import run as run
